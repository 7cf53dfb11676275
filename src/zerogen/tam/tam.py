"""The tiny task model (TAM): predict, save, load. Training is `zerogen.tam.fit`: what predicts needs no Lightning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zerogen.errors import UserError
from zerogen.files import expanded, writing
from zerogen.models import (
    has_bfloat16,
    quiet_loading,
    tam_folder,
    why_not_loaded,
)
from zerogen.progress import Progress
from zerogen.records import AnswerPrediction, Example, Prediction
from zerogen.tam.data import by_length, collate, encode, reads_types
from zerogen.tam.reader import Window, best_spans, collate_windows, pick, span_logits, windows_of

if TYPE_CHECKING:
    pass

Input = str | tuple[str, str]  # a text, or a text and its context


@dataclass(frozen=True)
class TamSpec:
    """How a TAM is used, kept in its configuration.

    kind: that of the task. order: which of the two texts of a pair comes first. dtype: arithmetic of predictions.
    answer_tokens: longest answer. none: whether a question may have no answer.
    """

    kind: str = "classification"
    order: list[str] = field(default_factory=lambda: ["context", "text"])
    dtype: str = "auto"
    answer_tokens: int = 30
    none: bool = False


class Tam:
    """A trained task model with its tokenizer; build it with `fit` or `load_tam`.

    labels: of a classifier, in the order of its outputs.
    """

    def __init__(self, model: Any, tokenizer: Any, labels: Sequence[str], spec: TamSpec) -> None:
        self.model, self.tokenizer, self.labels, self.spec = model.eval(), tokenizer, list(labels), spec

    def predict(self, inputs: Sequence[Input], batch_size: int = 64, progress: Progress | None = None) -> list[Any]:
        """Predict a `Prediction` for each text or (text, context) pair, an `AnswerPrediction` for each question.

        Texts that are too long are cut at their end; of long passages every part is read. Raises TypeError for inputs
        of another kind.
        """
        kind = self.spec.kind
        if isinstance(inputs, str) or any(isinstance(one, str) != (kind == "classification") for one in inputs):
            wanted = "strings" if kind == "classification" else "pairs: (text, context)"
            raise TypeError(f"allowed is a list of {wanted}")
        with (progress or Progress()).bar("predicting", len(inputs), "rows") as advance, torch.inference_mode():
            if kind == "qa":
                return self._spans([one for one in inputs if not isinstance(one, str)], batch_size, advance)
            return self._labels(inputs, batch_size, advance)

    def inputs_of(self, rows: Sequence[Example]) -> list[Input]:
        """Return what `predict` reads of rows."""
        return inputs_of(self.spec.kind, rows)

    def _run(self, batch: dict[str, torch.Tensor]) -> Any:
        device = self.model.device
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(self.spec.dtype, device)):
            return self.model(**{name: tensor.to(device) for name, tensor in batch.items()})

    def _labels(self, inputs: Sequence[Input], batch_size: int, advance: Any) -> list[Prediction]:
        encoded = encode(self.tokenizer, order_pair(inputs, self.spec.order))
        done: dict[int, Prediction] = {}
        for batch in by_length([len(row.ids) for row in encoded], batch_size):
            tensors = collate([encoded[i] for i in batch], self.tokenizer.pad_token_id)
            del tensors["labels"]
            probabilities = self._run(tensors).logits.float().softmax(-1)
            _refuse_nan(probabilities)
            for i, row in zip(batch, probabilities.tolist(), strict=True):
                done[i] = Prediction.of(dict(zip(self.labels, row, strict=True)))
            advance(len(batch))
        return [done[i] for i in range(len(inputs))]

    def _spans(self, inputs: Sequence[tuple[str, str]], batch_size: int, advance: Any) -> list[AnswerPrediction]:
        questions, passages = [one[0] for one in inputs], [one[1] for one in inputs]
        windows = windows_of(self.tokenizer, questions, passages, spelled=spells(self.model))
        candidates: list[list[tuple[float, int, int]]] = [[] for _ in inputs]
        none = [float("inf")] * len(inputs)
        left = [0] * len(inputs)
        for window in windows:
            left[window.row] += 1
        for batch in by_length([len(window.ids) for window in windows], batch_size):
            tensors = window_batch([windows[i] for i in batch], self.model, self.tokenizer)
            inside = tensors.pop("inside")
            del tensors["starts"], tensors["ends"]
            starts, ends = span_logits(self._run(tensors), inside.to(self.model.device))
            _refuse_nan(starts + ends)
            for i, first, last in zip(batch, starts.cpu(), ends.cpu(), strict=True):
                row = windows[i].row
                found, no_answer = best_spans(first, last, windows[i], self.spec.answer_tokens)
                candidates[row] += found
                none[row] = min(none[row], no_answer)
                left[row] -= 1
                advance(int(not left[row]))
        return [
            pick(candidates[row], none[row] if self.spec.none else None, passage)
            for row, passage in enumerate(passages)
        ]

    def save(self, folder: Path) -> None:
        """Write the folder that transformers' `from_pretrained` (for an LSTM or BiDAF: `load_tam`) opens.

        Raises OSError where it cannot be written.
        """
        with writing(folder), quiet_loading():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)


def load_tam(folder: str | Path, device: str | torch.device = "cpu", dtype: str = "auto") -> Tam:
    """Open a folder that `Tam.save` wrote, or the run folder around it. Code that comes with a folder never runs.

    dtype: arithmetic of predictions, `float32` or `bfloat16`; `auto` is that of training. Raises `UserError` when the
    folder holds no trained task model.
    """
    folder = tam_folder(Path(expanded(str(folder), "folder")))
    own = _own_model(_config_of(folder).get("model_type"))
    try:
        with quiet_loading():
            model, tokenizer = _load_transformers(folder) if own is None else _load_own(folder, own)
        bound(model, tokenizer)
        spec = TamSpec(**getattr(model.config, "zerogen", {}))
        labels = [] if spec.kind == "qa" else [model.config.id2label[i] for i in range(model.config.num_labels)]
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever transformers, torch and tokenizers make of a foreign or damaged folder
        raise UserError(f"TAM folder {folder}: could not be loaded ({why_not_loaded(error)})") from error
    return Tam(model.to(device), tokenizer, labels, spec if dtype == "auto" else replace(spec, dtype=dtype))


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


def _own_model(model_type: object) -> Any:
    """Return the class of a model that transformers does not have; None for one that it may have."""
    if model_type == "zerogen-lstm":
        from zerogen.tam.lstm import LstmForSequenceClassification

        return LstmForSequenceClassification
    if model_type == "zerogen-bidaf":
        from zerogen.tam.bidaf import BidafForQuestionAnswering

        return BidafForQuestionAnswering
    return None


def _load_own(folder: Path, model_class: Any) -> tuple[Any, Any]:
    from transformers import PreTrainedTokenizerFast

    model, report = model_class.from_pretrained(folder, output_loading_info=True, trust_remote_code=False)
    _refuse_missing(report)
    return model, PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)


def _load_transformers(folder: Path) -> tuple[Any, Any]:
    from transformers import (
        AutoConfig,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    names = config.architectures or ()
    reads = any("ForQuestionAnswering" in name for name in names)
    if not reads and not any("ForSequenceClassification" in name for name in names):
        raise UserError(f"TAM folder {folder}: holds {config.architectures}, not a trained task model")
    auto = AutoModelForQuestionAnswering if reads else AutoModelForSequenceClassification
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model, report = auto.from_pretrained(folder, config=config, output_loading_info=True, trust_remote_code=False)
    _refuse_missing(report)
    if reads and not hasattr(config, "zerogen"):  # a reader that was trained elsewhere
        model.config.zerogen = {"kind": "qa"}
    return model, tokenizer


def _refuse_missing(report: dict[str, Any]) -> None:
    """Raise ValueError where transformers' report of loading names weights that were not there."""
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]}")


def inputs_of(kind: str, rows: Sequence[Example]) -> list[Input]:
    """Return what a TAM for a kind of task reads of rows: texts, or texts with their contexts."""
    return [row.text if kind == "classification" else (row.text, row.context or "") for row in rows]


def order_pair(inputs: Sequence[Input], order: Sequence[str]) -> list[Input]:
    """Return (text, context) pairs with the one first that the TAM reads first; plain texts as they are."""
    if order[0] == "text":
        return list(inputs)
    return [one if isinstance(one, str) else (one[1], one[0]) for one in inputs]


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


def spells(model: Any) -> bool:
    """Tell whether a model reads the characters of words."""
    return hasattr(model.config, "characters")


def window_batch(windows: Sequence[Window], model: Any, tokenizer: Any) -> dict[str, torch.Tensor]:
    """Collate windows for a model."""
    characters = {one: i + 2 for i, one in enumerate(model.config.characters)} if spells(model) else None
    return collate_windows(windows, tokenizer.pad_token_id, reads_types(tokenizer), characters)


def _refuse_nan(scores: torch.Tensor) -> None:
    if scores.isnan().any():
        raise FloatingPointError("a score of the task model is NaN")
