"""One run of one setting on one task: what the settings share."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.answers import provenance
from zerogen.config import Config, GoldConfig
from zerogen.errors import UserError
from zerogen.gold import read_gold, source_of, stratified
from zerogen.loggers import Log
from zerogen.metrics import MAIN, evaluate, numbers
from zerogen.models import fingerprint, resolve, tam_folder
from zerogen.progress import Quiet
from zerogen.records import Example, Prediction, Span, derive

if TYPE_CHECKING:
    import torch

    from zerogen.plm.model import Plm
    from zerogen.plm.work import Writer
    from zerogen.pool import Chunk
    from zerogen.tam.tam import Tam

# Raise it when the same configuration and seed give other rows. (How words are counted in scripts without spaces has
# changed under 6: pools of such texts hold rows of before and after, rather than be lost.)
POOL_FORMAT = 6
RUN_FORMAT = 8  # raise it when the same rows and configuration give another TAM or other metrics


@dataclass
class Outcome:
    """What a setting arrives at. metrics and predictions are empty for a task without gold data.

    cut: how many prompts held only a part of their context (or text), because the PLM has too few positions.
    trend: one entry per trained TAM: its number of training rows and its metrics.
    """

    n_train: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    predictions: list[Prediction | Span] = field(default_factory=list)
    trend: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    heldout_accuracy: float | None = None
    epoch: int | None = None
    tam: Tam | None = None
    rows: list[Example] = field(default_factory=list)
    rejects: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    cut: int = 0
    tokens: dict[str, int] = field(default_factory=dict)  # written by the PLM, by stage


@dataclass
class Run:
    """A configuration with one seed, the devices it runs on, and the clock of its stages (seconds)."""

    config: Config
    devices: Sequence[torch.device]  # each of them writes texts; the first one does everything else
    progress: Quiet = field(default_factory=Quiet)
    seconds: dict[str, float] = field(default_factory=dict)
    known: frozenset[int] = frozenset()  # sizes of the trend that an earlier run has evaluated
    on_point: Callable[[Outcome], None] = lambda outcome: None  # called for every TAM, evaluated where there is gold
    log: Log = field(default_factory=Log)  # where trainings are recorded
    blank: dict[str, int] = field(default_factory=dict)  # gold rows without a text, by split
    evaluator: bool = False  # it trains what judges synthetic rows; nobody asked for its own figures

    @property
    def device(self) -> torch.device:
        return self.devices[0]

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

    def weights(self) -> dict[str, str | None]:
        """Return which weights the PLM and the TAM are, None for one that the setting does not use."""
        plm, tam = self.names()
        config = self.config
        return {
            "plm": None if plm == "none" else describe_weights(config.plm.model, config.plm.revision, "plm.model"),
            "tam": None
            if tam == "none"
            else config.tam.checkpoint or describe_weights(config.tam.model, config.tam.revision, "tam.model"),
        }

    def load_plm(self) -> Plm:
        """Load the configured PLM."""
        from zerogen.plm.model import load_plm

        with self.stage("load"), self.progress.wait(f"loading {self.config.plm.name} (a GGUF file is converted once)"):
            plm = load_plm(self.config.plm, self.device)
        plm.report_to(self.progress.say)
        return plm

    @contextmanager
    def writer(self, folder: Path) -> Iterator[Callable[[], Writer]]:
        """Yield what gives the PLM's writer when first asked: here, or in one process per device where there are more.

        The PLM's memory is free behind the block.

        folder: where the processes exchange works.
        """
        if len(self.devices) == 1:
            from zerogen.plm.pack import return_freed_memory

            plm = cache(self.load_plm)
            try:
                yield plm
            finally:
                plm.cache_clear()
                return_freed_memory()
            return
        from zerogen.plm.module import Workers

        with ExitStack() as stack:
            yield cache(lambda: stack.enter_context(Workers(self.config.plm, self.devices, folder)))

    def require_tam(self) -> None:
        """Find out that the TAM's weights are missing before hours of work, not after."""
        from zerogen.tam.fit import require

        with self.stage("load"), self.progress.wait(f"loading {self.config.tam.name}"):
            require(self.config.tam, self.config.task.kind)

    def fit(self, rows: Sequence[Example], outcome: Outcome) -> None:
        """Train a fresh TAM on rows, evaluate it on gold data, and record both in `outcome`."""
        from zerogen.tam.fit import fit

        config = self.config
        checkpoint = self.folder() / f"training-{len(rows)}.ckpt"
        with self.stage("train"):
            outcome.tam, report = fit(
                rows,
                config.task,
                config.tam,
                config.trainer,
                seed=derive(config.seed, "fit"),
                device=self.device,
                checkpoint=checkpoint,
                loggers=self.log.training(len(rows), checkpoint.is_file()),
                progress=self.progress,
            )
        outcome.n_train, outcome.epoch, outcome.heldout_accuracy = len(rows), report.epoch, report.heldout_accuracy
        self.evaluate(outcome)

    def evaluate(self, outcome: Outcome) -> None:
        """Predict the gold rows with the outcome's TAM and record the metrics."""
        if not self.gold:
            self.on_point(outcome)
            return
        assert outcome.tam is not None
        with self.stage("evaluate"):
            predictions = outcome.tam.predict(outcome.tam.inputs_of(self.gold), progress=self.progress)
        self.score(predictions, outcome)

    def score(self, predictions: Sequence[Prediction | Span], outcome: Outcome) -> None:
        """Compare predictions with the gold rows and record the metrics."""
        outcome.predictions = list(predictions)
        outcome.metrics = evaluate(self.config.task, self.gold, predictions)
        outcome.trend.append((outcome.n_train, outcome.metrics))
        self.on_point(outcome)

    def evaluate_checkpoint(self) -> Outcome:
        """Evaluate the TAM of `tam.checkpoint` without training."""
        from zerogen.tam.tam import load_tam

        folder = str(self.config.tam.checkpoint)
        with self.stage("load"):
            tam = load_tam(folder, self.device, self.config.tam.dtype)
        task = self.config.task
        if tam.use.kind != task.kind:
            raise UserError(f"tam.checkpoint={folder}: is for {tam.use.kind}; task '{task.name}' is {task.kind}")
        if task.kind != "qa" and set(tam.labels) != set(task.labels):
            raise UserError(
                f"tam.checkpoint={folder}: its labels are {', '.join(tam.labels)}; "
                f"task '{self.config.task.name}' has {', '.join(self.config.task.labels)}"
            )
        outcome = Outcome(tam=tam)
        self.evaluate(outcome)
        return outcome

    @property
    def task_folder(self) -> Path:
        return Path(self.config.output_dir) / self.config.task.name

    def pool_folder(self) -> Path:
        """Return the folder of the generated rows: its hash covers all that shapes them, and not `n`."""
        return self.task_folder / f"pool_{self.config.plm.name}_{short_hash(self._pool_key())}"

    def folder(self) -> Path:
        """Return the run folder: its hash covers data and training settings, and not `n` or `log_every`."""
        plm, tam = self.names()
        return self.task_folder / f"{self.config.setting.name}_{plm}_{tam}_{short_hash(self._key())}"

    def names(self) -> tuple[str, str]:
        """Return the names of the PLM and the TAM that the setting uses, `none` for one that it does not."""
        config, setting = self.config, self.config.setting.name
        uses_plm = setting == "prompting" or (setting == "zerogen" and not config.dataset and not config.tam.checkpoint)
        uses_tam = setting != "prompting" and (config.train or bool(config.tam.checkpoint))
        return (config.plm.name if uses_plm else "none"), (config.tam.name if uses_tam else "none")

    def _plm_key(self) -> dict[str, Any]:
        from zerogen.plm.model import identity, precision

        dtype = precision(self.config.plm.dtype, self.device)
        return {"weights": identity(self.config.plm), "dtype": str(dtype), "device": self.device.type}

    def _pool_key(self) -> dict[str, Any]:
        task, config = self.config.task, self.config
        return {
            "format": POOL_FORMAT,
            "task": [task.name, task.labels, task.prompts, task.max_new_tokens],
            "kind": [task.kind, task.min_words],
            "context": self._given_key(),
            "parse": asdict(task.parse),
            "debias": asdict(task.debias),
            "plm": self._plm_key(),
            "decoding": asdict(config.decoding),
            "filter": asdict(config.filter),
            "seed": config.seed,
        }

    def _given_key(self) -> Any:
        """Identify contexts and answers: by what is read of files and gold data, not by where it lies."""
        task = self.config.task
        context = task.context
        if context is None:
            return None
        key = asdict(context)
        if context.source == "plm":
            return key
        answers = provenance(task.answers) if task.kind == "qa" else None
        gold = source_of(task)
        if context.source != "gold":
            key["source"] = [
                digest(context.source),
                gold.context if gold else None,
                *(_separator(gold) if gold else ()),
            ]
        key["answers"] = answers
        if gold is not None and "gold" in (context.source, answers):
            split = gold.splits.get("train", "train")
            key["gold"] = {
                "from": [gold.hub, digest(gold.folder or ""), gold.package, digest(gold.files.get(split, "")), split],
                "read": [
                    gold.text,
                    gold.context,
                    gold.answers,
                    gold.where,
                    gold.cleaning,
                    gold.holdout and asdict(gold.holdout),
                    *_separator(gold),
                ],
            }
        return key

    def _gold_key(self) -> Any:
        source = source_of(self.config.task)
        if source is None:
            return None
        files = {split: digest(path) for split, path in source.files.items()}
        key = asdict(source) | {"files": files, "folder": digest(source.folder or "")}
        if not _separator(source):
            del key["separator"]
        return key

    def _key(self) -> dict[str, Any]:
        config = self.config
        task = config.task
        key: dict[str, Any] = {
            "format": RUN_FORMAT,
            "gold": self._gold_key(),
            "task": [task.kind, task.order, task.answer_tokens],
            "eval": [config.eval_limit, "of every seed" if config.eval_limit else None, config.task.labels],
            "device": self.device.type,
        }
        if config.setting.name == "prompting":
            return key | {"plm": self._plm_key(), "scoring": task.scoring, "setting": asdict(config.setting)}
        if config.tam.checkpoint:
            return key | {"checkpoint": digest(str(tam_folder(Path(config.tam.checkpoint)))), "dtype": config.tam.dtype}
        if config.train:
            from zerogen.tam.tam import half_precision, identity
            from zerogen.tam.vectors import word_list

            vectors = Path(config.tam.vectors or "")
            if vectors.suffix == ".npy":
                key["words"] = digest(str(word_list(vectors) or ""))
            key |= {"weights": identity(config.tam), "tam": asdict(config.tam), "trainer": asdict(config.trainer)}
            key |= {"half": half_precision(config.tam.dtype, self.device), "vectors": digest(config.tam.vectors or "")}
        key |= {"seed": config.seed, "max_length": config.task.max_length}
        if config.setting.name == "supervised":
            return key | {"limit": config.limit}
        if config.dataset:
            return key | {
                "dataset": digest(config.dataset),
                "labels": {str(k): v for k, v in config.dataset_labels.items()},
                "limit": config.limit,
            }
        return key | {"pool": self._pool_key()}


def _separator(gold: GoldConfig) -> list[str]:
    """Return the separator of CSV files where it is another than hashes have always meant."""
    return [] if gold.separator == "," else [gold.separator]


def describe(outcome: Outcome, evaluator: bool = False) -> str:
    """Say in one line what a setting, or the evaluator, has arrived at."""
    said = f"n={outcome.n_train:,}: " if outcome.n_train else ""
    if evaluator:
        said = f"evaluator, {said}"
    if outcome.metrics:
        shown = ", ".join(f"{MAIN[name]} {value:.1%}" for name, value in numbers(outcome.metrics).items())
        predicted = {found.label for found in outcome.predictions if isinstance(found, Prediction)}
        only = f"; it predicts '{predicted.pop()}' only" if len(predicted) == 1 else ""
        return said + f"{shown} on {len(outcome.predictions):,} gold rows{only}"
    said += "trained; nothing was evaluated, the task has no gold data"
    if outcome.heldout_accuracy is not None:
        said += f" (it is right about {outcome.heldout_accuracy:.1%} of the held-out synthetic rows)"
    return said


def describe_weights(model: str | None, revision: str | None, what: str) -> str | None:
    """Name weights and which version of them: a revision of the Hub, or the fingerprint of local files."""
    if model is None:
        return None
    source = resolve(model, revision, what)
    return f"{model}@{fingerprint(source)}" if source.local else fingerprint(source)


def used_chunks(chunks: Sequence[Chunk], rows: Sequence[Example]) -> list[Chunk]:
    """Return the chunks up to the last one that holds any of `rows`."""
    wanted = {row.uid for row in rows}
    last = max((i for i, chunk in enumerate(chunks) if any(row.uid in wanted for row in chunk.rows)), default=-1)
    return list(chunks[: last + 1])


def count_rejects(chunks: Sequence[Chunk]) -> dict[str, int]:
    """Return the number of rejected texts by reason, the most frequent one first."""
    counts: Counter[str] = Counter()
    for chunk in chunks:
        for reasons in chunk.rejects.values():
            counts.update(reasons)
    return dict(counts.most_common())


def short_hash(value: Any) -> str:
    """Return eight characters that identify a JSON value."""
    return hashlib.sha256(json.dumps(_with_text_keys(value), sort_keys=True).encode()).hexdigest()[:8]


def _with_text_keys(value: Any) -> Any:
    """Return a value whose dictionaries have text keys: 0 and "no" cannot be sorted together."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, (list, tuple)) else value


def digest(path: str) -> str:
    """Identify the content of a file, or of a folder by its files; a missing one is an empty string."""
    place = Path(path)
    if path and place.is_dir():
        return short_hash([[file.name, digest(str(file))] for file in sorted(place.rglob("*")) if file.is_file()])
    if not place.is_file():
        return ""
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
