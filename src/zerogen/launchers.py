"""Run several configurations side by side: by joblib or submitit here, or by submitit on a Slurm cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import Pipe, TimeoutError
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config.schema import Config
from zerogen.errors import ChildFailed, ServerFailed, UserError
from zerogen.jobs import STOPPED, Job, end, run_one
from zerogen.runs.result import Failed, Result, title
from zerogen.support.console import describe, make_console
from zerogen.support.process import (
    Stopped,
    devices_of,
    go_offline_without_network,
    share_cores,
    starting_crowds,
    stop_no_longer,
    stop_on_signals,
)

if TYPE_CHECKING:
    from rich.console import Console

_POLL = 1.0  # seconds between two looks at submitted jobs
_QUEUE_POLL = 15.0  # seconds between two looks at a cluster's queue
_LONGEST_END = 20  # seconds that jobs on this machine have to end
_SIGNAL_AGAIN = 5  # seconds after which one that has not ended is sent another signal
_GPUS = "CUDA_VISIBLE_DEVICES"
_OWN = ("launcher", "submitit_folder", "max_num_timeout")  # settings that are none of a submission


def launch(configs: Sequence[Config], console: Console) -> Iterator[Result | Failed]:
    """Run configurations by the launcher that they name; yield what came of them, in their order.

    Raises `UserError` for what the launcher refuses and, with on_error=stop, `ChildFailed` for a run that fails; then
    those under way are ended.
    """
    name = configs[0].launcher["launcher"]
    if name != "submitit_slurm":  # there, the GPUs are those of other machines
        for config in configs:
            devices_of(config.gpu, config.processes)
    return _by_joblib(configs, console) if name == "joblib" else _by_submitit(configs, console)


def _by_joblib(configs: Sequence[Config], console: Console) -> Iterator[Result | Failed]:
    """Run each configuration in a process of its own, which one of joblib's threads waits for."""
    from joblib import Parallel, delayed

    settings = configs[0].launcher
    if settings["n_jobs"] == 0:
        raise UserError("hydra.launcher.n_jobs=0: allowed is a number of jobs, or -1 for one per core")
    running: list[Job] = []
    ending, starting = threading.Event(), threading.Lock()

    def run(number: int, config: Config) -> Result | Failed:
        reader, writer = Pipe(duplex=False)
        with starting, starting_crowds() if settings["n_jobs"] != 1 else nullcontext():
            if ending.is_set():
                return Failed(config, "not started")
            job = Job(config, writer)
            running.append(job)
        writer.close()
        printing = threading.Thread(target=_print_lines, args=(reader, f"{number}/{len(configs)} ", console))
        printing.start()
        try:
            return job.result()
        except Stopped as stopped:  # joblib runs a single job at a time in this thread
            end([job], stopped.number)
            raise
        except ChildFailed as failure:
            if config.on_error == "stop" or failure.exitcode in STOPPED:
                raise
            return Failed(config, failure.reason)
        finally:
            printing.join()
            running.remove(job)

    for number, config in enumerate(configs, 1):
        _say(console, f"{number}/{len(configs)} {title(config)}")
    share_cores()  # as it is now; the processes take over what is decided
    told = {key: settings[key] for key in ("n_jobs", "verbose", "timeout")}
    parallel = Parallel(**told, backend="threading", batch_size=1, return_as="generator")
    number = int(signal.SIGTERM)
    try:
        yield from parallel(delayed(run)(number, config) for number, config in enumerate(configs, 1))
    except TimeoutError as error:
        reason = "a job took longer; what was finished is kept, run the same command again to go on"
        raise ChildFailed(0, f"hydra.launcher.timeout={settings['timeout']}", reason) from error
    except Stopped as stopped:
        number = stopped.number
        raise
    except ChildFailed as failure:
        if failure.exitcode in STOPPED:  # Ctrl-C reached that process sooner than this one
            number = failure.exitcode - 128
        raise
    finally:
        with starting:
            ending.set()
        end(tuple(running), number)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _print_lines(reader: Connection, prefix: str, console: Console) -> None:
    """Print what a job prints, line by line, until it ends."""
    try:
        with open(reader.fileno(), encoding="utf-8", errors="replace", closefd=False) as lines:
            for line in lines:
                _say(console, prefix + line.rstrip("\n"))
    finally:  # also where nobody reads what is printed here: the job must not wait for that
        reader.close()


def _by_submitit(configs: Sequence[Config], console: Console) -> Iterator[Result | Failed]:
    """Submit a job for each configuration, and wait for all of them."""
    jobs: list[Any] = []
    outcomes: dict[int, Result | Failed] = {}
    given = 0
    try:
        with _signals_later():  # else nobody would know the jobs that are to be cancelled
            _submit(configs, jobs)
        ids = ", ".join(job.job_id for job in jobs)
        _say(console, f"submitted: {ids}; what these jobs print is in {jobs[0].paths.folder.parent}")
        queue = _Queue(jobs) if configs[0].launcher["launcher"] == "submitit_slurm" else None
        while given < len(jobs):
            for place, (job, config) in enumerate(zip(jobs, configs, strict=True)):
                # Not by submitit, which asks a cluster's accounting: small clusters have none.
                ended = place not in outcomes and (queue.lost(job) if queue else job.done())
                if place in outcomes or not (ended or job.paths.result_pickle.exists()):
                    continue
                outcomes[place] = outcome = _outcome(job, config)
                reason = f"failed: {outcome.reason}" if isinstance(outcome, Failed) else str(outcome.folder)
                _say(console, f"{place + 1}/{len(jobs)} {title(config)}: {reason}")
                if isinstance(outcome, Failed) and config.on_error == "stop":
                    raise ChildFailed(0, title(config), outcome.reason)
            while given in outcomes:
                yield outcomes[given]
                given += 1
            time.sleep(_POLL if given < len(jobs) else 0)
    finally:
        left = [job for place, job in enumerate(jobs) if place not in outcomes]
        if left:
            _cancel(left, configs[0].launcher["launcher"])
            ids = ", ".join(job.job_id for job in left)
            _say(console, f"cancelled: {ids}; run the same command again to go on")
        with suppress(OSError):  # local jobs make one of that very name, and nothing in it
            Path(configs[0].launcher["submitit_folder"]).expanduser().rmdir()


@contextmanager
def _signals_later() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the block ends.

    Ctrl-C reaches processes that the block starts, too: they do not see it, since this one ends their jobs.
    """
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, lambda number, frame: held.append(number)) for number in numbers}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for again in held:
            signal.raise_signal(again)


class _Queue:
    """What Slurm says of submitted jobs."""

    def __init__(self, jobs: Sequence[Any]) -> None:
        self._ids = ",".join(dict.fromkeys(job.job_id.partition("_")[0] for job in jobs))
        self._looks: list[set[str]] = []  # the jobs that were waiting or running at the last two looks
        self._looked = time.monotonic()

    def lost(self, job: Any) -> bool:
        """Tell whether a job neither waits nor runs any more, twice in turn: what it has written may come late."""
        if time.monotonic() > self._looked + _QUEUE_POLL:
            command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={self._ids}"]
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            if said.returncode == 0 or "Invalid job id" in said.stderr:  # as it says of those that ended long ago
                self._looks = [*self._looks[-1:], set(said.stdout.split())]
            self._looked = time.monotonic()
        return len(self._looks) == 2 and not any(job.job_id in look for look in self._looks)


def _submit(configs: Sequence[Config], jobs: list[Any]) -> None:
    """Submit a job for each configuration and add it to `jobs`, also where not all of them can be submitted.

    Raises `UserError` for what submitit, or the cluster, refuses.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    settings, name = configs[0].launcher, configs[0].launcher["launcher"]
    cluster = name.removeprefix("submitit_")
    for key in ("nodes", "tasks_per_node"):
        if settings[key] != 1:
            raise UserError(f"hydra.launcher.{key}={settings[key]}: a job is one process here; allowed is 1")
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError(f"hydra/launcher={name}: this machine has no sbatch; allowed here: joblib, submitit_local")
    told: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in _OWN and value is not None:
            told[key if key in submitit.AutoExecutor._typed_parameters() else f"{cluster}_{key}"] = value
    retries = {"slurm_max_num_timeout": settings["max_num_timeout"]} if cluster == "slurm" else {}
    visible = os.environ.get(_GPUS)
    hidden = cluster == "local" and settings["gpus_per_node"] != 0
    share_cores()
    try:
        executor = submitit.AutoExecutor(settings["submitit_folder"], cluster, **retries)
        executor.update_parameters(**told)
        submitted = Submitted({_GPUS: visible} if hidden else {})
        if cluster == "slurm":
            jobs += executor.map_array(submitted, configs)
            return
        with starting_crowds() if len(configs) > 1 else nullcontext():
            for config in configs:
                jobs.append(executor.submit(submitted, config))
    except (FailedJobError, FailedSubmissionError, ValueError, AssertionError) as error:
        raise UserError(f"hydra/launcher={name}: {str(error).strip()}") from error


def _cancel(jobs: Sequence[Any], name: str) -> None:
    """End submitted jobs; on this machine, wait until they have ended."""
    if name == "submitit_slurm":
        for job in jobs:
            job.cancel(check=False)
        return
    for second in range(_LONGEST_END):
        left = [job for job in jobs if not job.done()]
        # Submitit's own way would kill a run after a second. One that only begins ignores the signal.
        for job in left if second % _SIGNAL_AGAIN == 0 else ():
            with suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        if left:
            time.sleep(1)
    for job in jobs:
        if not job.done():
            with suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGKILL)


def _outcome(job: Any, config: Config) -> Result | Failed:
    """Return what a submitted job has come to."""
    from submitit.core.utils import FailedJobError

    if not job.paths.result_pickle.exists():
        return Failed(config, f"job {job.job_id} was ended; what it printed is in {job.paths.folder}")
    try:
        outcome = job.result()
    except FailedJobError:  # before the run, or because of its time limit
        return Failed(config, f"job {job.job_id} failed; it says why in {job.paths.stderr}")
    return outcome if isinstance(outcome, Result) else Failed(config, str(outcome))


class Submitted:
    """What a submitted job does; started again after a time limit or a preemption, it does the same and so goes on.

    environment: variables to set before anything is loaded; None for one to remove.
    """

    def __init__(self, environment: Mapping[str, str | None]) -> None:
        self.environment = environment

    def __call__(self, config: Config) -> Result | str:
        """Return the result of a run, or why it failed."""
        for name, value in self.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        stop_on_signals()  # also SIGTERM, which submitit would ignore until the job is killed
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        go_offline_without_network()
        try:
            return run_one(config, make_console(), pages=False)
        except Stopped as stopped:
            sys.exit(128 + stopped.number)  # no outcome: Slurm may start the job again
        except (UserError, ServerFailed, ChildFailed) as error:
            print(describe(error), file=sys.stderr)
            return describe(error)
        except Exception as error:
            traceback.print_exc()
            return describe(error)
        finally:
            stop_no_longer()

    def checkpoint(self, config: Config) -> Any:
        """Return what submitit submits when the job nears its time limit or is preempted: the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, config)
