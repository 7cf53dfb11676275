"""Split off the held-out rows, and batch rows of similar length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from zerogen.data.records import Example, Input, derive

if TYPE_CHECKING:
    from torch import Tensor


def split_heldout(rows: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split rows into (train, held out): about `share` of each label held out, and no context on both sides.

    Rows without a context each stand for themselves. A label keeps at least one training row. Where one context holds
    so many rows that nothing can be held out whole, rows are split one by one.
    """
    counts = Counter(row.label for row in rows)
    target = {label: min(max(1, round(share * count)), count - 1) for label, count in counts.items()}

    def choose(groups: dict[str, list[int]]) -> set[int]:
        names = sorted(groups)
        Random(derive(seed, "heldout")).shuffle(names)
        held: Counter[str] = Counter()
        chosen: set[int] = set()
        for name in names:
            new = held + Counter(rows[i].label for i in groups[name])
            if all(new[label] <= target[label] for label in new):
                held = new
                chosen.update(groups[name])
        return chosen

    by_context: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_context.setdefault(f"row {i}" if row.context is None else f"context {row.context}", []).append(i)
    chosen = choose(by_context) or choose({f"row {i}": [i] for i in range(len(rows))})
    return [row for i, row in enumerate(rows) if i not in chosen], [row for i, row in enumerate(rows) if i in chosen]


class Buckets:
    """Batches of row indices of similar length, in a new seeded order each time it is iterated over.

    Rows are shuffled, sorted by length within windows of 50 batches, and the batches are shuffled again.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = Random(derive(self.seed, "epoch", self.epoch))
        self.epoch += 1
        order = list(range(len(self.lengths)))
        random.shuffle(order)
        window = 50 * self.batch_size
        order = [
            i
            for start in range(0, len(order), window)
            for i in sorted(order[start : start + window], key=self.lengths.__getitem__)
        ]
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        random.shuffle(batches)
        yield from batches


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return batches of row indices, longest rows first, for prediction."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def reads_types(tokenizer: Any) -> bool:
    """Tell whether the tokenizer's model wants to know which of two texts a token is of."""
    return "token_type_ids" in tokenizer.model_input_names


def inputs_of(rows: Sequence[Example], pair: bool) -> list[Input]:
    """Return what a TAM reads of rows: their texts, or of pairs (text, context)."""
    return [(row.text, row.context or "") if pair else row.text for row in rows]


def refuse_nan(scores: Tensor) -> None:
    """Raise FloatingPointError where a score is NaN."""
    if scores.isnan().any():
        raise FloatingPointError("a score of the task model is NaN")
