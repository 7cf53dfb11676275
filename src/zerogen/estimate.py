"""Estimate what a run will take, from a few small steps that are run for real.

Nothing here knows a setting; each one says with a `Probe` what its own stages take.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config.schema import SERVER, Config, PlmConfig
from zerogen.data.records import Example
from zerogen.errors import Unavailable
from zerogen.support.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from zerogen.plm.protocol import Writer
    from zerogen.runs.run import Run
    from zerogen.tam.tam import Tam

PROBE = 32  # requests, or rows
MISSING = "not available, not probed"
GENERATION = "generation"


@dataclass
class Expected:
    """What a run will take: seconds by stage, tokens, bytes on disk, bytes of memory beside what is in use now.

    usage: what a server will be asked for, by name, see `zerogen.plm.protocol.Usage`. scratch: bytes on disk while it
    trains, beside what is there then. unknown: what could not be probed.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    tokens: float = 0.0
    usage: dict[str, float] = field(default_factory=dict)
    disk: float = 0.0
    scratch: float = 0.0
    memory: float = 0.0
    unknown: list[str] = field(default_factory=list)

    def use(self, usage: Mapping[str, float], times: float) -> None:
        """Expect to use a number of times what a small step has used."""
        for name, value in usage.items():
            self.usage[name] = self.usage.get(name, 0.0) + value * times


@dataclass
class Pace:
    """How a TAM trains and predicts: seconds to begin, per row and epoch, per row predicted; its weights in bytes."""

    begin: float
    train: float
    predict: float
    weights: int


class Session:
    """What the probes of one command share: measurements, lines that are said once, one loaded PLM."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.scratch = Path()
        self.folders: dict[Path, dict[str, Any]] = {}  # of earlier jobs, and what they asked for
        self.pools: dict[Path, Counter[str]] = {}  # that earlier jobs will have written, and their rows by label
        self._first: set[str] = set()
        self._memo: dict[str, Any] = {}
        self._lines: set[str] = set()
        self._lines_of_job: set[str] = set()
        self._plm: tuple[str, Writer] | None = None

    def begin_job(self) -> None:
        """Forget what was said: of the seeds of a job, equal lines are said once."""
        self._lines_of_job.clear()

    def say(self, text: str) -> None:
        """Say a line once per job."""
        if text not in self._lines_of_job:
            self._lines_of_job.add(text)
            self.console.print(text, markup=False, highlight=False)

    def say_once(self, text: str) -> None:
        """Say a line that several jobs share once."""
        if text not in self._lines:
            self._lines.add(text)
            self.say(text)

    def first(self, key: Any) -> bool:
        """Tell whether a job is the first to ask for what `key` names, and so takes the time for it."""
        name = json.dumps(key, sort_keys=True, default=str)
        known = name in self._first
        self._first.add(name)
        return not known

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what `make` returned, or raise what it raised, when it was first called for this key."""
        name = json.dumps(key, sort_keys=True, default=str)
        if name not in self._memo:
            try:
                self._memo[name] = make()
            except Unavailable as error:
                self._memo[name] = error
        if isinstance(self._memo[name], Unavailable):
            raise self._memo[name]
        return self._memo[name]

    def open_plm(self, run: Run) -> Writer:
        """Open the PLM, at most one at a time; a GGUF file is not converted into the cache of later runs."""
        from zerogen.support.weights import converted, resolve

        config = run.config.plm
        key = json.dumps([asdict(config), str(run.device)])
        if self._plm is None or self._plm[0] != key:
            local = config.writer == PlmConfig.writer
            source = resolve(config.model, config.revision, "plm.model") if local else None
            if source is not None and source.gguf and not converted(source).is_dir():
                os.environ["ZEROGEN_CACHE"] = str(self.scratch)
            self._plm = None
            self._plm = (key, self.once(["plm", key], run.open_plm))
            del self._memo[json.dumps(["plm", key])]  # held in one place, so that the next PLM frees its memory
        return self._plm[1]


@dataclass
class Probe:
    """A run that is estimated: its gold rows by split (`evaluate` and maybe `train`), and what is expected so far."""

    session: Session
    run: Run
    gold: dict[str, list[Example]]
    expected: Expected

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def evaluated(self) -> int:
        """How many gold rows are reported on."""
        rows = len(self.gold.get("evaluate", ()))
        return min(self.config.eval_limit or rows, rows)

    def say(self, text: str) -> None:
        """Say a line, once for all seeds of a job."""
        self.session.say(text)

    def say_once(self, text: str) -> None:
        """Say a line once for all jobs."""
        self.session.say_once(text)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what `make` returned, or raise `Unavailable` as it did, when it was first called for this key."""
        return self.session.once(key, make)

    def missing(self, what: str, kind: str) -> None:
        """Say that something cannot be had, and leave its kind out of the expectation."""
        self.say_once(f"{what}: {MISSING}")
        if kind not in self.expected.unknown:
            self.expected.unknown.append(kind)

    def plm(self) -> Writer | None:
        """Open the PLM; say what it is, or that it is missing."""
        from zerogen.plm.protocol import LocalWriter

        name = self.config.plm.name
        try:
            plm = self.session.open_plm(self.run)
        except Unavailable as error:
            why = error if self.config.plm.writer == SERVER else self.config.plm.model
            self.missing(f"PLM {name} ({why})", "PLM")
            return None
        what = f"opened by {self.config.plm.writer}"
        if self.config.plm.writer == SERVER:
            what = f"on the server at {self.config.plm.base_url}"
        if isinstance(plm, LocalWriter):
            dtype = str(plm.dtype).removeprefix("torch.")
            what = f"{dtype}, on {'the CPU' if plm.device.type == 'cpu' else plm.device}"
        self.say_once(f"PLM {name}: {what}")
        return plm

    def pace(self, rows: Sequence[Example]) -> Pace | None:
        """Train a TAM on a few rows for one and for three epochs and let it predict them; None where there is none."""
        config = self.config
        rows = some(rows, PROBE if config.task.kind == "qa" else 3 * PROBE)  # windows of passages take long
        try:
            if not rows:
                self.once(["tam", asdict(config.tam), config.task.kind], self.run.require_tam)
                return None
            # Rows of another kind are of another length.
            key = ["pace", asdict(config.tam), asdict(config.trainer), config.task.name, rows[0].text]
            pace: Pace = self.once(key, partial(_pace, self.run, rows))
        except Unavailable:
            self.missing(f"TAM {config.tam.name} ({config.tam.model})", "TAM")
            return None
        self.say_once(f"TAM {config.tam.name} for {config.task.name}: {pace.weights / 4e6:,.0f} million parameters")
        return pace

    def expect_training(self, pace: Pace, sizes: Sequence[int]) -> None:
        """Expect a TAM of that pace to be trained on each number of rows, and evaluated."""
        trainer = self.config.trainer
        seconds = sum(pace.begin + pace.train * size * (1 - trainer.heldout) * trainer.epochs for size in sizes)
        if trainer.ensembling is not None:
            for rows in (size * (1 - trainer.heldout) for size in sizes):
                steps = math.ceil(rows / trainer.batch_size) * trainer.epochs
                seconds += pace.predict * rows * (steps // trainer.ensembling_steps)
        self.expected.seconds["train"] = seconds
        if self.evaluated:
            self.expected.seconds["evaluate"] = pace.predict * self.evaluated * len(sizes)
        self.expected.disk += pace.weights
        # Weights, two moments of each, the best epoch, maybe an average: twice, while one checkpoint replaces another.
        copies = 4 if trainer.ema is None else 5
        self.expected.scratch = max(self.expected.scratch, 2 * copies * pace.weights)


def some(rows: Sequence[Example], count: int = PROBE) -> list[Example]:
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
        # What a progress says of rows is about this probe, not about the run: it is not shown.
        tam, _ = fit(plain, config.task, config.tam, trainer, seed=config.seed, device=run.device, progress=Progress())
        return time.perf_counter() - started, tam

    seconds(1)  # the first one warms up
    once, _ = seconds(1)
    thrice, tam = seconds(3)
    trained = len(rows) * (1 - config.trainer.heldout)
    pace = max(1e-6, (thrice - once) / 2 / trained)
    weights = sum(tensor.numel() * 4 for tensor in tam.model.parameters())
    return Pace(max(0.0, once - pace * trained), pace, seconds_to_predict(tam, rows), weights)


def seconds_to_predict(tam: Tam, rows: Sequence[Example]) -> float:
    """Return the seconds for a row, of the second of two calls."""
    for _ in range(2):
        started = time.perf_counter()
        tam.predict(tam.inputs_of(rows))
        taken = time.perf_counter() - started
    return taken / len(rows)


def shortened(prompt: str) -> str:
    """Cut a long prompt in its middle, where a passage stands."""
    return prompt if len(prompt) <= 300 else f"{prompt[:120]} ... {prompt[-160:]}"


def about(value: float) -> str:
    """Round to two digits: more would claim what a probe cannot know."""
    digits = max(0, len(f"{value:.0f}") - 2)
    return f"{round(value, -digits):,.0f}"


def duration(seconds: float) -> str:
    """Write a duration in the unit that fits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
