"""Runs that are killed, at random and between any two writes: the next one ends as if nothing had happened."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
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

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        torch.get_num_threads() > 1,
        reason="a process with threads cannot be forked safely: OMP_NUM_THREADS=1, as in make test-long",
    ),
]

# What holds times and places, which differ from run to run.
TIMES = ("seconds", "folder", "pool", "peak_memory_mb", "command")


@pytest.fixture
def config(tiny_config: Config, tiny_encoder: Path) -> Config:
    """A ZEROGEN run of all stages: contexts, texts, two trainings, scores, an evaluator, measures, pages."""
    decoding = replace(tiny_config.decoding, chunk_size=64)
    correctness, confidence = CorrectnessConfig(str(tiny_encoder)), ConfidenceConfig(rows=40)
    return replace(tiny_config, n=60, log_every=30, decoding=decoding, correctness=correctness, confidence=confidence)


def begin(config: Config, folder: Path, before: Callable[[], None] = lambda: None, log: Path | None = None) -> int:
    """Start a run in a process group of its own, whose files lie in `folder`; return its process.

    log: where what it prints is written.
    """
    process = os.fork()  # which loads nothing again
    if process:
        return process
    code: Any = 1
    try:
        os.setsid()
        os.environ["ZEROGEN_CACHE"] = str(folder / "cache")
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


def watch(folder: Path, log: Path, last: int) -> Callable[[], None]:
    """Return what has a process kill itself before file operation number `last` in a folder, and log each of them."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in ("os.rename", "os.remove", "os.truncate", "os.rmdir")):
            return
        path = str(arguments[0])
        if not path.startswith(str(folder)) or path == str(log):
            return
        with log.open("a") as file:
            file.write(f"{event} {Path(path).relative_to(folder)}\n")
        if len(log.read_text().splitlines()) > last:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: sys.addaudithook(hook)


def test_runs_killed_at_random_moments_lose_nothing(config: Config, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    started = time.monotonic()
    finish(config, whole)
    seconds = time.monotonic() - started
    expected = content(whole)
    assert any(name.endswith("tam/model.safetensors") for name in expected)
    draws, killed = random.Random(0), 0
    for number in range(20):
        folder = tmp_path / str(number)
        process = begin(config, folder)
        time.sleep(draws.uniform(0.02, 0.98) * seconds)
        os.killpg(process, signal.SIGKILL)
        killed += exit_code(process) == -signal.SIGKILL
        finish(config, folder)
        assert content(folder) == expected
    assert killed >= 15  # of the others the machine was faster than before


def test_runs_killed_between_two_writes_lose_nothing(config: Config, tmp_path: Path) -> None:
    whole, log = tmp_path / "whole", tmp_path / "log"
    process = begin(config, whole, watch(whole, log, 10**9))
    assert exit_code(process) == 0
    expected, operations = content(whole), log.read_text().splitlines()
    kinds = [" ".join(part for part in line.split(".") if not part.isdigit()) for line in operations]
    first = {kind: place for place, kind in reversed(list(enumerate(kinds)))}
    moments = sorted({*first.values(), *range(0, len(operations), max(1, len(operations) // 20))})
    assert len(moments) > 20
    for moment in moments:
        folder, log = tmp_path / f"at-{moment}", tmp_path / f"log-{moment}"
        assert exit_code(begin(config, folder, watch(folder, log, moment))) == -signal.SIGKILL, operations[moment]
        finish(config, folder)
        assert content(folder) == expected, operations[moment]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_runs_stopped_at_random_moments_end_soon_and_say_how_to_go_on(
    config: Config, tmp_path: Path, number: signal.Signals
) -> None:
    whole = tmp_path / "whole"
    started = time.monotonic()
    finish(config, whole)
    seconds = time.monotonic() - started
    expected, draws, stopped = content(whole), random.Random(number), 0
    for place in range(12):
        folder, log = tmp_path / str(place), tmp_path / f"log-{place}"
        process = begin(config, folder, log=log)
        time.sleep(draws.uniform(0.05, 0.95) * seconds)
        asked = time.monotonic()
        os.kill(process, number)
        code = exit_code(process)
        assert time.monotonic() - asked < 10
        if code:  # else it was done before
            assert code == 128 + number
            assert "run the same command again to go on" in log.read_text().splitlines()[-1]
            stopped += 1
        finish(config, folder)
        assert content(folder) == expected
    assert stopped >= 8
