"""Whole runs of tiny models in forked processes, which load nothing again, and what they leave."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from zerogen.config.schema import ConfidenceConfig, Config, CorrectnessConfig
from zerogen.jobs import run_one
from zerogen.support.console import reporting_errors
from zerogen.support.process import stop_on_signals

without_threads = pytest.mark.skipif(
    torch.get_num_threads() > 1,
    reason="a process with threads cannot be forked safely: OMP_NUM_THREADS=1, as in make test-long",
)

# What holds times and places, which differ from run to run.
TIMES = ("seconds", "folder", "pool", "peak_memory_mb", "command")


def of_all_stages(config: Config, encoder: Path) -> Config:
    """Make a ZEROGEN run of all stages: contexts, texts, two trainings, scores, an evaluator, measures, pages."""
    decoding = replace(config.decoding, chunk_size=64)
    correctness, confidence = CorrectnessConfig(str(encoder)), ConfidenceConfig(rows=40)
    return replace(config, n=60, log_every=30, decoding=decoding, correctness=correctness, confidence=confidence)


def begin(config: Config, folder: Path, before: Callable[[], None] = lambda: None, log: Path | None = None) -> int:
    """Start a run in a process group of its own, whose files lie in `folder`; return its process.

    before: called in that process. log: where what it prints is written; its errors, into a file of that name and .err.
    """
    process = os.fork()  # which loads nothing again
    if process:
        return process
    code: Any = 1
    try:
        os.setsid()
        os.environ["ZEROGEN_CACHE"] = str(folder / "cache")
        if log is not None:
            sys.stderr = Path(f"{log}.err").open("w", buffering=1)  # noqa: SIM115  # until the process ends
        before()
        stop_on_signals()
        with Path(log or os.devnull).open("w") as file, reporting_errors():
            run_one(replace(config, output_dir=str(folder)), Console(file=file, width=200))
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        os._exit(code)


def exit_code(process: int, seconds: float = 300) -> int:
    """Return the exit code of a process, the number of its signal as a negative one."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(process, signal.SIGKILL)
    raise AssertionError(f"a run did not end within {seconds:g} seconds")


def finish(config: Config, folder: Path) -> None:
    assert exit_code(begin(config, folder)) == 0


def seconds_of_a_run(config: Config, folder: Path) -> float:
    """Return how long a run takes that nothing disturbs."""
    started = time.monotonic()
    finish(config, folder)
    return time.monotonic() - started


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def content(folder: Path) -> dict[str, Any]:
    """Return what is in a folder of results, by path, without what differs from run to run."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.parent.parent.name == "training":  # the course of a training that went on has parts
            continue
        if path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text()))
        elif path.name in ("texts.jsonl", "contexts.jsonl", "scores.jsonl"):
            found[name] = [without_times(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix in (".jsonl", ".safetensors", ".parquet", ".arrow"):
            found[name] = path.read_bytes()
        else:  # pages, cards and tables hold times
            found[name] = None
    return found


def on_operations(folder: Path, do: Callable[[str, Path], None]) -> Callable[[], None]:
    """Return what has a process call `do` before each operation that changes files in a folder, with its kind."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in ("os.rename", "os.remove", "os.truncate", "os.rmdir")):
            return
        path = str(arguments[0])
        if path.startswith(f"{folder}/"):
            do(event, Path(path))

    return lambda: sys.addaudithook(hook)


def first_of_each_kind(operations: Sequence[str]) -> dict[str, int]:
    """Return for each kind of operation, whatever numbers are in its name, the place of its first one."""
    kinds = [" ".join(part for part in line.split(".") if not part.isdigit()) for line in operations]
    return {kind: place for place, kind in reversed(list(enumerate(kinds)))}


def watch(folder: Path, log: Path, last: int, then: Callable[[], None] | None = None) -> Callable[[], None]:
    """Return what has a process kill itself before file operation number `last` in a folder, and log each of them.

    then: what it does instead of killing itself, once.
    """
    count = 0

    def do(event: str, path: Path) -> None:
        nonlocal count
        count += 1
        if count <= last + 1:
            with log.open("a") as file:
                file.write(f"{event} {path.relative_to(folder)}\n")
        if count == last + 1:
            (then or (lambda: os.kill(os.getpid(), signal.SIGKILL)))()

    return on_operations(folder, do)
