"""The synthetic dataset on disk: JSONL as in the original code, and a folder for `datasets.load_from_disk`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zerogen.config import TaskConfig
from zerogen.errors import UserError, unknown
from zerogen.files import write_whole
from zerogen.gold import missing_column, read_answers, read_rows
from zerogen.records import Example


def export_rows(rows: Sequence[Example], task: TaskConfig) -> list[dict[str, Any]]:
    """Return rows with C (context), X (text), Y (position of the label in the task's list), label, uid and logprob.

    Where a row was written with counter-prompts, rows have counter_logprob too: label to log-probability. Rows of
    question answering have the columns of SQuAD instead, and logprob.
    """
    if task.kind == "qa":
        return [
            {
                "id": row.uid,
                "title": "",
                "context": row.context,
                "question": row.text,
                "answers": {
                    "text": [answer.text for answer in row.answers],
                    "answer_start": [answer.start for answer in row.answers],
                },
                "logprob": row.logprob,
            }
            for row in rows
        ]
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


def write_folder(rows: Sequence[Example], task: TaskConfig, folder: Path) -> None:
    """Write the folder that `datasets.load_from_disk` opens."""
    import datasets

    exported = export_rows(rows, task)
    text = datasets.Value("string")
    if task.kind == "qa":
        answers = {"text": datasets.List(text), "answer_start": datasets.List(datasets.Value("int32"))}
        features = {"id": text, "title": text, "context": text, "question": text, "answers": answers}
    else:
        features = {"C": text, "X": text, "Y": datasets.ClassLabel(names=task.labels), "label": text, "uid": text}
    features["logprob"] = datasets.Value("float64")
    if exported and "counter_logprob" in exported[0]:
        features["counter_logprob"] = {label: datasets.Value("float64") for label in task.labels}
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        datasets.Dataset.from_list(exported, features=datasets.Features(features)).save_to_disk(str(folder))
    finally:
        if bars:
            datasets.enable_progress_bars()


def load_synthetic(path: str, task: TaskConfig, integer_labels: dict[Any, str]) -> list[Example]:
    """Read a synthetic dataset: a .jsonl, .csv or .parquet file or a `datasets` folder.

    Columns are X (or text), label or Y, and maybe C (or context; for pairs, certainly); for question answering those
    of SQuAD.

    integer_labels: what an integer Y means, for files that carry no label names. Raises `UserError` for a missing
    column, an unknown label, or integers without that map.
    """
    rows = synthetic_rows(path)
    if task.kind == "qa":
        for column in ("context", "question", "answers"):
            if column not in rows[0]:
                raise missing_column(path, column, rows[0])
        return _named([_question(row, f"{path}: row {i + 1}", i, task) for i, row in enumerate(rows)])
    for column, other in (("X", "text"), ("C", "context")):
        if column not in rows[0] and other in rows[0]:
            rows = [{column if name == other else name: value for name, value in row.items()} for row in rows]
    names = {str(value): label for value, label in integer_labels.items()}
    for value, label in names.items():
        if label not in task.labels:
            raise unknown(f"dataset_labels.{value}", label, task.labels)
    if "X" not in rows[0]:
        raise missing_column(path, "X", rows[0])
    if task.kind == "pair" and "C" not in rows[0]:
        raise missing_column(path, "C", rows[0])
    if "label" not in rows[0] and "Y" not in rows[0]:
        raise missing_column(path, "label", rows[0])
    return _named([_example(row, f"{path}: row {i + 1}", i, task, names) for i, row in enumerate(rows)])


def unique(uids: Sequence[str]) -> list[str]:
    """Return uids with a number behind each that an earlier row has: two files in one may repeat them."""
    taken, seen, found = set(uids), Counter[str](), []
    for uid in uids:
        seen[uid] += 1
        name, number = uid, seen[uid]
        if number > 1:
            while (name := f"{uid}-{number}") in taken:
                number += 1
            taken.add(name)
        found.append(name)
    return found


def _named(rows: Sequence[Example]) -> list[Example]:
    return [replace(row, uid=uid) for row, uid in zip(rows, unique([row.uid for row in rows]), strict=True)]


def synthetic_rows(path: str) -> list[dict[str, Any]]:
    """Read the rows of a .jsonl, .csv or .parquet file or of a `datasets` folder, by column.

    Raises `UserError` where there are none.
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
        rows: list[dict[str, Any]] = loaded.to_list()
        if not rows:
            raise UserError(f"dataset={path}: the folder has no rows")
        return rows
    return read_rows(place)


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
    text, context, counters = row.get("X"), row.get("C"), row.get("counter_logprob")
    counters = counters if isinstance(counters, dict) else {}  # of a CSV it is a text
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: X is {text!r}; allowed is a text")
    if task.kind == "pair" and (not isinstance(context, str) or not context.strip()):
        raise UserError(f"{where}: C is {context!r}; allowed is a text")
    return Example(
        uid=str(row.get("uid", index)),
        text=text,
        label=label,
        context=context if isinstance(context, str) and context else None,
        logprob=_logprob(row),
        counter_logprob={
            str(name): value for name, value in counters.items() if isinstance(value, float) and math.isfinite(value)
        },
    )


def _question(row: dict[str, Any], where: str, index: int, task: TaskConfig) -> Example:
    question, context = row.get("question"), row.get("context")
    for column, value in (("question", question), ("context", context)):
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{where}: {column} is {value!r}; allowed is a text")
    answers = read_answers(row.get("answers"), str(context), f"{where}: answers")
    uid = str(row.get("id", index))
    return Example(uid, str(question), task.labels[0], str(context), _logprob(row), answers=answers)


def _logprob(row: dict[str, Any]) -> float | None:
    value = row.get("logprob")
    return value if isinstance(value, float) and math.isfinite(value) else None
