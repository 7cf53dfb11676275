"""Runs that are killed, at random and between any two writes: the next one ends as if nothing had happened."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.forks import (
    begin,
    content,
    exit_code,
    finish,
    first_of_each_kind,
    of_all_stages,
    seconds_of_a_run,
    watch,
    without_threads,
)
from zerogen.config.schema import Config

pytestmark = [pytest.mark.long, without_threads]


@pytest.fixture
def config(tiny_config: Config, tiny_encoder: Path) -> Config:
    return of_all_stages(tiny_config, tiny_encoder)


def test_runs_killed_at_random_moments_lose_nothing(config: Config, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    seconds = seconds_of_a_run(config, whole)
    expected = content(whole)
    assert any(name.endswith("tam/model.safetensors") for name in expected)
    draws, killed = random.Random(0), 0
    while killed < 20:
        folder = tmp_path / str(killed)
        process = begin(config, folder)
        time.sleep(draws.uniform(0.02, 0.98) * seconds)
        os.killpg(process, signal.SIGKILL)
        code = exit_code(process)
        if code:
            assert code == -signal.SIGKILL
            killed += 1
        else:  # the machine is faster by now
            seconds *= 0.9
        finish(config, folder)
        assert content(folder) == expected
        shutil.rmtree(folder)


def test_runs_killed_between_two_writes_lose_nothing(config: Config, tmp_path: Path) -> None:
    whole, log = tmp_path / "whole", tmp_path / "log"
    process = begin(config, whole, watch(whole, log, 10**9))
    assert exit_code(process) == 0
    expected, operations = content(whole), log.read_text().splitlines()
    moments = sorted(
        {*first_of_each_kind(operations).values(), *range(0, len(operations), max(1, len(operations) // 20))}
    )
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
    seconds = seconds_of_a_run(config, whole)
    expected, draws, stopped = content(whole), random.Random(number), 0
    while stopped < 12:
        folder, log = tmp_path / str(stopped), tmp_path / f"log-{stopped}"
        process = begin(config, folder, log=log)
        time.sleep(draws.uniform(0.05, 0.95) * seconds)
        asked = time.monotonic()
        os.kill(process, number)
        code = exit_code(process)
        assert time.monotonic() - asked < 10
        if code:
            assert code == 128 + number
            assert "run the same command again to go on" in log.read_text().splitlines()[-1]
            stopped += 1
        else:  # the machine is faster by now
            seconds *= 0.9
        finish(config, folder)
        assert content(folder) == expected
        shutil.rmtree(folder)
