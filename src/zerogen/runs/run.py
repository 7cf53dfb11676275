"""One run of one setting on one task: what all settings share, such as training and evaluation."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config.schema import Config, EngineConfig, PlmConfig
from zerogen.config.task import asks_plm
from zerogen.data.gold import read_gold, source_of
from zerogen.data.records import AnswerPrediction, Example, Prediction, derive
from zerogen.data.stratified import stratified
from zerogen.errors import UserError
from zerogen.metrics import Metric, evaluate, further_metrics, metric_of, scalars
from zerogen.runs.few_gold import FewGold, few_gold
from zerogen.runs.identity import describe_plm, describe_weights, pool_key, run_key
from zerogen.runs.loggers import Log
from zerogen.runs.migration import former_pool_key, former_run_key
from zerogen.runs.settings import Setting, setting_of
from zerogen.support.files import require_folder
from zerogen.support.hashes import short_hash
from zerogen.support.progress import Progress

if TYPE_CHECKING:
    import torch

    from zerogen.plm.protocol import Scorer, Writer
    from zerogen.tam.tam import Tam

    Adjust = Callable[["Run", Tam, Sequence[Example]], None]


@dataclass
class Outcome:
    """What a setting arrives at. metrics and predictions are empty for a task without gold data.

    cut: how many prompts held only a part of their context (or text), because the PLM has too few positions.
    trend: one entry per trained TAM: its number of training rows and its metrics.
    titles: what people call the metrics that were asked for beside those of the task's kind.
    labels_alone: numbers of gold rows, and the metrics of a TAM that was trained on them alone.
    rounds: of self-training, with the numbers of rows and the metrics of each.
    pseudo_labelled: the unlabelled texts that the last round trained on, with the labels that teachers gave them.
    """

    n_train: int = 0
    size: int = 0  # rows before a selection: the point of the trend; 0 for one that selects none
    metrics: dict[str, Any] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    predictions: list[Prediction | AnswerPrediction] = field(default_factory=list)
    trend: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    heldout_accuracy: float | None = None
    epoch: int | None = None
    tam: Tam | None = None
    rows: list[Example] = field(default_factory=list)
    rejects: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    cut: int = 0
    tokens: dict[str, int] = field(default_factory=dict)  # written by the PLM, by stage
    rounds: list[dict[str, Any]] = field(default_factory=list)
    labels_alone: list[dict[str, Any]] = field(default_factory=list)
    pseudo_labelled: list[Example] = field(default_factory=list)


@dataclass
class Run:
    """A configuration with one seed, the devices it runs on, and the clock of its stages (seconds)."""

    config: Config
    devices: Sequence[torch.device]  # each of them writes texts; the first one does everything else
    progress: Progress = field(default_factory=Progress)
    seconds: dict[str, float] = field(default_factory=dict)
    usage: dict[str, Counter[str]] = field(default_factory=dict)  # of a server, by stage
    evaluated_sizes: frozenset[int] = frozenset()  # sizes of the trend that an earlier run has evaluated
    on_point: Callable[[Outcome], None] = lambda outcome: None  # called for every TAM, evaluated where there is gold
    log: Log = field(default_factory=Log)  # where trainings are recorded
    blank: dict[str, int] = field(default_factory=dict)  # gold rows without a text, by split
    unscored: bool = False  # the PLM cannot score texts
    evaluator: bool = False  # it trains what judges synthetic rows; nobody asked for its own figures

    @property
    def device(self) -> torch.device:
        return self.devices[0]

    @cached_property
    def setting(self) -> Setting:
        """What is run. Raises `UserError` for a setting that cannot be had."""
        return setting_of(self.config)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    @cached_property
    def gold(self) -> list[Example]:
        """The gold rows that results are reported on, at most `eval_limit` of `gold_evaluated`.

        The same for every seed: else the spread over seeds would be that of the sample, too.
        """
        rows, limit = self.gold_evaluated, self.config.eval_limit
        return stratified(rows, min(limit, len(rows)), 0) if limit else rows

    @cached_property
    def gold_evaluated(self) -> list[Example]:
        """All rows of the split that results are reported on; none for a task without gold data."""
        source = source_of(self.config.task)
        return [] if source is None else self.gold_split(source.evaluate_on)

    def gold_split(self, split: str) -> list[Example]:
        """Read all gold rows of a split; say how many were left out because they have no text."""
        with self.stage("load"), self.progress.wait("reading gold data"):
            rows, blank = read_gold(self.config.task, split)
        if blank and split not in self.blank:
            self.blank[split] = blank
            self.progress.say(f"{blank:,} gold rows for {split} have no text and were left out")
        return rows

    @cached_property
    def unlabelled(self) -> list[Example]:
        """The texts of `unlabelled`, without those that results are reported on, and without gold rows that it uses."""
        from zerogen.data.unlabelled import load_unlabelled

        config, few = self.config, self.few_gold
        reported = {row.content for row in self.gold_evaluated}
        with self.stage("load"), self.progress.wait("reading unlabelled texts"):
            rows, shared = load_unlabelled(str(config.unlabelled), config.unlabelled_column, config.task, reported)
        if shared:
            self.progress.say(f"{shared:,} unlabelled texts were left out, because results are reported on them")
        limit = config.unlabelled_limit
        if limit is not None and limit < len(rows):
            self.progress.say(f"{limit:,} of {len(rows):,} unlabelled texts are read (unlabelled_limit)")
            rows = stratified(rows, limit, 0)
        used = {row.content for row in few.rows} if few else set()
        return [row for row in rows if row.content not in used]

    @cached_property
    def few_gold(self) -> FewGold | None:
        """The gold rows that a setting with synthetic rows may use, None for none."""
        if not self.config.gold_rows or "gold_rows" not in self.setting.reads:
            return None
        return few_gold(self.config, {row.content for row in self.gold_evaluated})

    @cached_property
    def further_metrics(self) -> dict[str, Metric]:
        """The metrics beside those of the task's kind, by what names them. Raises `UserError`."""
        return further_metrics(self.config.metrics, self.config.task.kind)

    def weights(self) -> dict[str, str | None]:
        """Return which weights the PLM and the TAM are, None for one that the setting does not use."""
        plm, tam = self.names()
        config = self.config
        return {
            "plm": None if plm == "none" else describe_plm(config.plm),
            "tam": None
            if tam == "none"
            else config.tam.checkpoint or describe_weights(config.tam.model, config.tam.revision, "tam.model"),
        }

    def use(self, stage: str, usage: Mapping[str, int]) -> None:
        """Add what a server was asked for to that of a stage."""
        if usage:
            self.usage.setdefault(stage, Counter()).update(usage)

    def open_plm(self, folder: Path | None = None) -> Writer:
        """Open the configured PLM on the first device. folder: where a server's answers of unfinished work are kept."""
        from zerogen.plm.open import open_plm
        from zerogen.plm.protocol import RemoteWriter

        config = self.config.plm
        wait = f"loading {config.name} (a GGUF file is converted once)"
        if config.writer != PlmConfig.writer:
            wait = f"opening {config.name}"
        with self.stage("load"), self.progress.wait(wait):
            plm = open_plm(config, self.device)
        if isinstance(plm, RemoteWriter):
            plm.folder = folder
        plm.report_to(self.progress.say)
        return plm

    def load_scorer(self, what: str) -> Scorer:
        """Open the configured PLM for its scores. Raises `UserError`, naming `what` needs them, if it has none."""
        from zerogen.plm.open import as_scorer

        return as_scorer(self.open_plm(self.unfinished), self.config.plm, what)

    @property
    def unfinished(self) -> Path:
        """The folder of a server's answers that no result holds yet."""
        return self.folder() / "unfinished"

    def scorer(self, plm: Callable[[], Writer]) -> Scorer | None:
        """Return the PLM if it can score texts; if it cannot, say so once, and do not open it again."""
        from zerogen.plm.protocol import Scorer

        if self.unscored:
            return None
        opened = plm()
        if isinstance(opened, Scorer):
            return opened
        self.unscored = True
        where = self.config.plm.base_url or f"plm.writer={self.config.plm.writer}"
        self.progress.say(f"{where} cannot score texts: confidence in labels is unknown")
        return None

    @contextmanager
    def writer(self, folder: Path) -> Iterator[Callable[[], Writer]]:
        """Yield what opens the PLM when first called: in this process, or elsewhere, as the engine says.

        The PLM's memory is free after the block.

        folder: where the processes exchange chunks.
        """
        if self.writes_here:
            from zerogen.plm.pack import return_freed_memory

            plm = cache(partial(self.open_plm, folder))
            try:
                yield plm
                shutil.rmtree(folder, ignore_errors=True)  # what a server has answered is stored by now
            finally:
                plm.cache_clear()
                return_freed_memory()
            return
        with ExitStack() as stack:
            yield cache(lambda: stack.enter_context(self._open_elsewhere(folder)))

    @property
    def writes_here(self) -> bool:
        """Whether this process writes the texts itself."""
        return self.config.engine.name == EngineConfig.name and len(self.devices) == 1

    def _open_elsewhere(self, folder: Path) -> AbstractContextManager[Writer]:
        """Return what writes in other processes; folder: where they exchange chunks, if they do so by files."""
        plm, engine = self.config.plm, self.config.engine
        writer: Any
        if engine.name == "ray":
            from zerogen.plm.actors import Actors

            with self.progress.wait("connecting to the Ray cluster"):
                writer = Actors(plm, engine, self.config.gpu)
        elif engine.name == "lightning":
            from zerogen.plm.nodes import Nodes, rank_of

            writer = Nodes(plm, engine, rank_of(engine)[1], folder)
        else:
            from zerogen.plm.workers import Workers

            writer = Workers(plm, self.devices, folder)
        writer.report_to(self.progress.say)
        opened: AbstractContextManager[Writer] = writer
        return opened

    def require_tam(self) -> None:
        """Find out that the TAM's weights are missing before hours of work, not after."""
        from zerogen.tam.fit import require

        with self.stage("load"), self.progress.wait(f"loading {self.config.tam.name}"):
            require(self.config.tam, self.config.task.kind)

    def train(self, rows: Sequence[Example], outcome: Outcome, name: str = "", adjust: Adjust | None = None) -> None:
        """Train a fresh TAM on rows, evaluate it on gold data, and record both in `outcome`.

        name: of a training that is no point of the trend. adjust: changes the TAM before it is evaluated.
        """
        from zerogen.tam.fit import fit

        config, few = self.config, self.few_gold
        require_folder(self.folder())
        rows, size = [*rows, *(few.train if few else ())], str(outcome.size or len(rows))
        checkpoint = self.folder() / f"training-{size}.ckpt"
        if name:  # its rows depend on more than the size
            content = short_hash([[row.uid, row.label] for row in rows])
            checkpoint = self.folder() / f"training-{size}-{name}-{content}.ckpt"
        with self.stage("train"):
            outcome.tam, report = fit(
                rows,
                config.task,
                config.tam,
                config.trainer,
                seed=derive(config.seed, "fit", *([name] if name else [])),
                device=self.device,
                checkpoint=checkpoint,
                loggers=self.log.training(name or size, checkpoint.is_file()),
                progress=self.progress,
                heldout=few.heldout if few else None,
            )
        if adjust:
            adjust(self, outcome.tam, rows)
        outcome.n_train, outcome.epoch, outcome.heldout_accuracy = len(rows), report.epoch, report.heldout_accuracy
        self.evaluate_tam(outcome, point=not name)

    def evaluate_tam(self, outcome: Outcome, point: bool = True) -> None:
        """Predict the gold rows with the outcome's TAM and record the metrics. point: whether they are of the trend."""
        if not self.gold:
            if point:
                self.on_point(outcome)
            return
        assert outcome.tam is not None
        with self.stage("evaluate"):
            predictions = outcome.tam.predict(outcome.tam.inputs_of(self.gold), progress=self.progress)
        self.score(predictions, outcome, point)

    def score(self, predictions: Sequence[Prediction | AnswerPrediction], outcome: Outcome, point: bool = True) -> None:
        """Compare predictions with the gold rows and record the metrics. point: whether they are of the trend."""
        outcome.predictions = list(predictions)
        outcome.metrics = evaluate(self.config.task, self.gold, predictions, self.further_metrics)
        outcome.titles = {metric.name: metric.title for metric in self.further_metrics.values()}
        if point:
            outcome.trend.append((outcome.size or outcome.n_train, outcome.metrics))
            self.on_point(outcome)

    def evaluate_checkpoint(self) -> Outcome:
        """Evaluate the TAM of `tam.checkpoint` without training."""
        from zerogen.tam.tam import load_tam

        folder = str(self.config.tam.checkpoint)
        with self.stage("load"):
            tam = load_tam(folder, self.device, self.config.tam.dtype)
        task = self.config.task
        if tam.spec.kind != task.kind:
            raise UserError(f"tam.checkpoint={folder}: is for {tam.spec.kind}; task '{task.name}' is {task.kind}")
        if task.kind != "qa" and set(tam.labels) != set(task.labels):
            raise UserError(
                f"tam.checkpoint={folder}: its labels are {', '.join(tam.labels)}; "
                f"task '{self.config.task.name}' has {', '.join(self.config.task.labels)}"
            )
        outcome = Outcome(tam=tam)
        self.evaluate_tam(outcome)
        return outcome

    @property
    def task_folder(self) -> Path:
        return Path(self.config.output_dir) / self.config.task.name

    def pool_folder(self) -> Path:
        """Return the folder of the generated rows: its hash covers all that shapes them, and not `n`."""
        maker = self.config.plm.name if asks_plm(self.config.task, self.config.filter) else "rules"
        return self._folder(f"pool_{maker}", self._pool_hash, former_pool_key)

    def folder(self) -> Path:
        """Return the run folder: its hash covers data and training settings, and not `n` or `log_every`."""
        return self._folder("_".join([self.setting.name, *self.names()]), self._run_hash, former_run_key)

    # Once per run: files are read for them, and what somebody edits meanwhile is not what the run began with.
    @cached_property
    def _pool_hash(self) -> str:
        return short_hash(pool_key(self.config, self.device))

    @cached_property
    def _run_hash(self) -> str:
        return short_hash(run_key(self.config, self.device))

    def _folder(self, name: str, own_hash: str, former_key: Callable[[Config, torch.device], Any]) -> Path:
        """Return the folder of that name; one that version 0.1 made under its own name goes on being used."""
        folder = self.task_folder / f"{name}_{own_hash}"
        if folder.is_dir() or not self.task_folder.is_dir():
            return folder
        former = former_key(self.config, self.device)
        before = self.task_folder / f"{name}_{short_hash(former)}"
        return before if former is not None and before.is_dir() else folder

    def names(self) -> tuple[str, str]:
        """Return the names of the PLM and the TAM that the setting uses, `none` for one that it does not."""
        return self.setting.models(self.config)


def describe(outcome: Outcome, evaluator: bool = False) -> str:
    """Say in one line what a setting, or the evaluator, has arrived at."""
    said = f"n={outcome.n_train:,}: " if outcome.n_train else ""
    if evaluator:
        said = f"evaluator, {said}"
    if outcome.metrics:
        values = scalars(outcome.metrics).items()
        shown = ", ".join(f"{outcome.titles.get(name) or metric_of(name).title} {value:.1%}" for name, value in values)
        predicted = {found.label for found in outcome.predictions if isinstance(found, Prediction)}
        only = f"; it predicts '{predicted.pop()}' only" if len(predicted) == 1 else ""
        return said + f"{shown} on {len(outcome.predictions):,} gold rows{only}"
    said += "trained; nothing was evaluated, the task has no gold data"
    if outcome.heldout_accuracy is not None:
        said += f" (it is right about {outcome.heldout_accuracy:.1%} of the held-out rows, whose labels may be wrong)"
    return said


def rows_to_write(config: Config, size: int) -> int:
    """Return how many rows are generated for a training set of a size, which selections rank."""
    return math.ceil(size * config.overgenerate)


def trend_sizes(n: int, log_every: int | None, known: Collection[int] = ()) -> list[int]:
    """Return the sizes to train on: every multiple of `log_every` below `n` that is not in `known`, and `n`.

    known: sizes that were evaluated earlier.
    """
    return [*(size for size in range(log_every, n, log_every) if size not in known), n] if log_every else [n]
