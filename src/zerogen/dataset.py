"""The synthetic dataset on disk: JSONL as in the original code, and a folder for `datasets.load_from_disk`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from zerogen.config import TaskConfig
from zerogen.errors import UserError, unknown
from zerogen.files import write_whole
from zerogen.gold import read_answers
from zerogen.progress import Progress
from zerogen.records import Example, refuse_surrogates
from zerogen.tables import Row, iter_rows, missing_column


def export_rows(rows: Sequence[Example], task: TaskConfig) -> list[dict[str, Any]]:
    """Return rows with C (context), X (text), Y (position of the label in the task's list), label, uid and logprob.

    Where a row was written with counter-prompts, rows have counter_logprob too: label to log-probability. Where rows
    were weighed, they have loss_weight. Rows of question answering have the columns of SQuAD instead, and logprob.
    """
    weighed = any(row.weight != 1 for row in rows)
    weights: list[dict[str, Any]] = [{"loss_weight": row.weight} if weighed else {} for row in rows]
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
            | weight
            for row, weight in zip(rows, weights, strict=True)
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
        | weight
        for row, weight in zip(rows, weights, strict=True)
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
    if exported and "loss_weight" in exported[0]:
        features["loss_weight"] = datasets.Value("float64")
    if exported and "counter_logprob" in exported[0]:
        features["counter_logprob"] = {label: datasets.Value("float64") for label in task.labels}
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        datasets.Dataset.from_list(exported, features=datasets.Features(features)).save_to_disk(str(folder))
    finally:
        if bars:
            datasets.enable_progress_bars()


def load_synthetic(
    path: str, task: TaskConfig, integer_labels: dict[Any, str], progress: Progress | None = None
) -> list[Example]:
    """Read a synthetic dataset: a .jsonl, .csv or .parquet file or a `datasets` folder.

    Columns are X (or text), label or Y, and maybe C (or context; for pairs, certainly) and loss_weight; for question
    answering those of SQuAD. Where X is null in every row of texts without contexts, the texts are in C: so the
    original and FuseGen write what comes of a single stage.

    integer_labels: what an integer Y means, for files that carry no label names. Raises `UserError` for a missing
    column, an unknown label, or integers without that map.
    """
    first, rows = _peeked(synthetic_rows(path))
    numbered: Iterable[tuple[str, int, Row]] = (
        (f"{path}: row {index + 1}", index, row) for index, row in enumerate(rows)
    )
    if task.kind == "qa":
        for column in ("context", "question", "answers"):
            if column not in first:
                raise missing_column(path, column, first)
        return _named([_question(row, where, index, task) for where, index, row in numbered])
    names = {str(value): label for value, label in integer_labels.items()}
    for value, label in names.items():
        if label not in task.labels:
            raise unknown(f"dataset_labels.{value}", label, task.labels)
    text = "text" if "X" not in first and "text" in first else "X"
    context = "context" if "C" not in first and "context" in first else "C"
    if text not in first:
        raise missing_column(path, "X", first)
    if task.kind == "pair" and context not in first:
        raise missing_column(path, "C", first)
    if "label" not in first and "Y" not in first:
        raise missing_column(path, "label", first)
    if task.kind == "classification":
        numbered = single_stage(numbered, first, text, context, path, progress or Progress())
    return _named([_example(row, where, index, task, names, text, context) for where, index, row in numbered])


def single_stage(
    rows: Iterable[tuple[str, int, Row]], first: Row, text: str, context: str, path: str, progress: Progress
) -> Iterator[tuple[str, int, Row]]:
    """Yield rows with their place and number; with the text from the column of contexts where the text is null in all.

    So the original and FuseGen write what comes of a single stage. Raises `UserError` where the text is null in some.
    """
    nothing = (None, "")  # null in a CSV file
    if first[text] not in nothing or not isinstance(first.get(context), str) or not first[context].strip():
        yield from rows
        return
    progress.say(f"{path}: {text} is null; the texts are read from {context}")
    for where, index, row in rows:
        if row.get(text) not in nothing:
            raise UserError(f"{where}: {text} is {row[text]!r}, but null in the rows before; allowed is all or none")
        yield where, index, row | {text: row.get(context), context: None}


def _peeked(rows: Iterator[Row]) -> tuple[Row, Iterator[Row]]:
    """Return the first of rows, and all of them. There is one."""
    first = next(rows)
    return first, chain([first], rows)


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
    names = unique([row.uid for row in rows])
    return [row if row.uid == uid else replace(row, uid=uid) for row, uid in zip(rows, names, strict=True)]


def synthetic_rows(path: str) -> Iterator[Row]:
    """Yield the rows of a .jsonl, .csv or .parquet file or of a `datasets` folder, by column.

    Of a folder, a class is its name in `label` and its integer in `Y`. Raises `UserError` where there are none.
    """
    place = Path(path)
    return _folder_rows(path) if place.is_dir() else iter_rows(place)


def _folder_rows(path: str) -> Iterator[Row]:
    import datasets

    try:
        loaded = datasets.load_from_disk(path)
    except (OSError, ValueError) as error:
        raise UserError(f"dataset={path}: not a datasets folder ({str(error).splitlines()[0]})") from error
    if isinstance(loaded, datasets.DatasetDict):
        if "train" not in loaded:
            raise unknown(f"dataset={path}: split", "train", list(loaded))
        loaded = loaded["train"]
    if not len(loaded):
        raise UserError(f"dataset={path}: the folder has no rows")
    classes = {name: loaded.features[name] for name in ("label", "Y") if name in loaded.features}
    named = next(((name, of.names) for name, of in classes.items() if isinstance(of, datasets.ClassLabel)), None)
    for row in loaded:
        if named is not None and isinstance(value := row[named[0]], int) and 0 <= value < len(named[1]):
            # Both: what a user says an integer means counts more than the name.
            row = row | {"label": named[1][value], "Y": value}
        yield row


def _example(
    row: Row, where: str, index: int, task: TaskConfig, names: dict[str, str], text_column: str, context_column: str
) -> Example:
    values = [value for value in (row.get("label"), row.get("Y")) if value not in (None, "")] or [None]
    meant = [*(names[str(value)] for value in values if str(value) in names), *map(str, values)]
    label, value = next((name for name in meant if name in task.labels), ""), values[0]
    if not label:
        if names:
            raise unknown(f"{where}: label in dataset_labels", value, names)
        if str(value).lstrip("-").isdigit():
            hint = ", ".join(f"{i}: {name}" for i, name in enumerate(task.labels))
            raise UserError(
                f"{where}: only an integer label ({value}); say what it means, such as dataset_labels='{{{hint}}}'"
            )
        raise unknown(f"{where}: label", value, task.labels)
    text, context, counters = row.get(text_column), row.get(context_column), row.get("counter_logprob")
    counters = counters if isinstance(counters, dict) else {}  # of a CSV it is a text
    text = _text(text, f"{where}: {text_column}")
    if task.kind == "pair":
        context = _text(context, f"{where}: {context_column}")
    elif isinstance(context, str):
        refuse_surrogates(context, f"{where}: {context_column}")
    return Example(
        uid=str(row.get("uid", index)),
        text=text,
        label=label,
        context=context if isinstance(context, str) and context else None,
        logprob=_logprob(row),
        counter_logprob={
            str(name): value for name, value in counters.items() if isinstance(value, float) and math.isfinite(value)
        },
        weight=_weight(row, where),
    )


def _text(value: Any, where: str) -> str:
    """Return a value that is a text and not blank. Raises `UserError` for anything else."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} is {value!r}; allowed is a text")
    refuse_surrogates(value, where)
    return value


def _question(row: dict[str, Any], where: str, index: int, task: TaskConfig) -> Example:
    question, context = (_text(row.get(column), f"{where}: {column}") for column in ("question", "context"))
    answers = read_answers(row.get("answers"), context, f"{where}: answers")
    return Example(
        str(row.get("id", index)),
        question,
        task.labels[0],
        context,
        _logprob(row),
        answers=answers,
        weight=_weight(row, where),
    )


def _weight(row: dict[str, Any], where: str) -> float:
    """Return the weight of a row in the training loss. Raises `UserError` for one that cannot be."""
    value = row.get("loss_weight")
    if value in (None, ""):
        return 1.0
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise UserError(f"{where}: loss_weight is {value!r}; allowed is a number from 0 on")
    return weight


def _logprob(row: dict[str, Any]) -> float | None:
    value = row.get("logprob")
    return value if isinstance(value, float) and math.isfinite(value) else None
