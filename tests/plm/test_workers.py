"""Worker processes write what one process writes, whatever happens to them."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from tests.conftest import byte_tokenizer, causal_model
from zerogen.config.schema import DecodingConfig, FilterConfig, PlmConfig
from zerogen.config.task_schema import ContrastConfig, DebiasConfig, StopConfig, TaskConfig
from zerogen.data.records import Example, Request, Stop
from zerogen.errors import ChildFailed
from zerogen.generation.contexts import Contexts
from zerogen.generation.generator import Generator
from zerogen.generation.pool import Journal
from zerogen.plm.decode import CachedEngine
from zerogen.plm.model import Plm
from zerogen.plm.network import Network
from zerogen.plm.open import open_plm
from zerogen.plm.pack import _product, _reorder
from zerogen.plm.protocol import ChunkOutput, ChunkRequest
from zerogen.plm.workers import GeneratorModule, Inbox, Order, Workers, process_name, remove_stale, threads_each
from zerogen.support.lightning import quiet_lightning
from zerogen.support.weights import has_bfloat16

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PlmConfig:
    folder = tmp_path_factory.mktemp("tiny")
    causal_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return PlmConfig("tiny", str(folder), dtype="float32")


def chunks(count: int) -> list[ChunkRequest]:
    prompts = ["The movie", 'Movie: "', "Is this"]
    return [
        ChunkRequest(
            f"texts-{index:06d}",
            [Request(f"{index}-{i}", prompts[i % 3], counters={"other": "A bad film"}) for i in range(6)],
            [Stop("e")],
            12,
            index,
            DecodingConfig(batch_size=4),
            ContrastConfig(2.0) if index % 2 else DebiasConfig(10.0),
        )
        for index in range(count)
    ]


def rows_of(written: Sequence[ChunkOutput]) -> list[object]:
    return [(chunk.continuations, chunk.tokens) for chunk in written]


def test_two_processes_write_what_one_writes(config: PlmConfig, tmp_path: Path) -> None:
    expected = rows_of(list(open_plm(config, CPU).write(chunks(5))))
    advanced: list[int] = []
    with Workers(config, [CPU, CPU], tmp_path / "works") as workers:
        assert rows_of(list(workers.write(chunks(5)[:3], advanced.append))) == expected[:3]
        assert rows_of(list(workers.write(chunks(5)[3:], advanced.append))) == expected[3:]
        processes = list(workers.processes)
    assert sum(advanced) == 30
    assert all(process.exitcode == 0 for process in processes)
    assert not (tmp_path / "works").exists()


@pytest.mark.skipif(not has_bfloat16(CPU), reason="this processor does not compute in bfloat16")
def test_products_are_the_same_in_each_of_several_processes(config: PlmConfig) -> None:
    alone = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    products = []
    for size_out, size_in, rows in ((576, 1536, 300), (576, 1536, 64), (960, 576, 512), (1536, 576, 1024)):
        weight, x = (torch.randn(size, size_in, generator=generator).bfloat16() for size in (size_out, rows))
        packed = _reorder(weight)
        products.append((partial(_product, x, packed, None), _product(x, packed, None)))
    try:
        torch.set_num_threads(threads_each(replace(config, dtype="bfloat16"), [CPU] * alone))
        assert all(torch.equal(product(), expected) for product, expected in products)
    finally:
        torch.set_num_threads(alone)


def test_finished_works_outlive_their_process(config: PlmConfig, tmp_path: Path) -> None:
    folder = tmp_path / "works"
    expected = rows_of(list(open_plm(config, CPU).write(chunks(3))))
    with pytest.raises(ChildFailed, match="-9"), Workers(config, [CPU], folder) as workers:
        found = workers.write(chunks(3))
        rows_of([next(found)])
        while not (folder / "texts-000001.done").exists():
            workers.check()
        os.kill(workers.processes[0].pid, signal.SIGKILL)
        workers.processes[0].join()
        list(workers.write(chunks(9)[3:]))
    kept = (folder / "texts-000001.done").read_text()
    (folder / f"of-{process_name(99999999)}").mkdir()  # of a run that was killed
    (folder / "texts-000002.done.99999999.part").touch()
    with Workers(config, [CPU], folder) as workers:
        # Recognisable: what is there is used, and not written again.
        (folder / "texts-000001.done").write_text(kept.replace('"tokens": ', '"tokens": 1000'))
        again = list(workers.write(chunks(3)))
    assert again[1].tokens > 1000
    assert rows_of([again[0], again[2]]) == [expected[0], expected[2]]
    assert not folder.exists()


def test_a_second_instance_leaves_the_works_of_the_first_alone(config: PlmConfig, tmp_path: Path) -> None:
    expected = rows_of(list(open_plm(config, CPU).write(chunks(2))))
    with Workers(config, [CPU], tmp_path / "works") as workers:
        assert rows_of(list(workers.write(chunks(2)[:1]))) == expected[:1]
        with Workers(config, [CPU], tmp_path / "works") as other:
            other.todo = other.folder / f"of-{process_name(os.getppid())}"  # as that of another process
            other.todo.mkdir()
        assert rows_of(list(workers.write(chunks(2)[1:]))) == expected[1:]


def test_chunks_of_a_run_on_another_machine_are_left_alone(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("of-elsewhere-99999999", f"of-{process_name(os.getppid())}")]
    for path in (*kept, tmp_path / f"of-{process_name(99999999)}"):
        path.mkdir()
    remove_stale(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_lightning_spreads_works_over_its_devices(config: PlmConfig, tmp_path: Path) -> None:
    expected = rows_of(list(open_plm(config, CPU).write(chunks(4))))
    inbox = Inbox(tmp_path)
    for chunk in chunks(4):
        Order(chunk, config, tmp_path).put(tmp_path)
    inbox.close()  # each process stops when nothing is left to do
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="cpu", devices=2, strategy="ddp_spawn", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.predict(GeneratorModule(1), inbox, return_predictions=False)
    with Workers(config, [CPU], tmp_path) as workers:
        assert rows_of(list(workers.write(chunks(4)))) == expected


NODE = """
import sys
from pathlib import Path

import pytorch_lightning as pl

from zerogen.support.lightning import quiet_lightning
from zerogen.plm.workers import GeneratorModule, Inbox

if __name__ == "__main__":
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, num_nodes=2, strategy="ddp", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )
        folder = Path(sys.argv[1])
        trainer.predict(GeneratorModule(1), Inbox(folder), return_predictions=False)
        print(trainer.world_size, trainer.node_rank)
"""


def test_lightning_spreads_works_over_nodes(config: PlmConfig, tmp_path: Path) -> None:
    expected = rows_of(list(open_plm(config, CPU).write(chunks(4))))
    folder = tmp_path / "works"
    folder.mkdir()
    for chunk in chunks(4):
        Order(chunk, config, folder).put(folder)
    Inbox(folder).close()
    (tmp_path / "node.py").write_text(NODE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # What a cluster's launcher sets on each of two machines with one device.
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    nodes = [
        subprocess.Popen(
            [sys.executable, "node.py", str(folder)],
            cwd=tmp_path, env=os.environ | common | {"NODE_RANK": str(rank)}, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [node.communicate(timeout=300)[0].splitlines()[-1] for node in nodes]
    assert said == ["2 0", "2 1"]
    with Workers(config, [CPU], folder) as workers:  # all is there: no process is asked
        assert rows_of(list(workers.write(chunks(4)))) == expected
        assert workers.processes == []


class Several:
    """Writes with one PLM as if there were several processes, in an order of its own."""

    def __init__(self, plm: Plm, parallel: int) -> None:
        self.plm, self.parallel = plm, parallel
        self.name, self.max_positions, self.encode, self.decode = plm.name, plm.max_positions, plm.encode, plm.decode

    def write(
        self, chunks: Sequence[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> list[ChunkOutput]:
        last_first = [next(self.plm.write([chunk], on_row)) for chunk in reversed(chunks)]
        return last_first[::-1]

    def release(self) -> None:
        self.plm.release()


class Ahead(Several):
    """The same, but takes more chunks as soon as one is given back."""

    ahead = 5

    def write(self, chunks: Iterable[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None) -> Any:
        upcoming, taken = iter(chunks), dict[str, ChunkOutput]()
        while True:
            for chunk in list(islice(upcoming, self.ahead - len(taken)))[::-1]:
                taken[chunk.name] = next(self.plm.write([chunk], on_row))
            if not taken:
                return
            yield taken.pop(min(taken))


@pytest.mark.parametrize(("several", "parallel"), [(Several, 2), (Several, 5), (Ahead, 2)])
def test_the_dataset_does_not_depend_on_the_number_of_processes(
    task: TaskConfig, gpt2: Plm, several: type[Several], parallel: int
) -> None:
    decoding = DecodingConfig(top_p=1.0, batch_size=8, chunk_size=32)
    filters = FilterConfig(min_words=1, patience=64, min_acceptance=0.2)
    task.parse.stop = [StopConfig("e"), StopConfig("i")]  # often: contexts run out first, and come again
    task.prompts = {"bad": 'A bad <A> "<C>": "', "good": 'A good <A> "<C>": "'}
    task.further_prompts = [{"bad": '"<C>" is <A> bad: "', "good": '"<C>" is <A> good: "'}]
    task.attributes = {"length": ["short", "long"]}

    def generated(writer: object, n: int) -> tuple[list[Example], Generator]:
        generator = Generator(task, lambda: writer, decoding, filters, 3, Journal(), Journal())  # type: ignore[arg-type, return-value]
        for _ in generator.extend(n):
            pass
        return generator.rows(n), generator

    rows, alone = generated(gpt2, 60)
    assert isinstance(alone.contexts, Contexts)
    assert alone.contexts._exhausted()
    found, together = generated(several(gpt2, parallel), 60)
    assert isinstance(together.contexts, Contexts)
    assert found == rows
    for journal, other in ((alone.journal, together.journal), (alone.contexts.journal, together.contexts.journal)):
        mine = [replace(chunk, seconds=0) for chunk in journal.chunks()]
        assert mine == [replace(chunk, seconds=0) for chunk in other.chunks()]


@pytest.mark.parametrize("static_shapes", [False, True])
def test_too_little_memory_halves_the_batch_and_says_so(
    gpt2: Plm, monkeypatch: pytest.MonkeyPatch, static_shapes: bool
) -> None:
    from zerogen.plm import model

    said: list[str] = []
    gpt2.say = said.append
    advanced: list[int] = []
    made: list[int] = []  # rows that they were made for

    class Small(CachedEngine):
        steps = 0

        def __init__(self, network: Network, lines: int, capacity: int, static_shapes: bool = False) -> None:
            made.append(lines)
            super().__init__(network, lines, capacity, static_shapes)

        def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            self.steps += 1
            if len(tokens) > 2 and self.steps > 4:
                raise torch.OutOfMemoryError
            return super().step(tokens, positions)

    requests = [Request(str(i), "The movie"[: i + 1]) for i in range(9)]
    expected = gpt2.generate(requests, DecodingConfig(batch_size=8), [], 12, seed=0)
    monkeypatch.setattr(model, "CachedEngine", Small)
    gpt2.static_shapes = static_shapes
    found = gpt2.generate(requests, DecodingConfig(batch_size=8), [], 12, seed=0, on_row=advanced.append)
    # Products of other shapes round differently: only the last digits of a log-probability show it.
    assert [replace(row, logprob=0) for row in found] == [replace(row, logprob=0) for row in expected]
    assert [row.logprob for row in found] == pytest.approx([row.logprob for row in expected], abs=1e-5)
    assert sum(advanced) == 9
    assert said == [f"no memory for {rows} rows at a time: going on with {rows // 2}" for rows in (8, 4)]
    assert gpt2.generate(requests, DecodingConfig(batch_size=8), [], 12, seed=0) == found
    assert len(said) == 2  # remembered
    long = [Request(str(i), "x" * 60) for i in range(8)]
    assert len(gpt2.generate(long, DecodingConfig(batch_size=8), [], 12, seed=0)) == 8
    assert made[-1] == 1  # longer rows are fewer
