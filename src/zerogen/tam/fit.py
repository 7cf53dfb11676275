"""Training of a tiny task model (TAM)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch

from zerogen.config import TamConfig, TaskConfig, TrainerConfig, check_tam, check_trainer
from zerogen.errors import UserError
from zerogen.files import expanded, put_aside, writing
from zerogen.lightning import quiet_lightning
from zerogen.models import load_pretrained, resolve
from zerogen.progress import Progress
from zerogen.records import Example, derive
from zerogen.tam.data import Buckets, by_length, collate, encode, split_heldout
from zerogen.tam.learner import BestEpoch, Classifier, Learner, SpanLearner
from zerogen.tam.reader import windows_of
from zerogen.tam.tam import Tam, TamSpec, bound, inputs_of, order_pair, spells, uses_bfloat16, window_batch

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger


@dataclass(frozen=True, slots=True)
class FitReport:
    """rows and heldout: rows trained on and rows that picked the epoch; accuracy on the latter, None without any.

    In question answering that is the share of windows whose answer is found exactly.
    """

    rows: int
    heldout: int
    epoch: int
    heldout_accuracy: float | None


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
    progress: Progress | None = None,
) -> tuple[Tam, FitReport]:
    """Train a fresh TAM for a task on rows and return the weights of its best epoch on held-out rows.

    checkpoint: file that training is saved to after every epoch, and goes on from where it is there; the result is that
    of a training that was not interrupted. It must be of the same rows and configuration, and is deleted at the end.
    One that cannot be gone on from is renamed to end in `.damaged`, and training begins again.
    loggers: Lightning's; they get loss and learning rate by step, loss and accuracy on the held-out rows by epoch.
    Same rows, configuration and seed give the same weights on the same machine; torch's global random state is left as
    it was. Raises `UserError` when a row's label is not among the task's or there are no rows.
    """
    check_tam(tam)
    check_trainer(trainer)
    if not rows:
        raise UserError("there are no rows to train on")
    for row in rows:
        if row.label not in task.labels:
            raise UserError(f"row {row.uid}: label '{row.label}' is not among {', '.join(task.labels)}")
    if missing := [f"'{label}'" for label in task.labels if all(row.label != label for row in rows)]:
        said = f"no training row has label {' or '.join(missing)}"
        if progress is None:
            warnings.warn(said, stacklevel=3)  # of who called `zerogen.fit`
        else:
            progress.say(said)
    device, progress = torch.device(device), progress or Progress()
    train, heldout = split_heldout(rows, trainer.heldout, seed)
    cuda = [device.index or 0] if device.type == "cuda" else []
    unanswered = task.kind == "qa" and any(not row.answers for row in rows)
    spec = TamSpec(task.kind, list(task.order), tam.dtype, task.answer_tokens, unanswered)

    def attempt(going_on: Path | None) -> tuple[Any, Any, BestEpoch]:
        """Train to the end. Raises `_Damaged` where the checkpoint to go on from is of no spec."""
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
            best, begun = BestEpoch(trainer.patience, advance), _Begun(going_on, progress, len(train))
            lightning = pl.Trainer(
                accelerator="gpu" if cuda else "cpu",
                devices=cuda or 1,
                precision="bf16-mixed" if uses_bfloat16(tam.dtype, device) else "32-true",
                max_epochs=trainer.epochs,
                callbacks=[best, begun, *([] if checkpoint is None else [_every_epoch(checkpoint)])],
                logger=list(loggers),
                log_every_n_steps=min(10, len(batches)),  # of a short training, too
                enable_checkpointing=False,  # its own would be written to the working directory
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            try:
                # weights_only: nothing that a checkpoint holds is run.
                lightning.fit(module, batches, checks, ckpt_path=going_on and str(going_on), weights_only=True)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                disk = isinstance(error, OSError) and error.errno is not None
                if going_on is None or begun.yes or disk:  # not what the checkpoint holds
                    raise
                raise _Damaged from error
        return model, tokenizer, best

    with torch.random.fork_rng(devices=cuda), quiet_lightning():
        try:
            model, tokenizer, best = attempt(_left_of(checkpoint))
        except _Damaged:
            assert checkpoint is not None
            aside = put_aside(checkpoint)
            progress.say(f"{checkpoint} cannot be gone on from: kept as {aside.name}, training begins again")
            model, tokenizer, best = attempt(None)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    model.config.zerogen = asdict(spec)  # predictions after loading are made as they were here
    labels = [] if task.kind == "qa" else task.labels
    trained = Tam(model.to(device), tokenizer, labels, spec)
    return trained, FitReport(len(train), len(heldout), best.epoch, best.accuracy)


def require(config: TamConfig, kind: str) -> None:
    """Raise `UserError` where the weights or vectors that training starts from cannot be had."""
    if config.kind == "encoder":
        _encoder(config, ["a", "b"], kind, 8)
    elif config.vectors is not None:
        from zerogen.tam.vectors import check_vectors

        check_vectors(_vectors_of(config.vectors))


class _Damaged(Exception):
    """Training could not begin from its checkpoint."""


class _Begun(pl.Callback):
    """Knows whether a checkpoint was restored, so that what fails from then on is not its fault, and says so."""

    def __init__(self, checkpoint: Path | None, progress: Progress, rows: int) -> None:
        self.checkpoint, self.progress, self.rows = checkpoint, progress, rows
        self.yes = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.yes = True
        if self.checkpoint is not None:
            self.progress.say(f"training on {self.rows:,} rows goes on from its last finished epoch")


def _left_of(checkpoint: Path | None) -> Path | None:
    """Return the checkpoint where it is there, and remove what a process that was killed while saving has left."""
    if checkpoint is None:
        return None
    for part in checkpoint.parent.glob(f"{checkpoint.name}.*.part"):  # one process at a time trains in a folder
        part.unlink(missing_ok=True)
    return checkpoint if checkpoint.is_file() else None


def _every_epoch(checkpoint: Path) -> Any:
    """Return the callback that saves training to a file after every epoch, whole or not at all."""

    class EveryEpoch(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            part = checkpoint.with_name(f"{checkpoint.name}.{os.getpid()}.part")
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            try:
                with writing(checkpoint.parent):
                    trainer.save_checkpoint(part, weights_only=False)  # here that means: with the optimizer's state
                part.replace(checkpoint)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    return EveryEpoch()


def _vectors_of(path: str) -> Path:
    return Path(expanded(path, "tam.vectors"))


def _from_scratch(tam: TamConfig, task: TaskConfig, rows: Sequence[Example], progress: Progress) -> tuple[Any, Any]:
    """Return an untrained LSTM, or BiDAF, with the vocabulary of the rows."""
    from zerogen.tam.bidaf import BidafConfig, BidafForQuestionAnswering, known_characters
    from zerogen.tam.lstm import SPECIAL, LstmConfig, LstmForSequenceClassification, add_words, word_tokenizer
    from zerogen.tam.vectors import read_vectors, words_of

    texts = list(dict.fromkeys(text for row in rows for text in (row.text, row.context) if text))
    if task.kind == "classification":  # which never reads the context
        texts = [row.text for row in rows]
    tokenizer = word_tokenizer(texts, tam.vocabulary, reading=task.kind == "qa")
    tokenizer.model_max_length = task.max_length
    vectors: dict[int, torch.Tensor] = {}
    if tam.vectors:
        path, learned = _vectors_of(tam.vectors), len(tokenizer) - len(SPECIAL)
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
    bound(model, tokenizer)
    tokenizer.model_max_length = min(max_length, tokenizer.model_max_length)
    return model, tokenizer


def _loader(
    model: Any, tokenizer: Any, rows: Sequence[Example], task: TaskConfig, batch_size: int, seed: int | None
) -> Any:
    """Return batches for training, in an order drawn by `seed`, or for a check (seed None)."""
    if task.kind == "qa":
        answers = [row.answers[0] if row.answers else None for row in rows]
        questions, passages = [row.text for row in rows], [row.context or "" for row in rows]
        items: list[Any] = windows_of(tokenizer, questions, passages, answers, spells(model))
    else:
        inputs = inputs_of(task.kind, rows)
        items = [
            replace(encoded, label=task.labels.index(row.label))
            for encoded, row in zip(encode(tokenizer, order_pair(inputs, task.order)), rows, strict=True)
        ]
    lengths = [len(item.ids) for item in items]

    def collated(batch: Sequence[Any]) -> dict[str, torch.Tensor]:
        if task.kind == "qa":
            return window_batch(batch, model, tokenizer)
        return collate(batch, tokenizer.pad_token_id)

    return torch.utils.data.DataLoader(
        items,  # type: ignore[arg-type]
        batch_sampler=by_length(lengths, batch_size) if seed is None else Buckets(lengths, batch_size, seed),
        collate_fn=collated,
        generator=torch.Generator(),  # else every epoch draws from the dropouts' random state
    )
