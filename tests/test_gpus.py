"""Claims on GPUs, by processes and plain names: this needs no GPU."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from zerogen.support.gpus import claimed, claimed_devices, marked, names_of

HOLD = """
import sys
from zerogen.support.gpus import claimed, marked
def say(line): print(line, flush=True)
if sys.argv[1] == "auto":
    with claimed(["GPU-a", "GPU-b"], say) as index:
        print(index, flush=True)
        sys.stdin.read()
else:
    with marked(sys.argv[1]):
        print(sys.argv[1], flush=True)
        sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the claims of a test be no one else's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@contextmanager
def holding(gpu: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, gpu], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_each_run_takes_another_gpu_and_the_next_waits_until_one_is_killed() -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(holding("auto")) for _ in range(2))
        assert sorted([line(first), line(second)]) == ["0", "1"]
        third = stack.enter_context(holding("auto"))
        assert line(third) == "waiting for a GPU: other runs have claimed all 2 (gpu=INDEX takes one all the same)"
        second.kill()
        second.wait()
        assert line(third) in ("0", "1")
        fourth = stack.enter_context(holding("auto"))
        assert line(fourth).startswith("waiting")
        assert first.stdin is not None
        first.stdin.close()  # so that it ends by itself
        assert line(fourth) in ("0", "1")


def test_a_gpu_that_is_named_is_taken_all_the_same_and_others_avoid_it() -> None:
    with holding("GPU-a") as first, holding("GPU-a") as second:
        assert line(first) == line(second) == "GPU-a"
        with holding("auto") as third:
            assert line(third) == "1"


def test_a_claim_ends_with_its_block() -> None:
    said: list[str] = []
    for _ in range(2):
        with claimed(["one"], said.append) as index:
            assert index == 0
    with marked("one"), marked("one"), claimed(["one", "two"], said.append) as index:
        assert index == 1
    assert not said


def test_the_name_of_a_gpu_is_the_same_in_all_processes() -> None:
    assert names_of(["a", "b"], "") == ["a", "b"]
    # A cluster may show each job its GPU as number 0.
    assert names_of(["b"], "0") == ["b"]
    assert names_of([None, None], "3,1") == ["3", "1"]
    assert names_of([None], "") == ["0"]
    assert names_of(["a", "a"], "MIG-1, MIG-2") == ["MIG-1", "MIG-2"]  # parts of one GPU


def test_a_cpu_is_not_claimed(tmp_path: Path) -> None:
    with claimed_devices("none", 2, lambda line: None) as devices:
        assert [device.type for device in devices] == ["cpu", "cpu"]
    assert not list(tmp_path.iterdir())
