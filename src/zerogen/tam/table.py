"""The tables of TAMs (`tam.kind`) and of heads (by kind of task), and what each of them must offer."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zerogen.errors import UserError, unknown
from zerogen.support.doors import load

if TYPE_CHECKING:
    from torch import Tensor

    from zerogen.config.schema import TamConfig
    from zerogen.config.task_schema import TaskConfig
    from zerogen.data.records import Example, Input
    from zerogen.support.progress import Advance, Progress
    from zerogen.tam.tam import Tam

TAMS = {"encoder": "zerogen.tam.encoder.Encoder", "lstm": "zerogen.tam.scratch.Scratch"}
# Whose folders do not name their TAM, since their model_type tells it; every other one is an encoder's.
_BY_MODEL_TYPE = {"zerogen-lstm": "lstm", "zerogen-bidaf": "lstm"}
HEADS = {
    "classification": "zerogen.tam.labels.TEXT",
    "pair": "zerogen.tam.labels.PAIR",
    "qa": "zerogen.tam.spans.SPANS",
}


class TamKind(Protocol):
    """What `tam.kind` names: how a task model is checked, built and opened. Everything else is the same for all.

    A model is a transformers `PreTrainedModel` with a tokenizer of transformers. It takes input_ids and attention_mask
    [B, T], and token_type_ids where its tokenizer names them; it returns logits [B, labels], or for questions
    start_logits and end_logits [B, T].
    """

    def check(self, config: TamConfig, kind: str) -> None:
        """Raise `UserError` for a configuration, or a kind of task, that it cannot serve."""

    def require(self, config: TamConfig, kind: str) -> None:
        """Raise `UserError` where what training starts from cannot be had."""

    def build(
        self, config: TamConfig, task: TaskConfig, rows: Sequence[Example], progress: Progress
    ) -> tuple[Any, Any]:
        """Return an untrained (model, tokenizer) for a task; rows: those that it will be trained on."""

    def open(self, folder: Path) -> tuple[Any, Any]:
        """Return the trained (model, tokenizer) that `save_pretrained` wrote to a folder."""


class Head(Protocol):
    """What a kind of task makes of rows, of a model's outputs, and of inputs to predict.

    pair: whether an input is two texts. spans: whether the model points at the first and the last token of a span (its
    first token then stands for no answer) instead of choosing a label. unit: what an item is, for the progress bar.
    auto_model: transformers' class that opens an encoder with such a head.
    """

    pair: bool
    spans: bool
    unit: str
    auto_model: str

    def config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return what the model's configuration says about the labels."""

    def labels(self, config: Any) -> list[str]:
        """Return the labels that a model's configuration names, in the order of its outputs."""

    def unanswered(self, rows: Sequence[Example]) -> bool:
        """Tell whether an input may have no answer."""

    def items(self, rows: Sequence[Example], task: TaskConfig, model: Any, tokenizer: Any) -> list[Any]:
        """Encode rows as items, which have `ids`, targets, and the `weight` of their row."""

    def collate(self, items: Sequence[Any], model: Any, tokenizer: Any) -> dict[str, Tensor]:
        """Pad items to a batch: what the model reads, the targets, and weights [B]."""

    def outputs(self, model: Any, batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return what a model is trained on: pairs of float32 logits [B, C] and targets [B]."""

    def predict(self, tam: Tam, inputs: Sequence[Input], batch_size: int, advance: Advance) -> list[Any]:
        """Return a prediction for each input."""


_CALLED_WITH = {
    "check": ("config", "kind"),
    "require": ("config", "kind"),
    "build": ("config", "task", "rows", "progress"),
    "open": ("folder",),
}


def tam_of(name: str, what: str = "tam.kind") -> TamKind:
    """Return the TAM that a name stands for. Raises `UserError` where it stands for none; `what` names the key."""
    found: TamKind = load(what, name, TAMS)
    if missing := [method for method in _CALLED_WITH if not callable(getattr(found, method, None))]:
        raise UserError(f"{what}={name}: has no {' and no '.join(missing)}; a TAM has {', '.join(_CALLED_WITH)}")
    for method, arguments in _CALLED_WITH.items():
        try:
            inspect.signature(getattr(found, method)).bind(*arguments)
        except TypeError as error:
            allowed = f"{method}({', '.join(arguments)})"
            raise UserError(f"{what}={name}: cannot be called as {allowed}: {error} (is it @staticmethod?)") from error
    return found


def check_kind(config: TamConfig, kind: str) -> None:
    """Check that `tam.kind` names a TAM, which can serve a kind of task. Raises `UserError`."""
    tam_of(config.kind).check(config, kind)


def usual_tam(model_type: object) -> str:
    """Return the name of the TAM that a model is of whose configuration does not name it."""
    return _BY_MODEL_TYPE.get(str(model_type), "encoder")


def head_of(kind: str) -> Head:
    """Return the head of a kind of task. Raises `UserError` for a kind that there is not."""
    if kind not in HEADS:  # which may come from a folder of somebody else's
        raise unknown("task.kind", kind, HEADS)
    head: Head = load("task.kind", kind, HEADS)
    return head
