"""Heads that choose a label: of a text, or of a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zerogen.data.records import Example, Input, Prediction
from zerogen.tam.batches import by_length, inputs_of, reads_types, refuse_nan

if TYPE_CHECKING:
    from zerogen.config.task_schema import TaskConfig
    from zerogen.support.progress import Advance
    from zerogen.tam.table import Head
    from zerogen.tam.tam import Tam


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a text, or of a pair of them.

    types: 0 or 1 for the text of each token of a pair; None for a single text, or where the model does not read them.
    label: its index. weight: of the row in the training loss. target: the probability of each label, where that is to
    be learned instead of the label alone. row: its place among those that were encoded with it.
    """

    ids: list[int]
    types: list[int] | None
    label: int = 0
    weight: float = 1.0
    target: list[float] | None = None
    row: int = 0


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


def collate(rows: Sequence[Encoded], pad: int) -> dict[str, Tensor]:
    """Pad rows to input_ids and attention_mask [B, T], and also token_type_ids where they have types.

    Beside them stand labels, weights and rows (their places) [B], and targets [B, L] where any row has one.
    """
    width = max(1, *(len(row.ids) for row in rows))
    batch = {
        "input_ids": torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows]),
        "labels": torch.tensor([row.label for row in rows]),
        "weights": torch.tensor([row.weight for row in rows], dtype=torch.float32),
        "rows": torch.tensor([row.row for row in rows]),
    }
    size = next((len(row.target) for row in rows if row.target), 0)
    if size:
        batch["targets"] = torch.tensor(
            [row.target or [float(label == row.label) for label in range(size)] for row in rows]
        )
    types = [row.types for row in rows if row.types is not None]
    if types:
        batch["token_type_ids"] = torch.tensor([of + [0] * (width - len(of)) for of in types])
    return batch


def order_pair(inputs: Sequence[Input], order: Sequence[str]) -> list[Input]:
    """Return (text, context) pairs with the one first that the TAM reads first; plain texts as they are."""
    if order[0] == "text":
        return list(inputs)
    return [one if isinstance(one, str) else (one[1], one[0]) for one in inputs]


class LabelHead:
    """Chooses one of the task's labels; see `zerogen.tam.table.Head`."""

    spans = False
    unit = "rows"
    auto_model = "AutoModelForSequenceClassification"

    def __init__(self, pair: bool) -> None:
        self.pair = pair

    def config(self, labels: Sequence[str]) -> dict[str, Any]:
        names = dict(enumerate(labels))
        return {"num_labels": len(names), "id2label": names, "label2id": {label: i for i, label in names.items()}}

    def labels(self, config: Any) -> list[str]:
        return [config.id2label[i] for i in range(config.num_labels)]

    def unanswered(self, rows: Sequence[Example]) -> bool:
        return False

    def items(self, rows: Sequence[Example], task: TaskConfig, model: Any, tokenizer: Any) -> list[Encoded]:
        encoded = encode(tokenizer, order_pair(inputs_of(rows, self.pair), task.order))
        return [
            replace(
                item,
                label=task.labels.index(row.label),
                weight=row.weight,
                target=[row.target[label] for label in task.labels] if row.target else None,
                row=place,
            )
            for place, (item, row) in enumerate(zip(encoded, rows, strict=True))
        ]

    def collate(self, items: Sequence[Encoded], model: Any, tokenizer: Any) -> dict[str, Tensor]:
        return collate(items, tokenizer.pad_token_id)

    def outputs(self, model: Any, batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        beside = ("labels", "weights", "targets", "rows")
        inputs = {name: tensor for name, tensor in batch.items() if name not in beside}
        return [(model(**inputs).logits.float(), batch["labels"])]

    def predict(self, tam: Tam, inputs: Sequence[Input], batch_size: int, advance: Advance) -> list[Prediction]:
        encoded = encode(tam.tokenizer, order_pair(inputs, tam.spec.order))
        done: dict[int, Prediction] = {}
        for batch in by_length([len(row.ids) for row in encoded], batch_size):
            ((logits, _),) = tam.outputs([encoded[i] for i in batch])
            probabilities = logits.softmax(-1)
            refuse_nan(probabilities)
            for i, row in zip(batch, probabilities.tolist(), strict=True):
                done[i] = Prediction.of(dict(zip(tam.labels, row, strict=True)))
            advance(len(batch))
        return [done[i] for i in range(len(inputs))]


TEXT: Head = LabelHead(pair=False)
PAIR: Head = LabelHead(pair=True)
