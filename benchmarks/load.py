"""What many rows cost where no PLM and no training is: seconds, microseconds a row, and peak resident memory.

    python benchmarks/load.py [--rows 10000 200000 2000000] [--stages generate prefix ...]

Texts are 12 to 30 random words of a vocabulary of 20,000, one in twenty a repetition, with two labels, written to a
temporary folder. Stages: `generate` has a generator fill its quotas, in chunks of 512, with what something that is no
PLM writes: texts are judged, compared with all before and appended to a pool; `prefix` opens the pool and takes the
first half of its rows, an equal share per label; `scores` stores a label's probability of every row and reads them
again; `export` writes dataset.jsonl and the `datasets` folder of a run; `measure` measures the
rows of that run (`python -m zerogen.measure`: diversity); `report` writes the page and cards
(`python -m zerogen.report`); `predict` labels as many lines of standard input by an LSTM, from the first answer on,
which must come before the last line is sent. Each runs in a process of its own, whose memory counts in full; its time
does not hold what a thousand rows made it import.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

LABELS = ["negative", "positive"]
CHUNK = 512
FEW = 1000
WARMED = ("export", "measure", "report")


def texts(count: int, seed: int = 0) -> Iterator[str]:
    draws = Random(seed)
    words = ["".join(draws.choices("abcdefghijklmnopqrstuvwxyz", k=draws.randint(2, 10))) for _ in range(20_000)]
    for _ in range(count):
        yield " ".join(words[int(draws.random() ** 3 * len(words))] for _ in range(draws.randint(12, 30)))


def task() -> Any:
    from zerogen.config.task_schema import TaskConfig

    return TaskConfig(name="load", labels=LABELS, prompts={label: f'A {label} text: "' for label in LABELS})


class NoPlm:
    """Writes random texts, one in twenty of them again."""

    name, max_positions, parallel, tokens = "none", 1024, 1, 0

    def __init__(self) -> None:
        self.texts, self.draws, self.recent = texts(1 << 62), Random(1), [""] * 1000

    def encode(self, text: str) -> list[int]:
        return [0] * len(text)

    def decode(self, ids: list[int]) -> str:
        return "x" * len(ids)

    def write(self, chunks: Sequence[Any], on_row: Callable[[int], None] = lambda rows: None) -> Iterator[Any]:
        from zerogen.data.records import Continuation
        from zerogen.plm.protocol import ChunkOutput

        for chunk in chunks:
            found = []
            for _ in chunk.requests:
                place = self.draws.randrange(len(self.recent))
                if self.draws.random() >= 0.05:
                    self.recent[place] = next(self.texts)
                found.append(Continuation(self.recent[place], "stop", 20, -2.5))
            yield ChunkOutput(found, 20 * len(found), 0.0)

    def report_to(self, say: Callable[[str], None]) -> None:
        """Say nothing."""

    def release(self) -> None:
        """Hold nothing."""


def generate(rows: int, folder: Path) -> None:
    from zerogen.config.schema import DecodingConfig, FilterConfig
    from zerogen.generation.generator import Generator
    from zerogen.generation.pool import Journal

    plm, journal = NoPlm(), Journal.open(folder / "texts.jsonl", appends=True)
    decoding = DecodingConfig(chunk_size=CHUNK)
    for _ in Generator(task(), lambda: plm, decoding, FilterConfig(), 0, journal).extend(rows):
        pass


def prefix(rows: int, folder: Path) -> None:
    from zerogen.generation.pool import Journal, count_rejects, first_per_label, quotas, rows_within, used_chunks

    journal, quota = Journal.open(folder / "texts.jsonl"), quotas(rows // 2, LABELS)
    assert rows_within(quota, journal.accepted) == rows // 2 == len(list(first_per_label(journal.rows(), quota)))
    count_rejects(used_chunks(journal.heads, quota))


def rows_of(rows: int, folder: Path) -> Any:
    from zerogen.generation.pool import Journal, first_per_label, quotas

    return list(first_per_label(Journal.open(folder / "texts.jsonl").rows(), quotas(rows, LABELS)))


def scores(rows: int, folder: Path) -> None:
    from zerogen.generation.scores import Confidences, ScoreFile, Table

    examples = rows_of(rows, folder)
    file = ScoreFile(folder / "scores.jsonl", task())
    computed = Table().add((row.uid, {"negative": 0.25, "positive": 0.75}) for row in examples)
    file.add(examples, Confidences(computed, 1.0))
    del computed
    assert file.read(examples) is not None


def run_of(rows: int, folder: Path) -> Any:
    import torch

    from zerogen.config.schema import Config, SettingConfig
    from zerogen.runs.run import Run

    config = Config(task=task(), setting=SettingConfig(name="zerogen"), output_dir=str(folder), n=rows, train=False)
    config.plm.name = config.tam.name = "none"
    return Run(config, [torch.device("cpu")])


def export(rows: int, folder: Path) -> None:
    from zerogen.runs.run import Outcome
    from zerogen.runs.store import write_run

    run = run_of(rows, folder)
    pool = run.pool_folder()
    pool.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("texts*"):
        if not (pool / file.name).exists():
            (pool / file.name).symlink_to(file)
    outcome = Outcome(n_train=rows, rows=rows_of(rows, folder), rejects={"duplicate": rows // 20})
    outcome.requests = rows + rows // 20
    run.folder().mkdir(parents=True, exist_ok=True)
    write_run(run, outcome)


def measure(rows: int, folder: Path) -> None:
    from zerogen.measures.store import measure_run

    run = run_of(rows, folder)
    assert measure_run(run, run.folder()) is not None


def report(rows: int, folder: Path) -> None:
    from zerogen.report import present

    present(run_of(rows, folder).folder())


def predict(rows: int, folder: Path) -> float:
    from zerogen.config.schema import TamConfig, TrainerConfig
    from zerogen.data.records import Example
    from zerogen.tam.fit import fit

    few = [Example(str(place), text, LABELS[place % 2]) for place, text in enumerate(texts(200, 1))]
    tam, _ = fit(few, task(), TamConfig("lstm", "lstm"), TrainerConfig(lr=1e-3, epochs=1), seed=0)
    tam.save(folder / "tam")
    answered = Event()

    def send(pipe: Any) -> None:
        for place, text in enumerate(texts(rows)):
            if place == rows - 1:
                answered.wait()
            pipe.write(f"{text}\n".encode())
        pipe.close()

    started = time.perf_counter()
    command = [sys.executable, "-m", "zerogen.predict", str(folder / "tam")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        Thread(target=send, args=[process.stdin]).start()
        process.stdout.readline()
        answered.set()
        first = time.perf_counter() - started
        assert sum(1 for _ in process.stdout) == rows - 1
    print(f"first answer after {first:.1f} s, before the last line was sent", file=sys.stderr)
    return time.perf_counter() - started - first


STAGES: dict[str, Callable[[int, Path], float | None]] = {
    stage.__name__: stage for stage in (generate, prefix, scores, export, measure, report, predict)
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 200_000, 2_000_000])
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--child", nargs=4, metavar=("STAGE", "ROWS", "FOLDER", "FEW"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        stage, rows, folder, few = options.child
        if stage in WARMED:
            STAGES[stage](FEW, Path(few))
        started = time.perf_counter()
        seconds = STAGES[stage](int(rows), Path(folder)) or time.perf_counter() - started
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(json.dumps([seconds, peak >> 10]))
        return
    print(f"{'stage':8} {'rows':>10} {'seconds':>9} {'us a row':>9} {'peak MB':>8}")
    # Stages before the last one that is asked for make what it reads.
    stages = list(STAGES)[: 1 + max(map(list(STAGES).index, options.stages))]
    with tempfile.TemporaryDirectory() as few:
        for stage in ("generate", *WARMED):
            in_process(stage, FEW, few, few)
        for rows in options.rows:
            with tempfile.TemporaryDirectory() as folder:
                for stage in stages:
                    seconds, peak = in_process(stage, rows, folder, few)
                    if stage in options.stages:
                        print(f"{stage:8} {rows:10,} {seconds:9.1f} {seconds / rows * 1e6:9.1f} {peak:8,}", flush=True)


def in_process(stage: str, rows: int, folder: str, few: str) -> tuple[float, int]:
    """Return the seconds and the peak memory of a stage, in a process of its own; few: a folder of `FEW` rows."""
    command = [sys.executable, __file__, "--child", stage, str(rows), folder, few]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


if __name__ == "__main__":
    main()
