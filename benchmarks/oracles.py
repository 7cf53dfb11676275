"""How much better labels, and texts that nobody has labelled, could make a model: what is to be had, at most.

    python benchmarks/oracles.py [--seeds 0 1 2] [--shares 0.2 0.4 0.6]

Rotten Tomatoes with the bundled models. 1,000 gold training rows are held out for development, and every accuracy is on
them; the rows that results are reported on are not read. Cleaning: synthetic texts, labelled by a model that was
trained on the other gold rows. Unlabelled text: the texts of those rows under PROMPTING's labels (centred at their
median), the share of them that it is surest of, the same number of each label; and the same texts under their gold
labels.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zerogen import TrainerConfig, fit, load_gold, load_plm, load_task
from zerogen.config.schema import SettingConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example, Prediction
from zerogen.data.stratified import stratified
from zerogen.data.synthetic import load_synthetic
from zerogen.plm.prompting import prompt_labels
from zerogen.plm.protocol import Scorer
from zerogen.tam.tam import Tam

DEVELOPMENT = 1000


def trained(rows: Sequence[Example], task: TaskConfig, seed: int) -> Tam:
    return fit(rows, task, "minilm", trainer=TrainerConfig(lr=1e-4), seed=seed)


def accuracy(tam: Tam, rows: Sequence[Example]) -> float:
    predictions = tam.predict(tam.inputs_of(rows))
    return statistics.fmean(row.label == one.label for row, one in zip(rows, predictions, strict=True))


def surest(predictions: Sequence[Prediction], share: float, label: str) -> list[int]:
    """Return the places of a share of predictions: half are those where a label is least probable, half where most."""
    order = sorted(range(len(predictions)), key=lambda i: predictions[i].probabilities[label])
    half = round(share * len(predictions) / 2)
    return [*order[:half], *order[-half:]]


def synthetic_texts(folder: Path, n: int) -> list[Example]:
    """Write the demo's synthetic rows."""
    words = ["experiment=demo", "setting=zerogen", "train=false", f"n={n}", "log_every=null", "confidence.rows=0"]
    subprocess.run([sys.executable, "-m", "zerogen", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (path,) = folder.glob("outputs/*/*/rotten_tomatoes-dataset.jsonl")
    return load_synthetic(str(path), load_task("rotten_tomatoes"), {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.4, 0.6])
    parser.add_argument("--n", type=int, default=2000, help="synthetic rows")
    options = parser.parse_args()
    task = load_task("rotten_tomatoes")
    gold = load_gold(task, "train")
    development = stratified(gold, DEVELOPMENT, 0)
    held = {row.uid for row in development}
    rows = [row for row in gold if row.uid not in held]
    print(f"{len(rows):,} texts to learn from, {len(development):,} rows to evaluate on", flush=True)

    def show(title: str, training: Sequence[Example], truth: Sequence[Example] | None) -> None:
        found = [accuracy(trained(training, task, seed), development) for seed in options.seeds]
        seeds = " / ".join(f"{100 * one:.1f}" for one in found)
        right = ""
        if truth is not None:
            agree = statistics.fmean(a.label == b.label for a, b in zip(training, truth, strict=True))
            right = f"{agree:6.1%} of labels right"
        print(f"{title:52} {len(training):6,} rows {100 * statistics.fmean(found):5.1f} ({seeds}) {right}", flush=True)

    evaluator = trained(rows, task, 0)
    print(f"evaluator, trained on their gold labels: {accuracy(evaluator, development):.1%}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        synthetic = synthetic_texts(Path(folder), options.n)
    judged = [
        replace(row, label=one.label)
        for row, one in zip(synthetic, evaluator.predict(evaluator.inputs_of(synthetic)), strict=True)
    ]
    show("synthetic rows", synthetic, judged)
    show("synthetic texts, labels of the evaluator", judged, judged)

    plm = load_plm("smollm2")
    assert isinstance(plm, Scorer)
    predictions, _ = prompt_labels(plm, task, rows, SettingConfig("prompting"))
    for share in options.shares:
        places = surest(predictions, share, task.labels[0])
        half = len(places) // 2
        truth = [rows[i] for i in places]
        guessed = [replace(row, label=task.labels[place < half]) for place, row in enumerate(truth)]
        show(f"unlabelled texts, PROMPTING's labels, surest {share:.0%}", guessed, truth)
        show(f"the same texts, gold labels, {share:.0%}", truth, truth)


if __name__ == "__main__":
    main()
