"""The tiny task model (TAM): fit, predict, save, load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zerogen.config import TamConfig, TaskConfig, TrainerConfig, check_tam, check_trainer
from zerogen.errors import UserError
from zerogen.lightning import quiet_lightning
from zerogen.models import (
    fingerprint,
    has_bfloat16,
    load_pretrained,
    quiet_loading,
    refuse_missing,
    resolve,
    tam_folder,
)
from zerogen.progress import Quiet
from zerogen.records import Example, Prediction, Span, derive
from zerogen.tam.bidaf import BidafConfig, BidafForQuestionAnswering, known_characters
from zerogen.tam.data import Buckets, by_length, collate, encode, reads_types, split_heldout
from zerogen.tam.learner import BestEpoch, Classifier, Learner, SpanLearner, span_logits
from zerogen.tam.lstm import SPECIAL, LstmConfig, LstmForSequenceClassification, add_words, word_tokenizer
from zerogen.tam.reader import best_spans, collate_windows, pick, windows_of
from zerogen.tam.vectors import check_vectors, read_vectors, words_of

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

Input = str | tuple[str, str]  # a text, or a text and its context
_OWN: dict[str, Any] = {"zerogen-lstm": LstmForSequenceClassification, "zerogen-bidaf": BidafForQuestionAnswering}


@dataclass(frozen=True, slots=True)
class FitReport:
    """rows and heldout: rows trained on and rows that picked the epoch; accuracy on the latter, None without any.

    In question answering that is the share of windows whose answer is found exactly.
    """

    rows: int
    heldout: int
    epoch: int
    heldout_accuracy: float | None


@dataclass(frozen=True)
class Use:
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

    def __init__(self, model: Any, tokenizer: Any, labels: Sequence[str], use: Use) -> None:
        self.model, self.tokenizer, self.labels, self.use = model.eval(), tokenizer, list(labels), use

    def predict(self, inputs: Sequence[Input], batch_size: int = 64, progress: Quiet | None = None) -> list[Any]:
        """Predict for each input: the `Prediction` for a text or a (text, context) pair, or the `Span` that answers a
        (question, context) pair.

        Texts that are too long are cut at their end; of long passages every part is read. Raises TypeError for inputs
        of another kind.
        """
        kind = self.use.kind
        if isinstance(inputs, str) or any(isinstance(one, str) != (kind == "classification") for one in inputs):
            wanted = "strings" if kind == "classification" else "pairs: (text, context)"
            raise TypeError(f"allowed is a list of {wanted}")
        with (progress or Quiet()).bar("predicting", len(inputs), "rows") as advance, torch.inference_mode():
            if kind == "qa":
                return self._spans([one for one in inputs if not isinstance(one, str)], batch_size, advance)
            return self._labels(inputs, batch_size, advance)

    def inputs_of(self, rows: Sequence[Example]) -> list[Input]:
        """Return what `predict` reads of rows."""
        return _inputs_of(self.use.kind, rows)

    def _run(self, batch: dict[str, torch.Tensor]) -> Any:
        device = self.model.device
        with torch.autocast(device.type, torch.bfloat16, enabled=half_precision(self.use.dtype, device)):
            return self.model(**{name: tensor.to(device) for name, tensor in batch.items()})

    def _labels(self, inputs: Sequence[Input], batch_size: int, advance: Any) -> list[Prediction]:
        encoded = encode(self.tokenizer, in_order(inputs, self.use.order))
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

    def _spans(self, inputs: Sequence[tuple[str, str]], batch_size: int, advance: Any) -> list[Span]:
        questions, passages = [one[0] for one in inputs], [one[1] for one in inputs]
        windows = windows_of(self.tokenizer, questions, passages, spelled=_spells(self.model))
        candidates: list[list[tuple[float, int, int]]] = [[] for _ in inputs]
        none = [float("inf")] * len(inputs)
        left = [0] * len(inputs)
        for window in windows:
            left[window.row] += 1
        for batch in by_length([len(window.ids) for window in windows], batch_size):
            tensors = _windows([windows[i] for i in batch], self.model, self.tokenizer)
            inside = tensors.pop("inside")
            del tensors["starts"], tensors["ends"]
            starts, ends = span_logits(self._run(tensors), inside.to(self.model.device))
            _refuse_nan(starts + ends)
            for i, first, last in zip(batch, starts.cpu(), ends.cpu(), strict=True):
                row = windows[i].row
                found, no_answer = best_spans(first, last, windows[i], self.use.answer_tokens)
                candidates[row] += found
                none[row] = min(none[row], no_answer)
                left[row] -= 1
                advance(int(not left[row]))
        return [
            pick(candidates[row], none[row] if self.use.none else None, passage) for row, passage in enumerate(passages)
        ]

    def save(self, folder: Path) -> None:
        """Write the folder that transformers' `from_pretrained` (for an LSTM or BiDAF: `load_tam`) opens."""
        with quiet_loading():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_tam(folder: str | Path, device: str | torch.device = "cpu", dtype: str = "auto") -> Tam:
    """Open a folder that `Tam.save` wrote, or the run folder around it.

    dtype: arithmetic of predictions, `float32` or `bfloat16`; `auto` is that of training. Raises `UserError` when the
    folder holds no trained task model.
    """
    from safetensors import SafetensorError
    from transformers import (
        AutoConfig,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    folder = tam_folder(Path(folder))
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind in _OWN:
            with quiet_loading():
                model, report = _OWN[kind].from_pretrained(folder, output_loading_info=True)
                refuse_missing(report)
            tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
        else:
            config = AutoConfig.from_pretrained(folder)
            names = config.architectures or ()
            reads = any("ForQuestionAnswering" in name for name in names)
            if not reads and not any("ForSequenceClassification" in name for name in names):
                raise UserError(f"TAM folder {folder}: holds {config.architectures}, not a trained task model")
            auto = AutoModelForQuestionAnswering if reads else AutoModelForSequenceClassification
            model, tokenizer = load_pretrained(auto, resolve(str(folder), None, "TAM"), "TAM", trained=True)
            if reads and not hasattr(config, "zerogen"):  # a reader that was trained elsewhere
                model.config.zerogen = {"kind": "qa"}
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"TAM folder {folder}: could not be loaded ({str(error).splitlines()[0]})") from error
    _bound(model, tokenizer)
    use = Use(**getattr(model.config, "zerogen", {}))
    labels = [] if use.kind == "qa" else [model.config.id2label[i] for i in range(model.config.num_labels)]
    return Tam(model.to(device), tokenizer, labels, use if dtype == "auto" else replace(use, dtype=dtype))


def identity(config: TamConfig) -> str:
    """Identify what training starts from, for hashes."""
    return "" if config.model is None else fingerprint(resolve(config.model, config.revision, "tam.model"))


def require(config: TamConfig, kind: str) -> None:
    """Raise `UserError` where the weights or vectors that training starts from cannot be had."""
    if config.kind == "encoder":
        _encoder(config, ["a", "b"], kind, 8)
    elif config.vectors is not None:
        check_vectors(Path(config.vectors))


def _inputs_of(kind: str, rows: Sequence[Example]) -> list[Input]:
    """Return what a TAM for a kind of task reads of rows: texts, or texts with their contexts."""
    return [row.text if kind == "classification" else (row.text, row.context or "") for row in rows]


def in_order(inputs: Sequence[Input], order: Sequence[str]) -> list[Input]:
    """Return (text, context) pairs with the one first that the TAM reads first; plain texts as they are."""
    if order[0] == "text":
        return list(inputs)
    return [one if isinstance(one, str) else (one[1], one[0]) for one in inputs]


def half_precision(dtype: str, device: torch.device) -> bool:
    """Say whether to compute in bfloat16: asked for, or `auto` on hardware that has it."""
    return has_bfloat16(device) if dtype == "auto" else dtype == "bfloat16"


def fit(
    rows: Sequence[Example],
    task: TaskConfig,
    tam: TamConfig,
    trainer: TrainerConfig,
    *,
    seed: int = 42,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    loggers: Sequence[Logger] = (),
    progress: Quiet | None = None,
) -> tuple[Tam, FitReport]:
    """Train a fresh TAM for a task on rows and return the weights of its best epoch on held-out rows.

    checkpoint: file that training is saved to after every epoch, and goes on from where it is there; the result is that
    of a training that was not interrupted. It must be of the same rows and configuration, and is deleted at the end.
    loggers: Lightning's; they get loss and learning rate by step, loss and accuracy on the held-out rows by epoch.
    Same rows, configuration and seed give the same weights on the same machine; torch's global random state is left as
    it was. Raises `UserError` when a row's label is not among the task's or there are no rows.
    """
    import pytorch_lightning as pl

    check_tam(tam)
    check_trainer(trainer)
    if not rows:
        raise UserError("there are no rows to train on")
    for row in rows:
        if row.label not in task.labels:
            raise UserError(f"row {row.uid}: label '{row.label}' is not among {', '.join(task.labels)}")
    device, progress = torch.device(device), progress or Quiet()
    train, heldout = split_heldout(rows, trainer.heldout, seed)
    cuda = [device.index or 0] if device.type == "cuda" else []
    unanswered = task.kind == "qa" and any(not row.answers for row in rows)
    use = Use(task.kind, list(task.order), tam.dtype, task.answer_tokens, unanswered)
    with torch.random.fork_rng(devices=cuda), quiet_lightning():
        torch.manual_seed(derive(seed, "tam"))
        if tam.kind == "lstm":
            model, tokenizer = _from_scratch(tam, task, train, progress)
        else:
            model, tokenizer = _encoder(tam, task.labels, task.kind, task.max_length)
        batches = _loader(model, tokenizer, train, task, trainer.batch_size, derive(seed, "batches"))
        checks = _loader(model, tokenizer, heldout, task, trainer.batch_size, None) if heldout else None
        learner: type[Learner] = SpanLearner if task.kind == "qa" else Classifier
        module = learner(model, trainer, steps=len(batches) * trainer.epochs)
        size = len(batches.dataset)
        what = "windows" if task.kind == "qa" else "rows"
        with progress.bar(f"training on {len(train):,} rows", size * trainer.epochs, what) as advance:
            best = BestEpoch(trainer.patience, advance)
            saving = [] if checkpoint is None else [_every_epoch(checkpoint)]
            going_on = checkpoint is not None and checkpoint.is_file()
            if going_on:
                progress.say(f"training on {len(train):,} rows goes on from its last finished epoch")
            lightning = pl.Trainer(
                accelerator="gpu" if cuda else "cpu",
                devices=cuda or 1,
                precision="bf16-mixed" if half_precision(tam.dtype, device) else "32-true",
                max_epochs=trainer.epochs,
                callbacks=[best, *saving],
                logger=list(loggers),
                log_every_n_steps=min(10, len(batches)),  # of a short training, too
                enable_checkpointing=False,  # its own would be written to the working directory
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            # Weights and numbers, and what a callback keeps, that this program wrote itself.
            lightning.fit(module, batches, checks, ckpt_path=str(checkpoint) if going_on else None, weights_only=False)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    model.config.zerogen = asdict(use)  # predictions after loading are made as they were here
    labels = [] if task.kind == "qa" else task.labels
    trained = Tam(model.to(device), tokenizer, labels, use)
    return trained, FitReport(len(train), len(heldout), best.epoch, best.accuracy)


def _every_epoch(checkpoint: Path) -> Any:
    """Return the callback that saves training to a file after every epoch, whole or not at all."""
    import pytorch_lightning as pl

    class EveryEpoch(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            part = checkpoint.with_suffix(".part")
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(part, weights_only=False)
            part.replace(checkpoint)

    return EveryEpoch()


def _from_scratch(tam: TamConfig, task: TaskConfig, rows: Sequence[Example], progress: Quiet) -> tuple[Any, Any]:
    """Return an untrained LSTM, or BiDAF, with the vocabulary of the rows."""
    texts = list(dict.fromkeys(text for row in rows for text in (row.text, row.context) if text))
    if task.kind == "classification":  # which never reads the context
        texts = [row.text for row in rows]
    tokenizer = word_tokenizer(texts, tam.vocabulary, reading=task.kind == "qa")
    tokenizer.model_max_length = task.max_length
    vectors: dict[int, torch.Tensor] = {}
    if tam.vectors:
        path, learned = Path(tam.vectors), len(tokenizer) - len(SPECIAL)
        known = len(read_vectors(path, tokenizer.get_vocab()))
        add_words(tokenizer, words_of(path), tam.vocabulary)
        vectors = read_vectors(path, tokenizer.get_vocab())
        more = len(vectors) - known
        progress.say(f"{path} has vectors for {known:,} of {learned:,} words of the training texts, and {more:,} more")
    embedding = len(next(iter(vectors.values()))) if vectors else tam.embedding
    hidden = tam.hidden or {"classification": 150, "pair": 300, "qa": 100}[task.kind]
    if task.kind == "qa":
        dropout = 0.2 if tam.dropout is None else tam.dropout
        reader = BidafConfig(len(tokenizer), known_characters(texts), embedding, hidden, dropout)
        model: Any = BidafForQuestionAnswering(reader)
        table = model.words
    else:
        pair = task.kind == "pair"
        names = dict(enumerate(task.labels))
        sizes = LstmConfig(
            len(tokenizer),
            embedding,
            hidden,
            0.5 if tam.dropout is None else tam.dropout,
            layers=2 if pair else 1,
            pair=pair,
            num_labels=len(names),
            id2label=names,
            label2id={label: i for i, label in names.items()},
        )
        model = LstmForSequenceClassification(sizes)
        table = model.embedding
    with torch.no_grad():
        for place, vector in vectors.items():
            table.weight[place] = vector
    return model, tokenizer


def _encoder(tam: TamConfig, labels: Sequence[str], kind: str, max_length: int) -> tuple[Any, Any]:
    """Return an untrained classifier or reader on top of the configured encoder."""
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    names = dict(enumerate(labels))
    head: dict[str, Any] = {
        "num_labels": len(names),
        "id2label": names,
        "label2id": {label: i for i, label in names.items()},
    }
    model, tokenizer = load_pretrained(
        AutoModelForQuestionAnswering if kind == "qa" else AutoModelForSequenceClassification,
        resolve(str(tam.model), tam.revision, "tam.model"),
        "tam.model",
        **({} if kind == "qa" else head),
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )
    _bound(model, tokenizer)
    tokenizer.model_max_length = min(max_length, tokenizer.model_max_length)
    return model, tokenizer


def _bound(model: Any, tokenizer: Any) -> None:
    """Let a tokenizer cut texts at the model's positions, and give both a padding token."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    # RoBERTa's table holds two rows more than it has positions; its tokenizer knows.
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    tokenizer.model_max_length = min(positions, tokenizer.model_max_length)


def _refuse_nan(scores: torch.Tensor) -> None:
    if scores.isnan().any():
        raise FloatingPointError("a score of the task model is NaN")


def _spells(model: Any) -> bool:
    """Tell whether a model reads the characters of words."""
    return hasattr(model.config, "characters")


def _windows(windows: Sequence[Any], model: Any, tokenizer: Any) -> dict[str, torch.Tensor]:
    """Collate windows for a model."""
    characters = {one: i + 2 for i, one in enumerate(model.config.characters)} if _spells(model) else None
    return collate_windows(windows, tokenizer.pad_token_id, reads_types(tokenizer), characters)


def _loader(
    model: Any, tokenizer: Any, rows: Sequence[Example], task: TaskConfig, batch_size: int, seed: int | None
) -> Any:
    """Return batches for training, in an order drawn by `seed`, or for a check (seed None)."""
    if task.kind == "qa":
        answers = [row.answers[0] if row.answers else None for row in rows]
        questions, passages = [row.text for row in rows], [row.context or "" for row in rows]
        items: list[Any] = windows_of(tokenizer, questions, passages, answers, _spells(model))
    else:
        inputs = _inputs_of(task.kind, rows)
        items = [
            replace(encoded, label=task.labels.index(row.label))
            for encoded, row in zip(encode(tokenizer, in_order(inputs, task.order)), rows, strict=True)
        ]
    lengths = [len(item.ids) for item in items]

    def collated(batch: Sequence[Any]) -> dict[str, torch.Tensor]:
        if task.kind == "qa":
            return _windows(batch, model, tokenizer)
        return collate(batch, tokenizer.pad_token_id)

    return torch.utils.data.DataLoader(
        items,  # type: ignore[arg-type]
        batch_sampler=by_length(lengths, batch_size) if seed is None else Buckets(lengths, batch_size, seed),
        collate_fn=collated,
        generator=torch.Generator(),  # else every epoch draws from the dropouts' random state
    )
