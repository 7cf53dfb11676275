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
SMALL = ["experiment=demo", "setting=zerogen", "train=false", "decoding.chunk_size=64", "n=130", "log_every=null"]


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
        [sys.executable, "-c", "from zerogen.config.bundled import conf_dir; print(conf_dir())"],
        cwd=work, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()) == installed / "zerogen" / "conf"


def generated(folder: Path) -> list[dict[str, object]]:
    (path,) = folder.glob("outputs/*/zerogen_*/rotten_tomatoes-dataset.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


# Killed when a file of the pool has that many lines and so many seconds have passed: in stage 1 before anything is
# there, in stage 2, in stage 1 again, and in a later chunk.
MOMENTS = [(".lock", 0, 0.6), ("contexts.jsonl", 1, 0.6), ("texts.jsonl", 1, 0.2), ("texts.jsonl", 2, 0.9)]


def kill_at(process: subprocess.Popen[bytes], folder: Path, name: str, lines: int, seconds: float) -> bool:
    """Kill a run at a moment; return whether it was still running."""
    while process.poll() is None:
        files = list(folder.glob(f"outputs/*/pool_*/{name}"))
        if files and files[0].read_bytes().count(b"\n") >= lines:
            time.sleep(seconds)
            break
        time.sleep(0.02)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(600):  # its workers, which may still be loading the PLM, end by themselves
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return running
        time.sleep(0.1)
    raise AssertionError("worker processes outlive their run")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_in_any_stage_gives_the_same_rows(processes: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zerogen", *SMALL]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    subprocess.run(command, cwd=whole, check=True, stdout=subprocess.DEVNULL)
    command.append(f"processes={processes}")
    for moment in MOMENTS:
        process = subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL, start_new_session=True)
        assert kill_at(process, killed, *moment)
    subprocess.run(command, cwd=killed, check=True, stdout=subprocess.DEVNULL)
    assert generated(killed) == generated(whole)
    assert not list(killed.glob("outputs/*/pool_*/works"))
