"""What measuring diversity takes: seconds and values of Self-BLEU beside its definition, or memory of a whole file.

    python benchmarks/diversity.py [--texts 1000] [--more 10000] [--file DATASET.jsonl]
    python benchmarks/diversity.py --memory 200000 [--beside SRC] [--repeats 2]

Self-BLEU stands beside the loop over NLTK's `sentence_bleu` that defines it. Texts are those of a synthetic dataset
(column X), by default the bundled Rotten Tomatoes reviews.

With --memory, that many rows are written to a temporary file: the same texts over and over, each time with a fifth of
their words replaced by others from the same texts. `python -m zerogen.measure` then measures it in a process of its
own: seconds, those of the processor, and peak resident memory. With --beside, the package in another source folder (as
of `git worktree add`) takes turns with this one; the best of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

import zerogen
from zerogen import load_gold, load_task
from zerogen.data.synthetic import synthetic_rows
from zerogen.metrics.diversity import near_duplicates, numbered, self_bleu, tokenizer

WEIGHTS = [tuple([1 / order] * order) for order in range(1, 6)]


def loop(texts: list[list[str]]) -> list[float]:
    smoothing = SmoothingFunction().method1
    scores = [sentence_bleu(texts[:i] + texts[i + 1 :], text, WEIGHTS, smoothing) for i, text in enumerate(texts)]
    return [sum(score[order] for score in scores) / len(scores) for order in range(5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--more", type=int, default=10_000)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--memory", type=int, metavar="ROWS")
    parser.add_argument("--beside", type=Path, metavar="SRC")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    if options.file:
        rows = [row["X"] for row in synthetic_rows(str(options.file))]
    else:
        task = load_task("rotten_tomatoes")
        rows = [row.text for split in ("train", "validation") for row in load_gold(task, split)]
    rows = Random(0).sample(rows, len(rows))
    if options.memory:
        sources = [Path(zerogen.__file__).parents[1], *([options.beside] if options.beside else [])]
        measure_files(rows, options.memory, sources, options.repeats)
        return
    split = tokenizer("13a")
    tokens = [split(row) for row in rows]
    some = tokens[: options.texts]
    self_bleu(numbered(some[:10]))  # whatever happens once
    own = min(_timed(lambda: self_bleu(numbered(some))) for _ in range(5))
    started = time.perf_counter()
    expected = loop(some)
    theirs = time.perf_counter() - started
    found = [value for value in self_bleu(numbered(some)) if value is not None]
    print("BLEU-1 to 5:", " ".join(f"{value:.4f}" for value in found))
    print(f"largest difference {max(abs(a - b) for a, b in zip(found, expected, strict=True)):.1e}")
    print(f"{len(some):,} texts: {own:.3f} s, NLTK's loop {theirs:.1f} s, {theirs / own:,.0f} x")
    many = (tokens * (options.more // len(tokens) + 1))[: options.more]
    print(f"{len(many):,} texts: {_timed(lambda: self_bleu(numbered(many))):.2f} s")
    texts = (rows * (options.more // len(rows) + 1))[: options.more]
    print(f"near-duplicates of {len(texts):,} texts: {_timed(lambda: near_duplicates(texts)):.2f} s")


def measure_files(texts: Sequence[str], rows: int, sources: Sequence[Path], repeats: int) -> None:
    """Print seconds and peak memory of measuring a file of `rows` texts like these, by the package in each source."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"X": text}) + "\n" for text in alike(texts, rows))
        print(f"{rows:,} rows, {path.stat().st_size / 2**20:.0f} MB")
        runs = [[in_a_process(path, source) for source in sources] for _ in range(repeats)]
    for number, source in enumerate(sources):
        seconds, worked, peaks, found = zip(*(run[number] for run in runs), strict=True)
        peak = min(peaks)
        print(
            f"{source}: {min(seconds):.1f} s, {min(worked):.1f} s of processor, {peak / 2**20:,.0f} MB at most, "
            f"{peak / rows:,.0f} bytes a row"
        )
        print(found[0])


def alike(texts: Sequence[str], count: int) -> list[str]:
    """Return that many texts: these again and again, after the first time with a fifth of the words replaced."""
    random, every = Random(1), [word for text in texts for word in text.split()]
    return [
        text
        if number < len(texts)
        else " ".join(random.choice(every) if random.random() < 0.2 else word for word in text.split())
        for number, text in ((number, texts[number % len(texts)]) for number in range(count))
    ]


def in_a_process(path: Path, source: Path) -> tuple[float, float, int, str]:
    """Return wall and processor seconds, peak resident bytes and figures of `python -m zerogen.measure`."""
    command = [sys.executable, "-m", "zerogen.measure", str(path), "--format", "json"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(source)})
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.read())["diversity"]
    _, _, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    figures = {name: found[name] for name in ("self_bleu", "distinct", "near_duplicates", "words")}
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, json.dumps(figures)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
