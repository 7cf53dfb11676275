"""Rows for the tiny task model: the held-out split, and batches of rows of similar length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from zerogen.records import Example, derive


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


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a text, or of a pair of them.

    types: 0 or 1 for the text of each token of a pair; None for a single text, or where the model does not read them.
    """

    ids: list[int]
    types: list[int] | None
    label: int = 0


def encode(tokenizer: Any, texts: Sequence[str | tuple[str, str]]) -> list[Encoded]:
    """Encode texts, or pairs in the TAM's order, cut at the tokenizer's maximum; of a pair the longer text is cut."""
    pairs = [one for one in texts if not isinstance(one, str)]
    if not texts:
        return []
    if not pairs:
        found = tokenizer(list(texts), truncation=True, return_attention_mask=False, return_token_type_ids=False)
        return [Encoded(ids, None) for ids in found["input_ids"]]
    found = tokenizer(
        [first for first, _ in pairs],
        [second for _, second in pairs],
        truncation="longest_first",
        return_attention_mask=False,
        return_token_type_ids=reads_types(tokenizer),
    )
    types = found.get("token_type_ids") or [None] * len(texts)
    return [Encoded(ids, of) for ids, of in zip(found["input_ids"], types, strict=True)]


def reads_types(tokenizer: Any) -> bool:
    """Tell whether the tokenizer's model wants to know which of two texts a token is of."""
    return "token_type_ids" in tokenizer.model_input_names


def collate(rows: Sequence[Encoded], pad: int) -> dict[str, Tensor]:
    """Pad rows to input_ids and attention_mask (token_type_ids, too, where rows have types) [B, T] and labels [B]."""
    width = max(1, *(len(row.ids) for row in rows))
    batch = {
        "input_ids": torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows]),
        "labels": torch.tensor([row.label for row in rows]),
    }
    types = [row.types for row in rows if row.types is not None]
    if types:
        batch["token_type_ids"] = torch.tensor([of + [0] * (width - len(of)) for of in types])
    return batch
