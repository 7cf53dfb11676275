"""The synthetic dataset on disk: JSONL as in the original code, and a folder for `datasets.load_from_disk`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zerogen.config import TaskConfig
from zerogen.errors import UserError, unknown
from zerogen.files import write_whole
from zerogen.gold import missing_column, read_rows
from zerogen.records import Example


def export_rows(rows: Sequence[Example], task: TaskConfig) -> list[dict[str, Any]]:
    """Return rows with C (context), X (text), Y (position of the label in the task's list), label, uid and logprob.

    Where a row was written with counter-prompts, rows have counter_logprob too: label to log-probability.
    """
    counters = any(row.counter_logprob for row in rows)
    return [
        {
            "C": row.context,
            "X": row.text,
            "Y": task.labels.index(row.label),
            "label": row.label,
            "uid": row.uid,
            "logprob": row.logprob,
        }
        | ({"counter_logprob": row.counter_logprob} if counters else {})
        for row in rows
    ]


def write_jsonl(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write one JSON object a line, completely or not at all."""
    write_whole("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), path)


def write_folder(rows: Sequence[Example], task: TaskConfig, plm: str | None, folder: Path) -> None:
    """Write the folder that `datasets.load_from_disk` opens, with a dataset card.

    plm: name of the PLM that wrote the rows with this task's prompts; None for rows that came from elsewhere.
    """
    import datasets

    exported = export_rows(rows, task)
    features = {
        "C": datasets.Value("string"),
        "X": datasets.Value("string"),
        "Y": datasets.ClassLabel(names=task.labels),
        "label": datasets.Value("string"),
        "uid": datasets.Value("string"),
        "logprob": datasets.Value("float64"),
    }
    if exported and "counter_logprob" in exported[0]:
        features["counter_logprob"] = {label: datasets.Value("float64") for label in task.labels}
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        datasets.Dataset.from_list(exported, features=datasets.Features(features)).save_to_disk(str(folder))
    finally:
        if bars:
            datasets.enable_progress_bars()
    (folder / "README.md").write_text(card(rows, task, plm), encoding="utf-8")


def card(rows: Sequence[Example], task: TaskConfig, plm: str | None) -> str:
    """Return the dataset card: a YAML header that the Hub accepts, then what is in the dataset and how it was made."""
    size = next(name for bound, name in _SIZES if len(rows) < bound)
    counts = "\n".join(f"| {label} | {sum(row.label == label for row in rows):,} |" for label in task.labels)
    if plm is None:
        prompts = "The rows were read from an existing file; the prompts that made them are not known.\n"
    else:
        prompts = "Prompts:\n\n" + "".join(f"- {label}: `{prompt}`\n" for label, prompt in task.prompts.items())
        if task.context:
            prompts += f"\nThe contexts `C` were written behind the prompt `{task.context.prompt}`.\n"
    return f"""---
task_categories:
- text-classification
tags:
- synthetic
- zerogen
size_categories:
- {size}
---
# Synthetic data for {task.name}

{len(rows):,} texts `X` that {plm or "a language model"} wrote from prompts, with the label of the prompt; nobody has
read them. Labels can be wrong and statements in the texts are made up.

| label | rows |
|---|---|
{counts}

{prompts}
Columns: `C` the context of the prompt, `X` the text, `Y` and `label` the label as a number and as a name, `uid` chunk
and request, `logprob` the mean log-probability of the text's tokens under the language model, and where the texts were
written with counter-prompts, `counter_logprob` the same behind the prompts of the other labels.
"""


_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (float("inf"), "1M<n<10M"),
)


def load_synthetic(path: str, task: TaskConfig, integer_labels: dict[Any, str]) -> list[Example]:
    """Read a synthetic dataset: a .jsonl, .csv or .parquet file or a `datasets` folder.

    Columns are X, label or Y, and maybe C.

    integer_labels: what an integer Y means, for files that carry no label names. Raises `UserError` for a missing
    column, an unknown label, or integers without that map.
    """
    place = Path(path)
    if place.is_dir():
        import datasets

        try:
            loaded = datasets.load_from_disk(path)
        except (OSError, ValueError) as error:
            raise UserError(f"dataset={path}: not a datasets folder ({str(error).splitlines()[0]})") from error
        if isinstance(loaded, datasets.DatasetDict):
            if "train" not in loaded:
                raise unknown(f"dataset={path}: split", "train", list(loaded))
            loaded = loaded["train"]
        rows = loaded.to_list()
        if not rows:
            raise UserError(f"dataset={path}: the folder has no rows")
    else:
        rows = read_rows(place)
    names = {str(value): label for value, label in integer_labels.items()}
    for value, label in names.items():
        if label not in task.labels:
            raise unknown(f"dataset_labels.{value}", label, task.labels)
    if "X" not in rows[0]:
        raise missing_column(path, "X", rows[0])
    if "label" not in rows[0] and "Y" not in rows[0]:
        raise missing_column(path, "label", rows[0])
    return [_example(row, f"{path}: row {i + 1}", i, task, names) for i, row in enumerate(rows)]


def _example(row: dict[str, Any], where: str, index: int, task: TaskConfig, names: dict[str, str]) -> Example:
    value = row.get("label")
    if value is None or value == "":
        value = row.get("Y")
    label = names.get(str(value), str(value))
    if label not in task.labels:
        if names:
            raise unknown(f"{where}: label in dataset_labels", value, names)
        if str(value).lstrip("-").isdigit():
            hint = ", ".join(f"{i}: {name}" for i, name in enumerate(task.labels))
            raise UserError(
                f"{where}: only an integer label ({value}); say what it means, such as dataset_labels='{{{hint}}}'"
            )
        raise unknown(f"{where}: label", label, task.labels)
    text, context = row.get("X"), row.get("C")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: X is {text!r}; allowed is a text")
    logprob = row.get("logprob")
    return Example(
        uid=str(row.get("uid", index)),
        text=text,
        label=label,
        context=context if isinstance(context, str) and context else None,
        logprob=logprob if isinstance(logprob, float) else None,
    )
