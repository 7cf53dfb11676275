"""Minutes each: the installed wheel, and runs that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

CHECKOUT = Path(__file__).parents[1]
SMALL = ["experiment=demo", "setting=zerogen", "train=false", "decoding.chunk_size=64", "n=60"]


def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(CHECKOUT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(installed), str(wheel)], check=True)
    work = tmp_path / "work"
    work.mkdir()
    environment = os.environ | {"PYTHONPATH": str(installed)}
    arguments = ["experiment=demo", "setting=supervised", "limit=40", "eval_limit=40"]
    for program in ([sys.executable, "-m", "zerogen"], [sys.executable, str(installed / "bin" / "zerogen")]):
        done = subprocess.run(
            [*program, *arguments], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    where = subprocess.run(
        [sys.executable, "-c", "from zerogen.task import conf_dir; print(conf_dir())"],
        cwd=work, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()) == installed / "zerogen" / "conf"


def generated(folder: Path) -> list[dict[str, object]]:
    (path,) = folder.glob("outputs/*/zerogen_*/rotten_tomatoes-dataset.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_killed_at_any_moment_gives_the_same_rows(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zerogen", *SMALL]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    subprocess.run(command, cwd=whole, check=True, stdout=subprocess.DEVNULL)
    kills = 0
    for seconds in (9.0, 14.0, 19.0, 24.0):
        process = subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        time.sleep(0.1)
    subprocess.run(command, cwd=killed, check=True, stdout=subprocess.DEVNULL)
    assert kills >= 1
    assert generated(killed) == generated(whole)
