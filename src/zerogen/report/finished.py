"""Read finished runs from disk, and group those that differ in their seed alone."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from zerogen.config.keys import completed, flat
from zerogen.config.schema import CALIBRATIONS_ON_TEXTS, Config
from zerogen.errors import UserError, unknown
from zerogen.report.plots import Curve
from zerogen.runs.result import Result
from zerogen.runs.settings import PARTS, SETTINGS, UNLABELLED, Setting, recorded_setting
from zerogen.runs.summaries import read_trend
from zerogen.support.doors import is_own

# What does not change the figures of a run, or is its seed.
_IGNORED = {"seed", "seeds", "log_every", "gpu", "processes", "output_dir", "diversity", "correctness", "confidence"}
_IGNORED |= {"logger", "metrics", "method"}
# What belongs to one task and is compared among its runs only.
_OF_TASK = {"task", "dataset", "dataset_labels", "data_dir", "contexts", "answers"} | UNLABELLED


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with its result.json and config.yaml."""

    folder: Path
    result: Result
    config: dict[str, Any]

    @property
    def models(self) -> tuple[str, str, str]:
        """Setting, PLM and TAM, `none` for one that was not used."""
        return self.result.setting, self.result.plm, self.result.tam

    @cached_property
    def setting(self) -> Setting:
        setting = recorded_setting(self.result)
        if setting is None:
            raise unknown(f"{self.folder}: result.json: setting", self.result.setting, SETTINGS)
        return setting

    @property
    def task(self) -> str:
        return self.result.task

    @property
    def method(self) -> str:
        """The name of what several of its keys were set to together."""
        return str(self.config.get("method", Config.method))

    @cached_property
    def choices(self) -> dict[str, Any]:
        """What the run's figures depend on but its seed: dotted key to value."""
        left_out = _IGNORED | (PARTS - self.setting.reads)
        calibrated = (self.config.get("setting") or {}).get("calibration", "none") in CALIBRATIONS_ON_TEXTS
        learned = self.result.rounds or calibrated or self._shows_texts
        if self.result.setting == "zerogen" and not learned:
            left_out |= UNLABELLED  # which rows were only compared with
        return dict(flat({key: value for key, value in completed(self.config).items() if key not in left_out}))

    @property
    def _shows_texts(self) -> bool:
        """Whether unlabelled texts may stand before prompts: a function of the user's own is not looked at."""
        name = self.config.get("demonstrations", Config.demonstrations)
        return name == "unlabelled" or is_own(name)

    def points(self, metric: str) -> dict[int, float]:
        """Return the metric at every size of the trend."""
        trend = read_trend(self.folder / "trend.csv")
        return {n: value for (n, seed, name), value in trend.items() if (seed, name) == (self.result.seed, metric)}


def read_run(folder: Path) -> FinishedRun:
    """Read the folder of a finished run. Raises `UserError` where there is none."""
    result, config = folder / "result.json", folder / "config.yaml"
    if not result.is_file() or not config.is_file():
        raise UserError(f"{folder}: holds no finished run (result.json and config.yaml)")
    read = result
    try:
        written = json.loads(result.read_text(encoding="utf-8"))
        read = config
        keys = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{read}: cannot be read ({reason}); delete the folder to run again") from error
    run = FinishedRun(folder, Result.of(written, str(result), folder), keys)
    _ = run.setting  # an unknown one is refused here
    if not isinstance(keys, dict) or not isinstance(keys.get("task"), dict):
        raise UserError(f"{folder}: config.yaml holds no configuration of a run")
    return run


def read_runs(places: Sequence[Path], skip: bool = False) -> list[FinishedRun]:
    """Read run folders, and all that lie below other folders, each once.

    skip: leave out those that cannot be read. Raises `UserError` for one otherwise, and where there are none.
    """
    folders: dict[Path, None] = {}
    for place in places:
        there = [place] if (place / "result.json").is_file() else sorted(p.parent for p in place.rglob("result.json"))
        if not there:
            raise UserError(f"{place}: holds no finished run, and no folder below it does")
        folders |= {folder.absolute(): None for folder in there}
    runs = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UserError:  # another process may be writing it again
            if not skip:
                raise
    return runs


def latest(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Return those of runs whose figures count.

    Of runs with the same configuration and seed, the one that was written last counts; what trained an evaluator
    does not, since nobody asked for its figures.
    """
    last: dict[str, FinishedRun] = {}
    for run in sorted((run for run in runs if not run.result.evaluator), key=_written):
        choices = {name: value for name, value in run.choices.items() if value is not None}  # as `variants` has it
        key = json.dumps([run.models, run.task, choices, run.result.seed], sort_keys=True, default=str)
        last[key] = run
    counted = {id(run) for run in last.values()}
    return [run for run in runs if id(run) in counted]


def _written(run: FinishedRun) -> float:
    try:
        return (run.folder / "result.json").stat().st_mtime
    except FileNotFoundError:  # another process writes it again
        return float("inf")


def main_metric(runs: Sequence[FinishedRun]) -> str | None:
    """Return the main metric of the first run that has one."""
    return next((name for run in runs for name in run.result.scalars), None)


def variants(runs: Sequence[FinishedRun]) -> list[tuple[str, ...]]:
    """Return for each run the choices, as key=value, that tell it from others of its setting, models and method.

    A choice counts where runs of one task differ in it; one that differs between tasks alone belongs to the task. The
    method stands for what it sets.
    """
    kind = [(*run.models, run.method) for run in runs]
    different: dict[tuple[str, ...], set[str]] = {}
    of_task: dict[tuple[tuple[str, ...], str], set[str]] = {}
    for models, task in {(models, run.task): None for models, run in zip(kind, runs, strict=True)}:
        choices_of_task = [run.choices for of, run in zip(kind, runs, strict=True) if (of, run.task) == (models, task)]
        keys = {
            key
            for choices in choices_of_task
            for key in choices
            if any(c.get(key) != choices[key] for c in choices_of_task)
        }
        of_task[models, task] = {key for key in keys if key.partition(".")[0] in _OF_TASK}
        different.setdefault(models, set()).update(keys - of_task[models, task])
    return [
        ((f"method={run.method}",) if run.method != Config.method else ())
        + tuple(f"{key}={_word(run.choices.get(key))}" for key in sorted(different[models] | of_task[models, run.task]))
        for models, run in zip(kind, runs, strict=True)
    ]


def _word(value: Any) -> str:
    """Write a value as in YAML, on one line."""
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value, ensure_ascii=False)


def curve(name: str, runs: Sequence[FinishedRun], metric: str) -> Curve:
    """Return mean and sample standard deviation of a metric over runs at each size that any of them has."""
    points: dict[int, list[float]] = {}
    for run in runs:
        for size, value in run.points(metric).items():
            points.setdefault(size, []).append(value)
    sizes = sorted(points)
    means, spreads = zip(*(spread(points[size]) for size in sizes), strict=True) if sizes else ((), ())
    return Curve(name, sizes, means, spreads, [len(points[size]) for size in sizes])


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation, 0 for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
