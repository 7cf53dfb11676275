"""Pretrained encoders: whatever transformers' Auto classes open, with a new head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.errors import UserError
from zerogen.tam.table import HEADS, head_of

if TYPE_CHECKING:
    from zerogen.config.schema import TamConfig
    from zerogen.config.task_schema import TaskConfig
    from zerogen.data.records import Example
    from zerogen.support.progress import Progress


class Encoder:
    """The TAM that starts from `tam.model`."""

    @staticmethod
    def check(config: TamConfig, kind: str) -> None:
        """Raise `UserError` for word vectors, and where no weights are named."""
        if config.vectors:
            raise UserError(f"tam.vectors={config.vectors}: an encoder has its own; allowed with tam=lstm")
        if not config.model:
            raise UserError("tam.model: has no value; an encoder needs a Hub id, a folder or package:NAME")

    @staticmethod
    def require(config: TamConfig, kind: str) -> None:
        """Raise `UserError` where the weights cannot be loaded."""
        _load(config, kind, ["a", "b"])

    @staticmethod
    def build(config: TamConfig, task: TaskConfig, rows: Sequence[Example], progress: Progress) -> tuple[Any, Any]:
        """Return the encoder with an untrained head."""
        return _load(config, task.kind, task.labels)

    @staticmethod
    def open(folder: Path) -> tuple[Any, Any]:
        """Open a folder by its architecture. Raises `UserError` where that has no head of ours."""
        import transformers

        from zerogen.support.weights import refuse_missing

        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        names = config.architectures or ()
        kinds = [kind for kind in HEADS if any(_architecture(kind) in name for name in names)]
        if not kinds:
            raise UserError(f"TAM folder {folder}: holds {config.architectures}, not a trained task model")
        auto_model = getattr(transformers, head_of(kinds[0]).auto_model)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model, report = auto_model.from_pretrained(
            folder, config=config, output_loading_info=True, trust_remote_code=False
        )
        refuse_missing(report)
        if not hasattr(config, "zerogen"):  # trained elsewhere
            model.config.zerogen = {"kind": kinds[0]}
        return model, tokenizer


def _architecture(kind: str) -> str:
    return head_of(kind).auto_model.removeprefix("AutoModel")


def _load(config: TamConfig, kind: str, labels: Sequence[str]) -> tuple[Any, Any]:
    import torch
    import transformers

    from zerogen.support.weights import load_pretrained, resolve

    head = head_of(kind)
    return load_pretrained(
        getattr(transformers, head.auto_model),
        resolve(str(config.model), config.revision, "tam.model"),
        "tam.model",
        **head.config(labels),
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )
