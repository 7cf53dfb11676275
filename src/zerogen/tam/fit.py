"""Train a tiny task model (TAM) and keep its best epoch."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from zerogen.config.rules import check_ensembling, check_tam, check_trainer
from zerogen.config.schema import TamConfig, TrainerConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example, derive, is_target
from zerogen.errors import UserError
from zerogen.support.files import put_aside, writing
from zerogen.support.lightning import quiet_lightning
from zerogen.support.progress import Progress
from zerogen.tam.batches import Buckets, by_length, split_heldout
from zerogen.tam.ensemble import Ensemble
from zerogen.tam.learner import BestEpoch, Learner
from zerogen.tam.table import Head, check_kind, head_of, tam_of
from zerogen.tam.tam import Tam, TamSpec, bound, uses_bfloat16

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
    heldout: Sequence[Example] | None = None,
) -> tuple[Tam, FitReport]:
    """Train a fresh TAM for a task on rows and return the weights of its best epoch on held-out rows.

    checkpoint: file that training is saved to after every epoch, and goes on from where it is there; the result is that
    of a training that was not interrupted. It must be of the same rows and configuration, and is deleted at the end.
    One that cannot be gone on from is renamed to end in `.damaged`, and training begins again.
    heldout: rows that pick the best epoch; by default a share of `rows` (`trainer.heldout`).
    loggers: Lightning's; they get loss and learning rate by step, loss and accuracy on the held-out rows by epoch.
    Same rows, configuration and seed give the same weights on the same machine; torch's global random state is left as
    it was. Raises `UserError` when there are no rows, or one has a label that is not the task's or a weight below 0, or
    a target that is no distribution over labels.
    """
    check_tam(tam)
    check_kind(tam, task.kind)
    check_trainer(trainer)
    check_ensembling(trainer, task)
    _check_rows(rows, task, progress)
    device, progress = torch.device(device), progress or Progress()
    train, checked = (rows, heldout) if heldout else split_heldout(rows, trainer.heldout, seed)
    head = head_of(task.kind)
    training = _Training(train, checked, head, task, tam, trainer, seed, device, checkpoint, loggers, progress)
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), repeatable(device), quiet_lightning():
        try:
            model, tokenizer, best = training.run(_left_of(checkpoint))
        except _Damaged:
            assert checkpoint is not None
            aside = put_aside(checkpoint)
            progress.say(f"{checkpoint} cannot be gone on from: kept as {aside.name}, training begins again")
            model, tokenizer, best = training.run(None)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    unanswered = head.unanswered(rows)
    spec = TamSpec(task.kind, list(task.order), tam.dtype, task.answer_tokens, unanswered, tam.kind)
    # Predictions after loading are made as they were here.
    model.config.update(head.config(task.labels) | {"zerogen": spec.saved(model.config.model_type)})
    trained = Tam(model.to(device), tokenizer, head.labels(model.config), spec)
    return trained, FitReport(len(train), len(checked), best.epoch, best.accuracy)


def require(config: TamConfig, kind: str) -> None:
    """Raise `UserError` where the weights or vectors that training starts from cannot be had."""
    tam_of(config.kind).require(config, kind)


def _check_rows(rows: Sequence[Example], task: TaskConfig, progress: Progress | None) -> None:
    """Raise `UserError` for rows that cannot be trained on, and say which labels have none."""
    if not rows:
        raise UserError("there are no rows to train on")
    for row in rows:
        if row.label not in task.labels:
            raise UserError(f"row {row.uid}: label '{row.label}' is not among {', '.join(task.labels)}")
        if not 0 <= row.weight < math.inf:
            raise UserError(f"row {row.uid}: weight={row.weight}: allowed is 0 or more")
        if not is_target(row, task.labels):
            raise UserError(f"row {row.uid}: target={row.target}: allowed is a probability of each label")
    if missing := [f"'{label}'" for label in task.labels if all(row.label != label for row in rows)]:
        said = f"no training row has label {' or '.join(missing)}"
        if progress is None:
            warnings.warn(said, stacklevel=4)  # of who called `zerogen.fit`
        else:
            progress.say(said)


@dataclass(frozen=True)
class _Training:
    """All that decides what is trained, and how."""

    train: Sequence[Example]
    heldout: Sequence[Example]
    head: Head
    task: TaskConfig
    tam: TamConfig
    config: TrainerConfig
    seed: int
    device: torch.device
    checkpoint: Path | None
    loggers: Sequence[Logger]
    progress: Progress

    def run(self, going_on: Path | None) -> tuple[Any, Any, BestEpoch]:
        """Train a fresh model to the end. Raises `_Damaged` where the checkpoint to go on from is of no use."""
        torch.manual_seed(derive(self.seed, "tam"))
        model, tokenizer = tam_of(self.tam.kind).build(self.tam, self.task, self.train, self.progress)
        bound(model, tokenizer)
        tokenizer.model_max_length = min(self.task.max_length, tokenizer.model_max_length)
        batches = self._batches(model, tokenizer, self.train, derive(self.seed, "batches"))
        checks = self._batches(model, tokenizer, self.heldout, None) if self.heldout else None
        ensemble = None
        if self.config.ensembling is not None:
            labels = [item.label for item in batches.dataset]
            ensemble = Ensemble(labels, len(self.task.labels), self.config.ensembling)
        module = Learner(model, self.head, self.config, len(batches) * self.config.epochs, ensemble)
        total, title = len(batches.dataset) * self.config.epochs, f"training on {len(self.train):,} rows"
        with self.progress.bar(title, total, self.head.unit) as advance:
            best, begun = BestEpoch(self.config.patience, advance), _Begun(going_on, self.progress, len(self.train))
            lightning = self._lightning([best, begun], len(batches))
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

    def _lightning(self, callbacks: list[pl.Callback], steps: int) -> pl.Trainer:
        """Return the trainer; steps: of an epoch."""
        return pl.Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=[self.device.index or 0] if self.device.type == "cuda" else 1,
            precision="bf16-mixed" if uses_bfloat16(self.tam.dtype, self.device) else "32-true",
            max_epochs=self.config.epochs,
            callbacks=[*callbacks, *([] if self.checkpoint is None else [_every_epoch(self.checkpoint)])],
            logger=list(self.loggers),
            log_every_n_steps=min(10, steps),  # of a short training, too
            enable_checkpointing=False,  # its own would be written to the working directory
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )

    def _batches(self, model: Any, tokenizer: Any, rows: Sequence[Example], seed: int | None) -> Any:
        """Return batches for training, in an order drawn by `seed`, or for a check (seed None)."""
        items = self.head.items(rows, self.task, model, tokenizer)
        lengths, size = [len(item.ids) for item in items], self.config.batch_size

        return torch.utils.data.DataLoader(
            items,  # type: ignore[arg-type]
            batch_sampler=by_length(lengths, size) if seed is None else Buckets(lengths, size, seed),
            collate_fn=lambda batch: self.head.collate(batch, model, tokenizer),
            generator=torch.Generator(),  # else every epoch draws from the dropouts' random state
        )


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Have a GPU add in the same order every time, which some of its kernels do not do by themselves."""
    if device.type != "cuda":
        yield
        return
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)  # a TAM of the user's own may use what has no such kernel
    try:
        # torch's fused attention of long rows goes backward in no fixed order, and only warns of it.
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


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
    """Return the checkpoint where it is there, and remove what a process that was killed while saving has left.

    Make the folder that it is to lie in.
    """
    if checkpoint is None:
        return None
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for part in checkpoint.parent.glob(f"{checkpoint.name}.*.part"):  # one process at a time trains in a folder
        part.unlink(missing_ok=True)
    return checkpoint if checkpoint.is_file() else None


def _every_epoch(checkpoint: Path) -> Any:
    """Return the callback that saves training to a file after every epoch, whole or not at all."""

    class EveryEpoch(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            part = checkpoint.with_name(f"{checkpoint.name}.{os.getpid()}.part")
            try:
                with writing(checkpoint.parent):
                    trainer.save_checkpoint(part, weights_only=False)  # here that means: with the optimizer's state
                part.replace(checkpoint)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    return EveryEpoch()
