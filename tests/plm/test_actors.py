"""Actors of a real Ray cluster of two nodes write what one process writes, whatever happens to them."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from zerogen.config.schema import ConfidenceConfig, Config, EngineConfig
from zerogen.jobs import run_one

pytest.importorskip("ray", reason="needs zerogen[ray]")

RAY = str(Path(sys.executable).with_name("ray"))
ENVIRONMENT = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
ROOT = Path(__file__).parents[2]
RUN = """
import pickle, sys
from pathlib import Path

from rich.console import Console

from zerogen.jobs import run_one
from zerogen.support.console import reporting_errors
from zerogen.support.process import stop_on_signals

stop_on_signals()
with reporting_errors():
    run_one(pickle.loads(Path(sys.argv[1]).read_bytes()), Console(width=200))
"""


class Cluster:
    """A head and a further node, each with one core, on this machine."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        command = [RAY, "start", "--head", "--port=0", "--num-cpus=1", "--include-dashboard=false"]
        started = subprocess.run([*command, f"--temp-dir={folder}"], env=ENVIRONMENT, capture_output=True, text=True)
        found = re.search(r"--address='([^']+)'", started.stdout + started.stderr)
        assert found, started
        self.address = found[1]
        self.add()

    def add(self) -> None:
        command = [RAY, "start", f"--address={self.address}", "--num-cpus=1", "--block"]
        self.node = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes of a name below the further node, whose raylet starts the others."""
        below = psutil.Process(self.node.pid).children(recursive=True)
        found = []
        for process in below:
            with suppress(psutil.NoSuchProcess):
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def stop(self) -> None:
        for process in psutil.process_iter(["cmdline"]):
            if any(self.folder in word for word in process.info["cmdline"] or ()):
                process.kill()
        self.node.kill()
        self.node.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="ray-")  # not pytest's: the path of a socket is short
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return replace(
        tiny_config,
        train=False,
        n=300,
        confidence=ConfidenceConfig(0),
        decoding=replace(tiny_config.decoding, chunk_size=64),
    )


def on(config: Config, cluster: Cluster, folder: Path) -> Config:
    engine = EngineConfig("ray", address=cluster.address, cpus=1, workers=2)
    return replace(config, output_dir=str(folder), engine=engine)


def begin(config: Config, path: Path) -> subprocess.Popen[str]:
    path.write_bytes(pickle.dumps(config))
    command = [sys.executable, "-c", RUN, str(path)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **pipes)


def end(process: subprocess.Popen[str]) -> str:
    try:
        said, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, said
    return said


def pool(folder: Path) -> dict[str, list[Any]]:
    """Return the chunks of a pool by file, without the seconds that they took."""
    (texts,) = folder.glob("toy/pool_*/texts.jsonl")
    found = {}
    for path in (texts, texts.with_name("contexts.jsonl")):
        chunks = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.name] = [{key: value for key, value in chunk.items() if key != "seconds"} for chunk in chunks]
    return found


def dataset(folder: Path) -> bytes:
    (path,) = folder.glob("toy/zerogen_*/toy-dataset.jsonl")
    return path.read_bytes()


def check(folder: Path, alone: Path) -> None:
    """Check that a dataset and a pool are those of a run alone."""
    assert dataset(folder) == dataset(alone)
    assert pool(folder) == pool(alone)
    assert not list(folder.rglob("works"))


def wait(condition: Callable[[], Any]) -> Any:
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("what was waited for did not come")


def stop_an_actor(cluster: Cluster, folder: Path) -> psutil.Process:
    """Let the actor of the further node stand still in the middle of a run, until the others wait for it."""
    wait(lambda: list(folder.glob("toy/pool_*/contexts.jsonl")))

    def stopped() -> psutil.Process | None:
        for actor in cluster.processes("ray::Actor"):
            with suppress(psutil.NoSuchProcess):  # that of the run before
                actor.send_signal(signal.SIGSTOP)
                return actor
        return None

    actor: psutil.Process = wait(stopped)

    def work() -> tuple[float, float]:
        """The bytes of the pool, and the seconds that other actors have computed."""
        seconds = 0.0
        for process in psutil.process_iter(["cmdline"]):
            with suppress(psutil.NoSuchProcess):
                if process.pid != actor.pid and "ray::Actor" in " ".join(process.info["cmdline"] or ()):
                    seconds += process.cpu_times().user
        return sum(path.stat().st_size for path in folder.glob("toy/pool_*/*.jsonl")), seconds

    def waiting() -> bool:
        before = work()
        time.sleep(4)
        after = work()
        return before[0] == after[0] and after[1] - before[1] < 0.3

    wait(waiting)
    return actor


def test_rows_are_those_of_one_process(cluster: Cluster, config: Config, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    run_one(replace(config, output_dir=str(alone)), Console(quiet=True))
    said = end(begin(on(config, cluster, tmp_path / "whole"), tmp_path / "whole.pickle"))
    check(tmp_path / "whole", alone)
    assert "lost" not in said and "failed" not in said


@pytest.mark.long
def test_rows_are_those_of_one_process_also_where_a_process_or_a_node_is_lost(
    cluster: Cluster, config: Config, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    run_one(replace(config, output_dir=str(alone)), Console(quiet=True))

    run = begin(on(config, cluster, tmp_path / "process"), tmp_path / "process.pickle")
    stop_an_actor(cluster, tmp_path / "process").kill()
    assert "failed and is written again" in end(run)
    check(tmp_path / "process", alone)

    run = begin(on(config, cluster, tmp_path / "node"), tmp_path / "node.pickle")
    actor = stop_an_actor(cluster, tmp_path / "node")
    for process in [*cluster.processes("raylet"), actor]:
        with suppress(psutil.NoSuchProcess):  # which may have ended with its raylet
            process.kill()
    said = end(run)  # the other node goes on alone
    assert "written again" in said, said
    check(tmp_path / "node", alone)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_run(cluster: Cluster, config: Config, tmp_path: Path, number: signal.Signals) -> None:
    run = begin(on(replace(config, n=2000), cluster, tmp_path / "run"), tmp_path / "run.pickle")
    wait(lambda: list((tmp_path / "run").glob("toy/pool_*/texts.jsonl")))
    run.send_signal(number)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 128 + number, said
    assert "run the same command again to go on" in said


WRITE = """
import sys

import ray

from tests.plm.test_workers import chunks
from zerogen.config.schema import EngineConfig, PlmConfig
from zerogen.data.records import Request
from zerogen.plm.actors import Actors

bad = {int(index) for index in sys.argv[3].split(",")}
asked = chunks(4)
for index in bad:
    asked[index].requests[3:4] = [Request("long", "x" * 10_000)]  # more than the PLM reads
with Actors(PlmConfig("tiny", sys.argv[1], dtype="float32"), EngineConfig("ray", address=sys.argv[2]), "none") as plm:
    plm.report_to(print)
    for output in plm.write(asked):
        print([row.finish_reason for row in output.continuations], flush=True)
"""


def test_a_chunk_that_fails_three_times_costs_its_rows_unless_all_do(cluster: Cluster, tiny_causal: Path) -> None:
    def written(bad: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WRITE, str(tiny_causal), cluster.address, bad]
        return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)

    said = written("2").stdout.splitlines()
    rows = [line for line in said if line.startswith("[")]
    assert rows[2] == str(["failed"] * 6) and not any("failed" in row for row in rows[:2] + rows[3:])
    assert sum("texts-000002 failed and is written again" in line for line in said) == 2
    assert sum("texts-000002 failed 3 times, which costs its rows" in line for line in said) == 1
    failed = written("0,1,2,3")
    assert "ServerFailed: engine=ray: chunk texts-00000" in failed.stderr
    assert not any(line.startswith("[") for line in failed.stdout.splitlines())


WRITE_MANY = """
import re
import sys
from dataclasses import replace

from pathlib import Path

from tests.plm.test_workers import chunks
from zerogen.config.schema import EngineConfig, PlmConfig
from zerogen.plm.actors import Actors

few = [replace(chunk, requests=chunk.requests * 10, max_new_tokens=4) for chunk in chunks(2)]
with Actors(PlmConfig("tiny", sys.argv[1], dtype="float32"), EngineConfig("ray", address=sys.argv[2]), "none") as plm:
    rows, done = 0, 0
    for output in plm.write(replace(few[i % 2], name=f"texts-{i:06d}", seed=i) for i in range(1000)):
        rows, done = rows + len(output.continuations), done + 1
        if done in (100, 1000):
            print(rows, re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.long
def test_the_memory_of_the_driver_does_not_grow_with_what_is_written(cluster: Cluster, tiny_causal: Path) -> None:
    command = [sys.executable, "-c", WRITE_MANY, str(tiny_causal), cluster.address]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    (few, before), (many, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    print(f"{before / 1024:.0f} MB after {few:,} rows, {after / 1024:.0f} MB after {many:,}")
    assert (few, many) == (6_000, 60_000)
    assert after - before < 54_000 * 200 / 1024  # a row that was held would take about 500 bytes
