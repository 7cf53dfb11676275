"""Run configurations: one in this process, several each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config.schema import Config
from zerogen.errors import ChildFailed, UserError
from zerogen.runs.result import Failed, Result, title
from zerogen.runs.settings import setting_of
from zerogen.support.console import describe, make_console, reporting_errors
from zerogen.support.process import Stopped, devices_of, require_writable, share_cores, stop_on_signals

if TYPE_CHECKING:
    from rich.console import Console

    from zerogen.runs.run import Run

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a run that a signal has stopped


def expand(config: Config) -> list[Config]:
    """Return one configuration per seed; one in all where the setting draws nothing."""
    if config.seeds is None:
        return [config]
    if not setting_of(config).draws(config):
        return [replace(config, seed=config.seeds[0], seeds=None)]
    return [replace(config, seed=seed, seeds=None) for seed in config.seeds]


def run_one(config: Config, console: Console, pages: bool = True) -> Result:
    """Run one setting on one task with one seed, write its files and return its result.

    pages: write its report and cards, too. A command of several runs does that when all of them are there.
    """
    from zerogen.runs.nearby import begun
    from zerogen.runs.run import Run
    from zerogen.support.files import exclusive
    from zerogen.support.gpus import claimed_devices
    from zerogen.support.progress import RichProgress

    require_writable(Path(config.output_dir))
    progress = RichProgress(console)
    # A run that waits for a GPU must hold no folder: one with a GPU may wait for that.
    with claimed_devices(config.gpu, config.processes, progress.say) as devices:
        run = Run(config, devices, progress)
        # Of two runs with one folder the second waits, and then finds what the first has made.
        try:
            with exclusive(run.folder(), run.progress), begun(run):
                return _run_alone(run, pages)
        except Stopped:
            say_how_to_go_on(run, console)
            raise


def _run_alone(run: Run, pages: bool) -> Result:
    from zerogen.report import present
    from zerogen.runs.store import finished

    earlier = finished(run)
    if earlier is not None:
        result = _reuse(run, earlier)
        if pages:
            present(run.folder())
        return result
    return _run_setting(run, pages)


def _reuse(run: Run, earlier: Result) -> Result:
    """Return the result of a finished run, with what is asked for now and was not then."""
    from zerogen.report import present_evaluator
    from zerogen.runs.store import add_metrics, write_config
    from zerogen.runs.summaries import add_line

    config = run.config
    result = add_metrics(run, earlier)
    done = "nothing done" if result is earlier else "only metrics computed, from its predictions"
    run.progress.say(f"already there, {done}: {run.folder()} (delete the folder to run again)")
    if result.evaluator:  # now it is asked for itself
        result = replace(result, evaluator=False, command=config.command)
        write_config(config, run.folder())
        result.write()
    add_line(Path(config.output_dir) / "results.csv", result, run.progress)
    present_evaluator(_measure(run))
    return result


def _run_setting(run: Run, pages: bool) -> Result:
    """Run a setting, record its course and write its files."""
    from zerogen.metrics import rehearse
    from zerogen.report import present, present_evaluator
    from zerogen.runs.evaluator import require_measures
    from zerogen.runs.loggers import recorded
    from zerogen.runs.run import Outcome
    from zerogen.runs.store import write_run
    from zerogen.runs.summaries import read_trend, write_trend

    config = run.config
    trend = run.folder() / "trend.csv"
    grows = run.setting.grows and config.train
    known: dict[int, dict[str, float]] = {}
    for (n, _, name), value in read_trend(trend).items() if grows else ():
        known.setdefault(n, {})[name] = value
    run.evaluated_sizes = frozenset(known)
    with recorded(config, run.folder(), run.names(), run.progress) as log:
        run.log = log
        for n, metrics in known.items():
            log.point(n, metrics, ())

        def point(outcome: Outcome) -> None:
            if grows and outcome.trend:
                # On disk as soon as it is known, so that a stopped run does not train it again.
                write_trend(trend, config.seed, outcome.trend)
            log.point(outcome.size or outcome.n_train, outcome.metrics, outcome.rows)

        run.on_point = point
        if run.further_metrics and (config.train or config.tam.checkpoint):
            rehearse(config.task, run.gold, run.further_metrics)
        if run.setting.measured(config):
            require_measures(run)
        outcome = run.setting.run(run)
        if not isinstance(outcome, Outcome):
            raise UserError(
                f"setting.name={config.setting.name}: run returned {type(outcome).__name__}, not an Outcome"
            )
        result = write_run(run, outcome)
        measures = _measure(run)
        present_evaluator(measures)
        if pages or log.uploads:
            present(run.folder())
        log.finish(result, measures)
        return result


def _measure(run: Run) -> dict[str, Any] | None:
    """Measure the rows that a run was trained on, if it wrote or read some."""
    from zerogen.measures.rows import describe
    from zerogen.measures.store import measure_run

    if not run.setting.measured(run.config):
        return None
    measures = measure_run(run, run.folder())
    if measures is not None:
        for line in describe(measures):
            run.progress.say(line)
    return measures


def say_how_to_go_on(run: Run, console: Console) -> None:
    """Say what is on disk after a stop."""
    from zerogen.generation.pool import Journal

    kept = ""
    if run.setting.writes and run.setting.starts_afresh(run.config):
        folder = run.pool_folder()
        rows = Journal.open(folder / "texts.jsonl", repair=True).accepted.total()
        kept = f" {rows:,} accepted rows are kept in {folder};"
    console.print(f"stopped;{kept} run the same command again to go on", highlight=False, markup=False, soft_wrap=True)


def run_all(configs: Sequence[Config], console: Console) -> Iterator[Result | Failed]:
    """Run configurations one after the other and yield what came of them; a single one also writes its pages.

    Several run each in a fresh process, so that the peak memory of one is not that of another, and one that fails
    leaves the others as they are. With on_error=stop it raises `ChildFailed` with the exit code of the first that does.
    """
    for config in configs:
        devices_of(config.gpu, config.processes)
    if len(configs) == 1:
        console.rule(title(configs[0]), align="left", style="dim")
        yield run_one(configs[0], console)
        return
    for number, config in enumerate(configs, 1):
        console.rule(f"{number}/{len(configs)} {title(config)}", align="left", style="dim")
        try:
            yield _in_process(config)
        except ChildFailed as failure:
            if config.on_error == "stop" or failure.exitcode in STOPPED:
                raise
            yield Failed(config, failure.reason)


def _in_process(config: Config) -> Result:
    share_cores()  # as it is now; the process takes over what is decided
    job = Job(config)
    try:
        return job.result()
    except Stopped as stopped:
        end([job], stopped.number)
        raise


_starting = threading.Lock()  # whenever multiprocessing starts a process, it collects those that have ended


class Job:
    """A run in a fresh process.

    output: where the process writes what it prints, instead of this process's output.
    """

    def __init__(self, config: Config, output: Connection | None = None) -> None:
        self.config = config
        context = multiprocessing.get_context("spawn")
        self._receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_child, args=(config, sender, output))
        with _starting:
            self.process.start()
        sender.close()

    def result(self) -> Result:
        """Wait for the result of the run. Raises `ChildFailed` where there is none."""
        try:
            result: Result | str | None = self._receiver.recv()
        except EOFError:
            result = None
        wait([self.process.sentinel])
        with _starting:
            self.process.join()
        if self.process.exitcode != 0 or result is None or isinstance(result, str):
            reason = result if isinstance(result, str) else ""
            raise ChildFailed(self.process.exitcode or 0, title(self.config), reason)
        return result


def end(jobs: Sequence[Job], number: int) -> None:
    """End jobs after this process has received a signal."""
    # Ctrl-C reaches the whole foreground group; a signal to this process alone must be passed on.
    if number != signal.SIGINT:
        for job in jobs:
            job.process.terminate()
    wait_until = time.monotonic() + 20
    for job in jobs:
        wait([job.process.sentinel], max(0.0, wait_until - time.monotonic()))
        job.process.terminate()  # one that has ended is left as it is
        wait([job.process.sentinel])


def _child(config: Config, sender: Connection, output: Connection | None) -> None:
    stop_on_signals()
    if output is not None:
        for number, name in ((1, "stdout"), (2, "stderr")):  # also for what prints without Python
            os.dup2(output.fileno(), number)
            setattr(sys, name, open(number, "w", 1, "utf-8", "replace", closefd=False))  # noqa: SIM115
    with reporting_errors():
        try:
            sender.send(run_one(config, make_console(), pages=False))
        except Exception as error:
            sender.send(describe(error))
            raise
    sys.exit(0)
