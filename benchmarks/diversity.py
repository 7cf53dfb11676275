"""Self-BLEU beside the loop over NLTK's `sentence_bleu` that defines it: seconds and values, in one run.

    python benchmarks/diversity.py [--texts 1000] [--more 10000] [--file DATASET.jsonl]

Texts are those of a synthetic dataset (column X), by default the bundled Rotten Tomatoes reviews.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from zerogen import load_gold, load_task
from zerogen.gold import read_rows
from zerogen.metrics.diversity import near_duplicates, self_bleu, tokenizer

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
    options = parser.parse_args()
    if options.file:
        rows = [row["X"] for row in read_rows(options.file)]
    else:
        task = load_task("rotten_tomatoes")
        rows = [row.text for split in ("train", "validation") for row in load_gold(task, split)]
    rows = Random(0).sample(rows, len(rows))
    split = tokenizer("13a")
    tokens = [split(row) for row in rows]
    some = tokens[: options.texts]
    self_bleu(some[:10])  # whatever happens once
    own = min(_timed(lambda: self_bleu(some)) for _ in range(5))
    started = time.perf_counter()
    expected = loop(some)
    theirs = time.perf_counter() - started
    found = self_bleu(some)
    print("BLEU-1 to 5:", " ".join(f"{value:.4f}" for value in found))
    print(f"largest difference {max(abs(a - b) for a, b in zip(found, expected, strict=True)):.1e}")
    print(f"{len(some):,} texts: {own:.3f} s, NLTK's loop {theirs:.1f} s, {theirs / own:,.0f} x")
    many = (tokens * (options.more // len(tokens) + 1))[: options.more]
    print(f"{len(many):,} texts: {_timed(lambda: self_bleu(many)):.2f} s")
    texts = (rows * (options.more // len(rows) + 1))[: options.more]
    print(f"near-duplicates of {len(texts):,} texts: {_timed(lambda: near_duplicates(texts)):.2f} s")


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
