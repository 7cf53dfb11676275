"""`dry_run=true`: look at what is there, probe a little for real, and say what the whole run will take.

Nothing is fetched, and nothing is written but what a system keeps for itself.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config import Config, TaskConfig, TrainerConfig
from zerogen.errors import Unavailable, UserError
from zerogen.records import Example

if TYPE_CHECKING:
    from rich.console import Console

    from zerogen.plm.protocol import Scorer, Writer
    from zerogen.pool import Chunk
    from zerogen.runs.run import Run
    from zerogen.tam.tam import Tam

PROBE = 32  # requests, or rows
_MISSING = "not available, not probed"
_GENERATION = "generation"
_MIB = 1 << 20


@dataclass
class Expected:
    """What a run will take: seconds by stage, tokens, bytes on disk, bytes of memory beside what is in use now.

    scratch: bytes on disk while it trains, beside what is there then. unknown: what could not be probed.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    tokens: float = 0.0
    disk: float = 0.0
    scratch: float = 0.0
    memory: float = 0.0
    unknown: list[str] = field(default_factory=list)


@dataclass
class Pace:
    """How a TAM trains and predicts: seconds to begin, per row and epoch, per row predicted; its weights in bytes."""

    begin: float
    train: float
    predict: float
    weights: int


@dataclass
class Probed:
    """What came of the probe's chunk, with the contexts that were written for it."""

    chunk: Chunk
    contexts: list[Chunk]
    batch: int  # rows that the run will decode at a time
    row_bytes: int


def dry_run(configs: Sequence[Config], console: Console) -> None:
    """Say for each job what is there, two prompts of each label, and what the whole run will take.

    Raises `UserError` for what the run itself would refuse.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    from zerogen.jobs import expand

    probes = Probes(console)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        probes.say(
            f"other work keeps {load:.1f} of {cores} cores busy: the run is probed slower than an idle machine is"
        )
    total, runs, unknown = 0.0, 0, 0
    with ExitStack() as stack:
        probes.scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zerogen-")))
        for number, config in enumerate(configs, 1):
            seeds = expand(config)
            runs += len(seeds)
            models = f"plm={config.plm.name} tam={config.tam.name}"
            words = f"{number}/{len(configs)} setting={config.setting.name} task={config.task.name} {models}"
            console.rule(words, align="left", style="dim")
            if len(seeds) > 1:
                probes.say(f"{len(seeds)} runs: seeds {', '.join(str(one.seed) for one in seeds)}")
            probes.begin_job()
            expected = [probes.run(one) for one in seeds]
            total += sum(sum(one.seconds.values()) for one in expected)
            unknown += sum(bool(one.unknown) for one in expected)
    if runs > 1:
        known = f", about {_time(total)} in all" if total else ""
        left_out = f"; of {unknown} of them not all could be probed" if unknown else ""
        probes.say(f"\n{runs} runs{known}{left_out}")
    probes.say("nothing was written")


class Probes:
    """Probes jobs one after the other; what several of them share is probed, and told, once."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.scratch = Path()
        self._known: dict[str, Any] = {}
        self._told: set[str] = set()
        self._folders: dict[Path, dict[str, Any]] = {}  # of earlier jobs, and what they asked for
        self._said: set[str] = set()
        self._plm: tuple[str, Writer] | None = None

    def begin_job(self) -> None:
        """Forget what was said: of the seeds of a job, equal lines are said once."""
        self._said.clear()

    def say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.console.print(text, markup=False, highlight=False)

    def run(self, config: Config) -> Expected:
        """Tell what is there for one run and return what it will take."""
        from zerogen.loggers import require_logger
        from zerogen.process import devices_of, require_writable
        from zerogen.runs.run import Run
        from zerogen.runs.store import asked_for, finished

        require_writable(Path(config.output_dir))
        require_logger(config)
        run = Run(config, devices_of(config.gpu, config.processes))
        expected = Expected()
        try:
            folder = run.folder()
            if finished(run) is not None:
                self.say(f"already there, nothing would be done: {folder}")
                return expected
            before = self._folders.get(folder)
            asked = asked_for(config)
            if asked == before:
                self.say("the same run as an earlier one of this command: nothing more would be done")
                return expected
            if before and asked["n"] and before["n"] > asked["n"]:
                raise UserError(
                    f"n={asked['n']}: an earlier run of this command, of n={before['n']}, has the same folder; "
                    f"log_every={asked['n']} reports on sizes below n"
                )
            self._folders[folder] = asked
        except Unavailable:
            pass  # what is missing is named below
        gold = self._gold(run, expected)
        if config.tam.checkpoint:
            self._checkpoint(run, gold, expected)
        elif config.setting.name == "supervised":
            self._supervised(run, gold, expected)
        elif config.setting.name == "prompting":
            self._prompting(run, gold, expected)
        else:
            self._zerogen(run, gold, expected)
        self._summary(run, expected)
        return expected

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what `make` returned, or raise what it raised, when it was first called for this key."""
        name = json.dumps(key, sort_keys=True, default=str)
        if name not in self._known:
            try:
                self._known[name] = make()
            except Unavailable as error:
                self._known[name] = error
        if isinstance(self._known[name], Unavailable):
            raise self._known[name]
        return self._known[name]

    def _tell(self, text: str) -> None:
        """Say a line that several jobs share once."""
        if text not in self._told:
            self._told.add(text)
            self.say(text)

    def _missing(self, what: str, kind: str, expected: Expected) -> None:
        self._tell(f"{what}: {_MISSING}")
        if kind not in expected.unknown:
            expected.unknown.append(kind)

    def _gold(self, run: Run, expected: Expected) -> dict[str, list[Example]]:
        """Read the gold splits that a run needs; reading maps every label, so that what does not fit is refused."""
        from zerogen.gold import load_gold, source_of

        task = run.config.task
        source = source_of(task)
        if source is None:
            self._tell(f"gold data of {task.name}: none; nothing will be evaluated")
            return {}
        config = run.config
        trains = config.setting.name == "supervised" or (task.context is not None and task.context.source == "gold")
        found: dict[str, list[Example]] = {}
        splits = [source.evaluate_on, *(["train"] if trains or config.correctness.evaluator else [])]
        for split in dict.fromkeys(splits):
            what = f"gold data of {task.name}, {split}"
            try:
                rows = self._once(["gold", asdict(task), split], partial(load_gold, task, split))
            except Unavailable:
                self._missing(what, "gold data", expected)
                continue
            counts = Counter(row.label for row in rows)
            by_label = "" if task.kind == "qa" else ": " + ", ".join(f"{counts[name]:,} {name}" for name in task.labels)
            without = [name for name in task.labels if not counts[name]]
            doubt = f"; no row has label {', '.join(without)}" if without else ""
            self._tell(f"{what}: {len(rows):,} rows{by_label}{doubt}")
            found["evaluate" if split == source.evaluate_on else split] = rows
        return found

    def _evaluated(self, run: Run, gold: dict[str, list[Example]]) -> int:
        rows = len(gold.get("evaluate", ()))
        return min(run.config.eval_limit or rows, rows)

    def _load_plm(self, run: Run) -> Writer:
        """Open the PLM, at most one at a time; a GGUF file is not converted into the cache of later runs."""
        from zerogen.models import converted, resolve
        from zerogen.plm.open import WRITERS

        config = run.config.plm
        key = json.dumps([asdict(config), str(run.device)])
        if self._plm is None or self._plm[0] != key:
            source = resolve(config.model, config.revision, "plm.model") if config.writer in WRITERS else None
            if source is not None and source.gguf and not converted(source).is_dir():
                os.environ["ZEROGEN_CACHE"] = str(self.scratch)
            self._plm = None
            self._plm = (key, self._once(["plm", key], run.load_plm))
            del self._known[json.dumps(["plm", key])]  # kept once
        return self._plm[1]

    def _plm_of(self, run: Run, expected: Expected) -> Writer | None:
        from zerogen.plm.protocol import LocalWriter

        name = run.config.plm.name
        try:
            plm = self._load_plm(run)
        except Unavailable:
            self._missing(f"PLM {name} ({run.config.plm.model})", "PLM", expected)
            return None
        about = f"opened by {run.config.plm.writer}"
        if isinstance(plm, LocalWriter):
            dtype = str(plm.dtype).removeprefix("torch.")
            about = f"{dtype}, on {'the CPU' if plm.device.type == 'cpu' else plm.device}"
        self._tell(f"PLM {name}: {about}")
        return plm

    def _pace(self, run: Run, rows: Sequence[Example], expected: Expected) -> Pace | None:
        """Train a TAM on a few rows for one and for three epochs and let it predict them; None where there is none."""
        config = run.config
        rows = _some(rows, PROBE if config.task.kind == "qa" else 3 * PROBE)  # windows of passages take long
        try:
            if not rows:
                self._once(["tam", asdict(config.tam), config.task.kind], run.require_tam)
                return None
            # Rows of another kind are of another length.
            key = ["pace", asdict(config.tam), asdict(config.trainer), config.task.name, rows[0].text]
            pace: Pace = self._once(key, partial(_pace, run, rows))
        except Unavailable:
            self._missing(f"TAM {config.tam.name} ({config.tam.model})", "TAM", expected)
            return None
        self._tell(f"TAM {config.tam.name} for {config.task.name}: {pace.weights / 4e6:,.0f} million parameters")
        return pace

    def _train(self, run: Run, pace: Pace, sizes: Sequence[int], evaluated: int, expected: Expected) -> None:
        trainer = run.config.trainer
        seconds = sum(pace.begin + pace.train * size * (1 - trainer.heldout) * trainer.epochs for size in sizes)
        expected.seconds["train"] = seconds
        if evaluated:
            expected.seconds["evaluate"] = pace.predict * evaluated * len(sizes)
        expected.disk += pace.weights
        # Weights, two moments of each, the best epoch, maybe an average: twice, while one checkpoint replaces another.
        copies = 4 if trainer.ema is None else 5
        expected.scratch = max(expected.scratch, 2 * copies * pace.weights)

    def _supervised(self, run: Run, gold: dict[str, list[Example]], expected: Expected) -> None:
        rows = gold.get("train", [])
        pace = self._pace(run, rows, expected)
        if pace is not None:
            size = min(run.config.limit or len(rows), len(rows))
            self.say(f"trains on {size:,} gold rows, reports on {self._evaluated(run, gold):,}")
            self._train(run, pace, [size], self._evaluated(run, gold), expected)

    def _checkpoint(self, run: Run, gold: dict[str, list[Example]], expected: Expected) -> None:
        from zerogen.tam.tam import load_tam

        tam = load_tam(str(run.config.tam.checkpoint), run.device, run.config.tam.dtype)
        if "evaluate" in gold:
            pace = _seconds_to_predict(tam, _some(gold["evaluate"]))
            expected.seconds["evaluate"] = pace * self._evaluated(run, gold)

    def _prompting(self, run: Run, gold: dict[str, list[Example]], expected: Expected) -> None:
        from zerogen.plm.open import as_scorer
        from zerogen.template import render

        task, plm = run.config.task, self._plm_of(run, expected)
        scorer = None if plm is None else as_scorer(plm, run.config.plm, "setting=prompting")
        rows = _some(gold.get("evaluate", ()))
        for label in task.labels:
            for row in rows[:2] or [Example("", "<X>", label, "<C>")]:
                filled = render(task.scoring[label], {"X": row.text, "C": row.context or ""})
                self._tell(f"[{label}] {_shortened(filled)}")
        if scorer is not None and rows:
            name = ["prompting", task.name, run.config.plm.model, asdict(run.config.setting)]
            pace = self._once(name, lambda: _seconds_to_prompt(scorer, run, rows))
            expected.seconds["prompt"] = pace * self._evaluated(run, gold)

    def _zerogen(self, run: Run, gold: dict[str, list[Example]], expected: Expected) -> None:
        from zerogen.dataset import load_synthetic
        from zerogen.measures.evaluator import require_measures
        from zerogen.metrics.diversity import tokenizer
        from zerogen.runs.zerogen import trend_sizes

        config, task = run.config, run.config.task
        try:
            tokenizer(config.diversity.tokenizer)
        except Unavailable:
            self._missing(f"tokenizer {config.diversity.tokenizer} (a package)", "tokenizer", expected)
        with suppress(Unavailable):  # what else is missing is named below
            key = [asdict(config.correctness), asdict(task), asdict(config.diversity)]
            self._once(["measures", *key], partial(require_measures, run))
        if config.dataset:
            rows = load_synthetic(config.dataset, task, config.dataset_labels)
            size = min(config.limit or len(rows), len(rows))
            self._tell(f"synthetic rows of {config.dataset}: {len(rows):,}, of which {size:,} are trained on")
        else:
            size = config.n
            probed = self._generate(run, expected)
            rows = probed.chunk.rows if probed is not None else []
            if probed is not None and rows:
                self._confidence(run, rows, expected)
        if not config.train:
            return
        pace = self._pace(run, rows, expected)
        if pace is not None:
            self._train(run, pace, trend_sizes(size, config.log_every), self._evaluated(run, gold), expected)
        if config.correctness.evaluator:
            self._evaluator(run, rows, size, gold, expected)

    def _generate(self, run: Run, expected: Expected) -> Probed | None:
        """Write 32 texts, tell two prompts of each label and what came of them, and what `n` rows will take."""
        from zerogen.given import prompt_warnings
        from zerogen.metrics.intervals import wilson_interval
        from zerogen.pool import Journal, quotas
        from zerogen.runs.zerogen import first_outputs
        from zerogen.template import render

        config, task = run.config, run.config.task
        for warning in prompt_warnings(task):
            self._tell(warning)
        plm = self._plm_of(run, expected)
        key = [asdict(task), asdict(config.plm), asdict(config.decoding), asdict(config.filter)]
        try:
            probed: Probed | None = self._once(["texts", *key], partial(_probe, plm, run)) if plm else None
        except Unavailable:  # the contexts of gold rows
            probed = None
        if probed is None:
            for label in task.labels:
                for values in _values(task, config.seed):
                    self._tell(f"[{label}] {_shortened(render(task.prompts[label], values))}")
            return None
        chunk = probed.chunk
        asked, accepted = sum(chunk.asked.values()), len(chunk.rows)
        self._tell(first_outputs(chunk, task))
        interval = wilson_interval(accepted, asked)["interval"]
        self._tell(
            f"accepted: {accepted / asked:.0%} ({interval[0]:.0%} to {interval[1]:.0%} with 95 % confidence, from "
            f"{asked} texts)"
        )
        have = Journal.open(run.pool_folder() / "texts.jsonl").chunks
        rows = Counter[str]()
        for one in have:
            rows += one.accepted()
        quota = quotas(config.n, task.labels)
        lacking = {label: max(0, quota[label] - rows[label]) for label in quota}
        if any(rows.values()):
            there = sum(min(rows[label], quota[label]) for label in quota)
            self.say(f"{there:,} rows are already in {run.pool_folder()} (seed {config.seed})")
        never = [label for label in task.labels if not chunk.accepted()[label] and lacking[label]]
        if never:
            self._tell(f"no text of label {', '.join(never)} was accepted: what generation takes cannot be said")
            expected.unknown.append(_GENERATION)
            return probed
        expected.memory = max(0, probed.batch - PROBE) * probed.row_bytes
        line = len(json.dumps([asdict(row) for row in chunk.rows], ensure_ascii=False).encode()) / max(1, accepted)
        # In the pool, as JSON lines and as Arrow, and in the report.
        expected.disk += 4 * line * config.n
        if not any(lacking.values()):
            return probed
        # A chunk asks equally often for every label, until the one that lacks most texts has its share.
        accepts = {
            label: wilson_interval(chunk.accepted()[label], chunk.asked[label]) for label in quota if lacking[label]
        }
        last = max(accepts, key=lambda label: lacking[label] / accepts[label]["share"])
        requests = lacking[last] * len(quota) / accepts[last]["share"]
        low, high = (lacking[last] * len(quota) / bound for bound in reversed(accepts[last]["interval"]))
        self.say(f"{config.n:,} rows need about {_about(requests)} texts ({_about(low)} to {_about(high)})")
        expected.seconds["generate"] = chunk.seconds / asked * requests
        expected.tokens = chunk.tokens / asked * requests
        if probed.contexts and task.context is not None:
            written = sum(len(one.rows) for one in probed.contexts)
            needed = requests / (len(quota) * task.context.per_label) / max(1, written)
            expected.seconds["contexts"] = sum(one.seconds for one in probed.contexts) * needed
            expected.tokens += sum(one.tokens for one in probed.contexts) * needed
        if len(run.devices) > 1:
            self._tell(f"probed in one of {len(run.devices)} processes, which together are faster")
        if probed.batch > PROBE:
            self._tell(f"the run decodes up to {probed.batch} texts at a time, which is faster than {PROBE} at a time")
        return probed

    def _confidence(self, run: Run, rows: Sequence[Example], expected: Expected) -> None:
        from zerogen.plm.confidence import label_confidence
        from zerogen.plm.protocol import Scorer

        config, plm = run.config, self._load_plm(run)
        if not config.confidence.rows or (config.task.kind != "qa" and len(config.task.labels) < 2):
            return
        if not isinstance(plm, Scorer):
            self._tell(f"plm.writer={config.plm.writer} cannot score texts: confidence in labels is unknown")
            return

        def pace() -> float:
            started = time.perf_counter()
            label_confidence(plm, config.task, rows)
            return (time.perf_counter() - started) / len(rows)

        seconds = self._once(["confidence", asdict(config.task), asdict(config.plm)], pace)
        expected.seconds["confidence"] = seconds * min(config.n, config.confidence.rows)

    def _evaluator(
        self, run: Run, rows: Sequence[Example], size: int, gold: dict[str, list[Example]], expected: Expected
    ) -> None:
        from zerogen.measures.evaluator import evaluator_run
        from zerogen.runs.store import asked_for, finished

        other = evaluator_run(run)
        judged = min(run.config.correctness.rows, size)
        try:
            there = finished(other) is not None or other.folder() in self._folders
            self._folders[other.folder()] = asked_for(other.config)
        except Unavailable:
            there = False
        pace = self._pace(other, gold.get("train", ()), expected)
        mine = self._pace(other, rows, expected)
        if pace is None or mine is None:
            return
        trainer: TrainerConfig = other.config.trainer
        if there:
            self.say(f"evaluator {other.config.tam.name}: already there, or trained by an earlier run")
        else:
            train = pace.train * len(gold["train"]) * (1 - trainer.heldout) * trainer.epochs
            expected.seconds["evaluator"] = pace.begin + train + pace.predict * len(gold.get("evaluate", ()))
            expected.disk += pace.weights
        expected.seconds["correctness"] = mine.predict * judged

    def _summary(self, run: Run, expected: Expected) -> None:
        from zerogen.runs.store import peak_memory_mb

        if expected.seconds:
            stages = ", ".join(f"{stage} {_time(seconds)}" for stage, seconds in expected.seconds.items())
            self.say(f"expected: about {_time(sum(expected.seconds.values()))} ({stages})")
            memory = max(peak_memory_mb(run).values()) + expected.memory / _MIB
            tokens = f"{_about(expected.tokens)} tokens, " if expected.tokens else ""
            scratch = f" and {expected.scratch / _MIB:,.0f} more while it trains" if expected.scratch else ""
            self.say(f"expected: {tokens}{memory:,.0f} MiB of memory, {expected.disk / _MIB:,.1f} MiB on disk{scratch}")
        if expected.unknown:
            missing = [what for what in expected.unknown if what != _GENERATION]
            if missing:
                self.say(f"{', '.join(missing)}: {_MISSING}")
            if _GENERATION in expected.unknown and expected.seconds:
                self.say("that is without generation, of which nothing can be said")


def _probe(plm: Writer, run: Run) -> Probed:
    from zerogen.generator import Generator
    from zerogen.plm.protocol import LocalWriter

    config = run.config
    small = replace(config.decoding, chunk_size=PROBE)
    generator = Generator(config.task, lambda: plm, small, config.filter, config.seed)
    chunk = next(generator.extend(config.n))
    batch, row_bytes = PROBE, 0
    if isinstance(plm, LocalWriter):
        longest = max(len(plm.encode(sample["prompt"])) for sample in chunk.samples) + config.task.max_new_tokens
        batch, row_bytes = plm.rows_at_a_time(config.decoding, longest), plm.row_bytes(longest)
    return Probed(chunk, generator.context_journal.chunks, batch, row_bytes)


def _values(task: TaskConfig, seed: int) -> list[dict[str, str]]:
    """Return what two prompts are filled with where there is no PLM: contexts that are given, else their names."""
    from zerogen.given import given_contexts
    from zerogen.progress import Progress

    if task.context is None or task.context.source == "plm":
        return [{"C": "<C>"}]
    try:
        found = given_contexts(task, seed).take(0, 2, Progress())
    except Unavailable:
        return [{"C": "<C>", "Y": "<Y>"}]
    return [{"C": one} if isinstance(one, str) else {"C": one[0], "Y": one[1].text} for one in found]


def _some(rows: Sequence[Example], count: int = PROBE) -> list[Example]:
    """Return rows that are spread over all; fewer rows are repeated, under other names."""
    if len(rows) >= count:
        return list(rows[:: len(rows) // count][:count])
    return [replace(rows[i % len(rows)], uid=f"probe-{i}") for i in range(count)] if rows else []


def _pace(run: Run, rows: Sequence[Example]) -> Pace:
    from zerogen.tam.fit import fit

    config = run.config

    def seconds(epochs: int) -> tuple[float, Tam]:
        started = time.perf_counter()
        trainer = replace(config.trainer, epochs=epochs, patience=None)
        # The pace is that of any rows; of equal contexts none would be left to train on.
        apart = [replace(row, context=row.context and f"{row.context} {i}") for i, row in enumerate(rows)]
        plain = rows if config.task.kind == "qa" else apart
        tam, _ = fit(plain, config.task, config.tam, trainer, seed=config.seed, device=run.device)
        return time.perf_counter() - started, tam

    seconds(1)  # the first one warms up
    once, _ = seconds(1)
    thrice, tam = seconds(3)
    trained = len(rows) * (1 - config.trainer.heldout)
    pace = max(1e-6, (thrice - once) / 2 / trained)
    weights = sum(tensor.numel() * 4 for tensor in tam.model.parameters())
    return Pace(max(0.0, once - pace * trained), pace, _seconds_to_predict(tam, rows), weights)


def _seconds_to_predict(tam: Tam, rows: Sequence[Example]) -> float:
    """Return the seconds for a row, of the second of two calls."""
    for _ in range(2):
        started = time.perf_counter()
        tam.predict(tam.inputs_of(rows))
        taken = time.perf_counter() - started
    return taken / len(rows)


def _seconds_to_prompt(plm: Scorer, run: Run, rows: Sequence[Example]) -> float:
    from zerogen.plm.prompting import prompt_answers, prompt_labels

    task: TaskConfig = run.config.task
    started = time.perf_counter()
    if task.kind == "qa":
        prompt_answers(plm, task, rows)
    else:
        prompt_labels(plm, task, rows, run.config.setting)
    return (time.perf_counter() - started) / len(rows)


def _shortened(prompt: str) -> str:
    """Cut a long prompt in its middle, where a passage stands."""
    return prompt if len(prompt) <= 300 else f"{prompt[:120]} ... {prompt[-160:]}"


def _about(value: float) -> str:
    """Round to two digits: more would claim what a probe cannot know."""
    digits = max(0, len(f"{value:.0f}") - 2)
    return f"{round(value, -digits):,.0f}"


def _time(seconds: float) -> str:
    """Write a duration in the unit that fits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
