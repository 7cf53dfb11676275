"""The processes that torchrun starts, as on two machines, write what one process writes."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.plm.test_actors import pool
from tests.plm.test_workers import chunks
from zerogen.config.schema import EngineConfig, PlmConfig
from zerogen.data.records import Request
from zerogen.errors import ChildFailed, UserError
from zerogen.plm.nodes import Nodes, rank_of
from zerogen.plm.workers import HELD, GeneratorModule, Order

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
TASK = """
name: toy
labels: [bad, good]
max_new_tokens: 24
min_words: 1
prompts: {bad: 'A bad "<C>": "', good: 'A good "<C>": "'}
context: {prompt: 'Film: "', max_new_tokens: 12, per_label: 2}
parse: {fallback: sentence}
"""


@pytest.fixture
def command(tmp_path: Path, tiny_causal: Path) -> list[str]:
    """The words of a run that only generates."""
    task = tmp_path / "conf" / "task" / "toy.yaml"
    task.parent.mkdir(parents=True)
    task.write_text(TASK)
    words = ["--config-dir", "conf", "task=toy", f"plm.model={tiny_causal}", "plm.name=tiny", "tam=minilm", "n=64"]
    words += ["train=false", "gpu=none", "filter.min_words=1", "filter.min_acceptance=0", "confidence.rows=0"]
    return ["-m", "zerogen", *words, "decoding.chunk_size=64"]


@pytest.mark.parametrize(("rank", "size"), [(0, 4), (3, 4)])
def test_torchrun_counts_where_slurm_has_started_it(rank: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"NTASKS": "2", "NTASKS_PER_NODE": "1", "PROCID": "0", "JOB_ID": "7", "JOB_NAME": "train"}
    torch = {"TORCHELASTIC_RUN_ID": "x", "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**{f"SLURM_{name}": value for name, value in slurm.items()}, **torch}.items():
        monkeypatch.setenv(name, value)
    assert rank_of(EngineConfig("lightning", nodes=2)) == (rank, size)
    with pytest.raises(UserError, match=r"engine.nodes=4: 4 processes were started, 2 on each node"):
        rank_of(EngineConfig("lightning", nodes=4))


def test_a_chunk_that_cannot_be_written_ends_its_run_and_not_the_group(tiny_causal: Path, tmp_path: Path) -> None:
    good, bad = PlmConfig("tiny", str(tiny_causal), dtype="float32"), PlmConfig("tiny", str(tmp_path), dtype="float32")
    group = tmp_path / "group"
    group.mkdir()
    module, (chunk,) = GeneratorModule(survives=True), chunks(1)
    with Nodes(good, EngineConfig("lightning", folder=str(group)), 1, tmp_path / "works") as writer:
        writer.start()
        module.predict_step(Order(chunk, bad, writer.folder), 0)
        with pytest.raises(UserError, match="plm.model"):
            writer.check()
        long = replace(chunk, requests=[Request("long", "x" * 10_000)])
        module.predict_step(Order(long, good, writer.folder), 0)
        with pytest.raises(ChildFailed) as failed:
            writer.check()
        assert failed.value.reason
        writer.check()
        module.predict_step(Order(chunk, good, writer.folder), 0)
        assert len(list(writer.write([chunk]))) == 1
        module.predict_step(Order(chunk, good, tmp_path / "deleted"), 0)  # nobody waits for it
    assert not (tmp_path / "works").exists() and not (tmp_path / "deleted").exists()


def nodes(command: list[str], folder: Path, *more: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [*command, "engine=lightning", "engine.nodes=2", *more]
    return [
        subprocess.Popen(
            [*TORCHRUN, "--node-rank", str(rank), "--master-addr", "127.0.0.1", "--master-port", port, *words],
            cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


def end(started: list[subprocess.Popen[str]], code: int = 0) -> list[str]:
    said = []
    try:
        for node in started:
            said.append(node.communicate(timeout=300)[0])
            assert (node.returncode == 0) is (code == 0), said
    finally:
        for node in started:
            node.kill()
    return said


def files(folder: Path) -> dict[str, bytes]:
    """Return the datasets of all runs in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("toy-dataset.jsonl")}


@pytest.mark.parametrize("seeds", ["0", pytest.param("0,1", marks=pytest.mark.long)])
def test_rows_are_those_of_one_process(command: list[str], tmp_path: Path, seeds: str) -> None:
    words = [f"seeds=[{seeds}]"]
    subprocess.run([sys.executable, *command, *words, "output_dir=alone"], cwd=tmp_path, check=True)
    alone = files(tmp_path / "alone")
    assert len(alone) == len(seeds.split(","))

    first, second = end(nodes(command, tmp_path, *words, "output_dir=together"))
    assert files(tmp_path / "together") == alone
    if seeds == "0":
        assert pool(tmp_path / "together") == pool(tmp_path / "alone")
    assert "rows" in first and not second.strip()
    left = {path.name for path in (tmp_path / "together").iterdir()}
    assert left <= {".results.lock", "results.csv", "toy", "overview.html"}, left
    assert not list(tmp_path.rglob("works"))

    if len(alone) > 1:
        first, _ = end(nodes(command, tmp_path, *words, "output_dir=together"))  # nothing to do: none waits
        assert "already there" in first


@pytest.mark.long
def test_a_signal_stops_all(command: list[str], tmp_path: Path) -> None:
    started = nodes(command, tmp_path, "output_dir=together", "n=2000")
    limit = time.monotonic() + 120
    while not list((tmp_path / "together").glob("toy/pool_*/texts.jsonl")) and time.monotonic() < limit:
        time.sleep(0.02)
    asked = time.monotonic()
    for node in started:
        node.send_signal(signal.SIGTERM)
    first, _ = end(started, code=1)
    assert time.monotonic() - asked < 30  # torchrun waits for its processes
    assert "run the same command again to go on" in first


@pytest.mark.long
def test_a_node_that_is_lost_with_a_chunk_costs_no_row(command: list[str], tmp_path: Path) -> None:
    subprocess.run([sys.executable, *command, "output_dir=alone"], cwd=tmp_path, check=True)
    first, second = nodes(command, tmp_path, "output_dir=together")
    try:
        lost = psutil.Process(second.pid)
        limit = time.monotonic() + 120
        while time.monotonic() < limit:
            of_second = [lost, *lost.children(recursive=True)]
            held = [path.name for path in (tmp_path / "together").glob(f".nodes-*/*{HELD}*")]
            if any(name.endswith(f"-{process.pid}") for process in of_second for name in held):
                break
        for process in of_second:
            process.kill()
        (run,) = psutil.Process(first.pid).children()
        run.wait(timeout=300)
        first.kill()  # torchrun itself waits five minutes for the other one
        said, _ = first.communicate(timeout=60)
        assert files(tmp_path / "together") == files(tmp_path / "alone"), said
        assert said.count("shows no sign of life: another one writes its chunk") == 1, said
        assert not list((tmp_path / "together").glob(".*nodes-*")) and not list(tmp_path.rglob("works"))
    finally:
        first.kill()
        second.kill()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["engine=lightning"], "engine=lightning engine.nodes=1: is for a command that torchrun or srun has started"),
        (["engine.nodes=2"], "engine.nodes=2: is read by engine=lightning, not by engine=local"),
        (["engine=ray", "engine.workers=0"], "engine.workers=0: allowed is 1 or more"),
        (["engine=ray", "processes=2"], "processes=2: is for engine=local"),
        (["engine=ray", "gpu=0"], "gpu=0: engine=ray knows which GPUs there are; allowed is auto or none"),
        (["engine=rays"], "engine=rays: is unknown; allowed: lightning, local, ray; did you mean 'ray'?"),
        (["engine=ray", "engine.address=127.0.0.1:1"], "engine.address=127.0.0.1:1: no Ray cluster answers there"),
    ],
)
def test_an_engine_that_cannot_be_had_is_one_line(
    command: list[str], tmp_path: Path, words: list[str], said: str
) -> None:
    done = subprocess.run([sys.executable, *command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()
