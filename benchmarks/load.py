"""What many rows cost where no PLM and no training is: seconds, microseconds a row, and peak resident memory.

    python benchmarks/load.py [--rows 10000 200000 2000000] [--stages pool prefix ...]

Rows are texts of 12 to 30 random words of a vocabulary of 20,000, two labels, written to a temporary folder. Stages:
`pool` filters rows (duplicates included) and appends them to a pool in chunks of 512; `prefix` reads the pool and
takes the first half of each label; `scores` stores and reads a label's probability of every row; `export` writes
dataset.jsonl and the `datasets` folder; `measure` measures diversity (`python -m zerogen.measure`); `predict` labels
as many lines of standard input by an LSTM, and says when the first answer came. Each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

LABELS = ["negative", "positive"]
CHUNK = 512


def texts(count: int, seed: int = 0) -> Iterator[str]:
    draws = Random(seed)
    words = ["".join(draws.choices("abcdefghijklmnopqrstuvwxyz", k=draws.randint(2, 10))) for _ in range(20_000)]
    for _ in range(count):
        yield " ".join(words[int(draws.random() ** 3 * len(words))] for _ in range(draws.randint(12, 30)))


def task() -> Any:
    from zerogen.config.task_schema import TaskConfig

    return TaskConfig(name="load", labels=LABELS)


def pool(rows: int, folder: Path) -> None:
    from zerogen.config.schema import FilterConfig
    from zerogen.data.records import Example
    from zerogen.generation.filters import Filter
    from zerogen.generation.pool import Chunk, Journal

    accepts, journal = Filter(FilterConfig()), Journal.open(folder / "texts.jsonl", appends=True)
    chunk: list[Example] = []
    for place, text in enumerate(texts(rows)):
        row = Example(str(place), text, LABELS[place % 2], logprob=-2.5)
        if accepts.reason(row) is None:
            chunk.append(row)
        if place % CHUNK == CHUNK - 1 or place == rows - 1:
            journal.append(Chunk(len(journal.chunks), chunk, {"": CHUNK}, {}, [], 0, 0.0))
            chunk = []


def prefix(rows: int, folder: Path) -> None:
    from zerogen.generation.pool import Journal, count_rejects, first_per_label, quotas, used_chunks

    journal = Journal.open(folder / "texts.jsonl")
    kept = list(first_per_label(journal.rows(), quotas(rows // 2, LABELS)))
    assert len(kept) > 0.9 * (rows // 2)
    count_rejects(used_chunks(journal.chunks, kept))


def scores(rows: int, folder: Path) -> None:
    from zerogen.generation.pool import Journal
    from zerogen.generation.scores import Confidences, ScoreFile

    examples = list(Journal.open(folder / "texts.jsonl").rows())
    file = ScoreFile(folder / "scores.jsonl", task())
    file.add(examples, Confidences({row.uid: {"negative": 0.25, "positive": 0.75} for row in examples}, 1.0))
    assert file.read(examples) is not None


def export(rows: int, folder: Path) -> None:
    from zerogen.data.synthetic import export_rows, write_folder, write_jsonl
    from zerogen.generation.pool import Journal

    examples = list(Journal.open(folder / "texts.jsonl").rows())
    write_jsonl(export_rows(examples, task()), folder / "dataset.jsonl")
    write_folder(examples, task(), folder / "dataset")


def measure(rows: int, folder: Path) -> None:
    command = [sys.executable, "-m", "zerogen.measure", str(folder / "dataset.jsonl")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def predict(rows: int, folder: Path) -> None:
    from zerogen.config.schema import TamConfig, TrainerConfig
    from zerogen.data.records import Example
    from zerogen.tam.fit import fit

    few = [Example(str(place), text, LABELS[place % 2]) for place, text in enumerate(texts(200, 1))]
    tam, _ = fit(few, task(), TamConfig("lstm", "lstm"), TrainerConfig(lr=1e-3, epochs=1), seed=0)
    tam.save(folder / "tam")
    (folder / "lines.txt").write_text("".join(f"{text}\n" for text in texts(rows)))
    started = time.perf_counter()
    with (folder / "lines.txt").open() as lines:
        command = [sys.executable, "-m", "zerogen.predict", str(folder / "tam")]
        with subprocess.Popen(command, stdin=lines, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            first = time.perf_counter() - started
            count = sum(1 for _ in process.stdout)
    assert count >= rows - 1
    print(f"first answer after {first:.1f} s of {time.perf_counter() - started:.1f}", file=sys.stderr)


STAGES = {stage.__name__: stage for stage in (pool, prefix, scores, export, measure, predict)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 200_000, 2_000_000])
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--child", nargs=3, metavar=("STAGE", "ROWS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        stage, rows, folder = options.child
        started = time.perf_counter()
        STAGES[stage](int(rows), Path(folder))
        seconds = time.perf_counter() - started
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(json.dumps([seconds, peak >> 10]))
        return
    print(f"{'stage':8} {'rows':>10} {'seconds':>9} {'us a row':>9} {'peak MB':>8}")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as name:
            for stage in STAGES:
                command = [sys.executable, __file__, "--child", stage, str(rows), name]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                seconds, peak = json.loads(done.stdout.splitlines()[-1])
                if stage in options.stages:
                    print(f"{stage:8} {rows:10,} {seconds:9.1f} {seconds / rows * 1e6:9.1f} {peak:8,}", flush=True)


if __name__ == "__main__":
    main()
