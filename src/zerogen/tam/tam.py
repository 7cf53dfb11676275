"""The tiny task model (TAM): predict, save, load; training is in `zerogen.tam.fit`, as only it needs Lightning."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from zerogen.data.records import Example, Input
from zerogen.errors import UserError
from zerogen.support.doors import is_own
from zerogen.support.files import expanded, writing
from zerogen.support.progress import Progress
from zerogen.support.weights import has_bfloat16, quiet_loading, tam_folder, why_not_loaded
from zerogen.tam.batches import inputs_of
from zerogen.tam.table import head_of, tam_of, usual_tam


@dataclass(frozen=True)
class TamSpec:
    """How a TAM is used, kept in its configuration.

    kind: that of the task. order: which of the two texts of a pair comes first. dtype: arithmetic of predictions.
    answer_tokens: longest answer. none: whether a question may have no answer. tam: `tam.kind`, what opens it.
    """

    kind: str = "classification"
    order: list[str] = field(default_factory=lambda: ["context", "text"])
    dtype: str = "auto"
    answer_tokens: int = 30
    none: bool = False
    tam: str = "encoder"

    def saved(self, model_type: str) -> dict[str, Any]:
        """Return what a configuration of a model_type is to say: not what TAM it is where its type tells that."""
        return {key: value for key, value in asdict(self).items() if key != "tam" or value != usual_tam(model_type)}


class Tam:
    """A trained task model with its tokenizer; build it with `fit` or `load_tam`.

    labels: of a classifier, in the order of its outputs.
    """

    def __init__(self, model: Any, tokenizer: Any, labels: Sequence[str], spec: TamSpec) -> None:
        self.model, self.tokenizer, self.labels, self.spec = model.eval(), tokenizer, list(labels), spec
        self.head = head_of(spec.kind)

    @property
    def kind(self) -> str:
        return self.spec.kind

    def predict(self, inputs: Sequence[Input], batch_size: int = 64, progress: Progress | None = None) -> list[Any]:
        """Predict a `Prediction` for each text or (text, context) pair, an `AnswerPrediction` for each question.

        Texts that are too long are cut at their end; of long passages every part is read. Raises TypeError for inputs
        of another kind.
        """
        pair = self.head.pair
        if isinstance(inputs, str) or any(isinstance(one, str) == pair for one in inputs):
            raise TypeError(f"allowed is a list of {'pairs: (text, context)' if pair else 'strings'}")
        with (progress or Progress()).bar("predicting", len(inputs), "rows") as advance, torch.inference_mode():
            return self.head.predict(self, inputs, batch_size, advance)

    def inputs_of(self, rows: Sequence[Example]) -> list[Input]:
        """Return what `predict` reads of rows."""
        return inputs_of(rows, self.head.pair)

    def outputs(self, items: Sequence[Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the head's logits (and targets) of encoded items, in the arithmetic of predictions."""
        device = self.model.device
        batch = self.head.collate(items, self.model, self.tokenizer)
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(self.spec.dtype, device)):
            return self.head.outputs(self.model, {name: tensor.to(device) for name, tensor in batch.items()})

    def save(self, folder: Path) -> None:
        """Write the folder that transformers' `from_pretrained` (of other TAMs than encoders: `load_tam`) opens.

        Raises OSError where it cannot be written.
        """
        with writing(folder), quiet_loading():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)


def load_tam(folder: str | Path, device: str | torch.device = "cpu", dtype: str = "auto") -> Tam:
    """Open a folder that `Tam.save` wrote, or the run folder around it. Code that comes with a folder never runs.

    A TAM of a user's own kind needs its module, as training did: in the working directory or installed.
    dtype: arithmetic of predictions, `float32` or `bfloat16`; `auto` is that of training. Raises `UserError` when the
    folder holds no trained task model.
    """
    folder = tam_folder(Path(expanded(str(folder), "folder")))
    name = _tam_in(folder)
    tam = tam_of(name, f"TAM folder {folder}: tam.kind")
    try:
        with quiet_loading():
            model, tokenizer = tam.open(folder)
        bound(model, tokenizer)
        spec = TamSpec(**{"tam": name} | getattr(model.config, "zerogen", {}))
        labels = head_of(spec.kind).labels(model.config)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever transformers, torch and tokenizers make of a foreign or damaged folder
        raise UserError(f"TAM folder {folder}: could not be loaded ({why_not_loaded(error)})") from error
    return Tam(model.to(device), tokenizer, labels, spec if dtype == "auto" else replace(spec, dtype=dtype))


def _tam_in(folder: Path) -> str:
    """Return the name of the TAM in a folder. Raises `UserError` where loading it would run code of the folder."""
    config = _config_of(folder)
    spec = config.get("zerogen")
    name = str(spec.get("tam") or "") if isinstance(spec, dict) else ""
    if not is_own(name):
        return name or usual_tam(config.get("model_type"))
    run = any((folder.parent / file).is_file() for file in ("config.yaml", "result.json"))
    around = (folder.parent if folder.name == "tam" and run else folder).resolve()
    module = name.partition(":")[0].split(".")
    places = (Path(place, *module) for place in (str(Path.cwd()), *sys.path))
    if any(place.resolve().is_relative_to(around) for place in places):
        raise UserError(
            f"TAM folder {folder}: tam.kind={name}: its module would be looked for in {around}, whose code never runs; "
            "allowed is another working directory"
        )
    return name


def _config_of(folder: Path) -> dict[str, Any]:
    """Read config.json. Raises `UserError` for anything but a JSON object."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON in UTF-8 ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: allowed is a JSON object, found {type(config).__name__}")
    return config


def uses_bfloat16(dtype: str, device: torch.device) -> bool:
    """Say whether to compute in bfloat16: asked for, or `auto` on hardware that has it."""
    return has_bfloat16(device) if dtype == "auto" else dtype == "bfloat16"


def bound(model: Any, tokenizer: Any) -> None:
    """Let a tokenizer cut texts at the model's positions, and give both a padding token."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    # RoBERTa's table holds two rows more than it has positions; its tokenizer knows.
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    tokenizer.model_max_length = min(positions, tokenizer.model_max_length)
