"""Read and write synthetic datasets: JSONL as in the original code, CSV, parquet, and `datasets` folders."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from zerogen.config.task_schema import TaskConfig
from zerogen.data.gold import read_answers
from zerogen.data.records import NOTHING, PLM, Example, is_target
from zerogen.data.tables import Row, iter_rows, json_object, missing_column
from zerogen.errors import UserError, unknown
from zerogen.support.files import whole
from zerogen.support.progress import Progress
from zerogen.support.surrogates import refuse_surrogates

_BATCH = 10_000  # rows that are turned into columns at a time


def export_rows(rows: Sequence[Example], task: TaskConfig) -> Iterator[dict[str, Any]]:
    """Yield rows with C (context), X (text), Y (index of the label in the task's list), label, uid and logprob.

    If any row was written with counter-prompts, all have counter_logprob too: label to log-probability. If any weight
    is not 1, all have loss_weight; if any row has a target, all have it: label to probability. Rows of questions have
    the columns of SQuAD instead, and logprob. If rules made any row, all have way (who made it); if the PLM was asked
    questions, all have reply (what it answered); if a server wrote any, all have model (what it calls the PLM).
    """
    weighed, served = any(row.weight != 1 for row in rows), any(row.model for row in rows)
    ruled, asked = any(row.way != PLM for row in rows), any(row.reply is not None for row in rows)
    counters, targets = any(row.counter_logprob for row in rows), any(row.target for row in rows)
    for row in rows:
        values = _squad(row) if task.kind == "qa" else _named(row, task.labels)
        if counters and task.kind != "qa":
            values["counter_logprob"] = row.counter_logprob
        if targets and task.kind != "qa":
            values["target"] = row.target or {label: float(label == row.label) for label in task.labels}
        if weighed:
            values["loss_weight"] = row.weight
        if ruled:
            values["way"] = row.way
        if asked:
            values["reply"] = row.reply
        if served:
            values["model"] = row.model
        yield values


def _named(row: Example, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "C": row.context,
        "X": row.text,
        "Y": labels.index(row.label),
        "label": row.label,
        "uid": row.uid,
        "logprob": row.logprob,
    }


def _squad(row: Example) -> dict[str, Any]:
    return {
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


def write_jsonl(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write one JSON object per line, completely or not at all."""
    with whole(path) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def write_folder(rows: Sequence[Example], task: TaskConfig, folder: Path) -> None:
    """Write rows as a folder that `datasets.load_from_disk` opens."""
    import datasets
    import pyarrow

    first = next(export_rows(rows, task), {})
    text = datasets.Value("string")
    if task.kind == "qa":
        answers = {"text": datasets.List(text), "answer_start": datasets.List(datasets.Value("int32"))}
        features = {"id": text, "title": text, "context": text, "question": text, "answers": answers}
    else:
        features = {"C": text, "X": text, "Y": datasets.ClassLabel(names=task.labels), "label": text, "uid": text}
    features["logprob"] = datasets.Value("float64")
    features |= {column: text for column in ("way", "reply", "model") if column in first}
    if "loss_weight" in first:
        features["loss_weight"] = datasets.Value("float64")
    for column in ("counter_logprob", "target"):
        if column in first:
            features[column] = {label: datasets.Value("float64") for label in task.labels}
    schema = datasets.Features({column: features[column] for column in first}).arrow_schema
    batches, every, state = [], export_rows(rows, task), hashlib.sha256()
    while part := list(islice(every, _BATCH)):  # as columns, rows take a fraction of the memory
        batches.append(pyarrow.RecordBatch.from_pylist(part, schema=schema))
        state.update(batches[-1].serialize())
    table = datasets.table.InMemoryTable(pyarrow.Table.from_batches(batches, schema=schema))
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        # The library would make a name for the content from a copy of all of it.
        datasets.Dataset(table, fingerprint=state.hexdigest()[:16]).save_to_disk(str(folder))
    finally:
        if bars:
            datasets.enable_progress_bars()


def load_synthetic(
    path: str, task: TaskConfig, integer_labels: dict[Any, str], progress: Progress | None = None
) -> list[Example]:
    """Read a synthetic dataset: a .jsonl, .csv or .parquet file or a `datasets` folder.

    Columns are X (or text), label or Y, and optionally C (or context; required for pairs) and loss_weight; for question
    answering, those of SQuAD. For classification, if X is null in every row, the texts are in C: so the original code
    and FuseGen write texts of a single stage.

    integer_labels: integer Y to label name, for files that carry no label names. Raises `UserError` for a missing
    column, an unknown label, or integers that this map lacks.
    """
    first, rows = _peek(synthetic_rows(path))
    numbered_rows: Iterable[tuple[str, int, Row]] = (
        (f"{path}: row {index + 1}", index, row) for index, row in enumerate(rows)
    )
    if task.kind == "qa":
        for column in ("context", "question", "answers"):
            if column not in first:
                raise missing_column(path, column, first)
        return _with_unique_uids([_question(row, where, index, task) for where, index, row in numbered_rows])
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
        numbered_rows = single_stage(numbered_rows, first, text, context, path, progress or Progress())
    return _with_unique_uids(
        [_example(row, where, index, task, names, text, context) for where, index, row in numbered_rows]
    )


def load_datasets(
    paths: str | Sequence[str], task: TaskConfig, integer_labels: dict[Any, str], progress: Progress | None = None
) -> list[Example]:
    """Read one synthetic dataset, or several one after the other, see `load_synthetic`.

    Of several, `integer_labels` is about those that name no labels: zerogen's own have names and integers of their own.
    """
    if isinstance(paths, str):
        return load_synthetic(paths, task, integer_labels, progress)
    rows = []
    for path in paths:
        named = task.kind == "qa" or _peek(synthetic_rows(path))[0].get("label") in task.labels
        rows += load_synthetic(path, task, {} if named else integer_labels, progress)
    return _with_unique_uids(rows)


def single_stage(
    rows: Iterable[tuple[str, int, Row]], first: Row, text: str, context: str, path: str, progress: Progress
) -> Iterator[tuple[str, int, Row]]:
    """Yield rows with their place and number; if the text is null in all of them, take it from the context column.

    The original code and FuseGen so write texts of a single stage. Raises `UserError` if the text is null in only some.
    """
    nothing = (None, "")  # "" is null in a CSV file
    if first[text] not in nothing or not isinstance(first.get(context), str) or not first[context].strip():
        yield from rows
        return
    progress.say(f"{path}: {text} is null; the texts are read from {context}")
    for where, index, row in rows:
        if row.get(text) not in nothing:
            raise UserError(f"{where}: {text} is {row[text]!r}, but null in the rows before; allowed is all or none")
        yield where, index, row | {text: row.get(context), context: None}


def _peek(rows: Iterator[Row]) -> tuple[Row, Iterator[Row]]:
    """Return the first row, and an iterator over all rows. There must be at least one."""
    first = next(rows)
    return first, chain([first], rows)


def unique(uids: Sequence[str]) -> list[str]:
    """Return uids with a number appended to each that an earlier row has: concatenated files may repeat them."""
    in_use = set(uids)
    if len(in_use) == len(uids):
        return list(uids)
    counts, names = Counter[str](), []
    for uid in uids:
        counts[uid] += 1
        name, number = uid, counts[uid]
        if number > 1:
            while (name := f"{uid}-{number}") in in_use:
                number += 1
            in_use.add(name)
        names.append(name)
    return names


def _with_unique_uids(rows: Sequence[Example]) -> list[Example]:
    names = unique([row.uid for row in rows])
    return [row if row.uid == uid else replace(row, uid=uid) for row, uid in zip(rows, names, strict=True)]


def synthetic_rows(path: str) -> Iterator[Row]:
    """Yield the rows of a .jsonl, .csv or .parquet file or of a `datasets` folder, as dictionaries by column.

    For a class label of a folder, `label` holds the name and `Y` the integer. Raises `UserError` if there are no rows.
    """
    place = Path(path)
    return _folder_rows(path) if place.is_dir() else iter_rows(place)


def _folder_rows(path: str) -> Iterator[Row]:
    import datasets

    try:
        dataset = datasets.load_from_disk(path)
    except (OSError, ValueError) as error:
        raise UserError(f"dataset={path}: not a datasets folder ({str(error).splitlines()[0]})") from error
    if isinstance(dataset, datasets.DatasetDict):
        if "train" not in dataset:
            raise unknown(f"dataset={path}: split", "train", list(dataset))
        dataset = dataset["train"]
    if not len(dataset):
        raise UserError(f"dataset={path}: the folder has no rows")
    classes = {name: dataset.features[name] for name in ("label", "Y") if name in dataset.features}
    labels = next(((name, of.names) for name, of in classes.items() if isinstance(of, datasets.ClassLabel)), None)
    for row in dataset:
        if labels is not None and isinstance(value := row[labels[0]], int) and 0 <= value < len(labels[1]):
            # Give both: the user's meaning of an integer (dataset_labels) takes precedence over the name.
            row = row | {"label": labels[1][value], "Y": value}
        yield row


def _example(
    row: Row, where: str, index: int, task: TaskConfig, names: dict[str, str], text_column: str, context_column: str
) -> Example:
    values = [value for value in (row.get("label"), row.get("Y")) if value not in (None, "")] or [None]
    candidates = [*(names[str(value)] for value in values if str(value) in names), *map(str, values)]
    label, value = next((name for name in candidates if name in task.labels), ""), values[0]
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
    counters = counters if isinstance(counters, dict) else {}  # in a CSV file it is a string
    text = _text(text, f"{where}: {text_column}")
    if task.kind == "pair":
        context = _text(context, f"{where}: {context_column}")
    elif isinstance(context, str):
        refuse_surrogates(context, f"{where}: {context_column}")
    return Example(
        uid=str(row.get("uid", index)),
        text=text,
        label=sys.intern(label),
        context=context if isinstance(context, str) and context else None,
        logprob=_logprob(row),
        counter_logprob={
            str(name): value for name, value in counters.items() if isinstance(value, float) and math.isfinite(value)
        }
        or NOTHING,
        weight=_weight(row, where),
        **_provenance(row),
        target=_target(row, where, task.labels),
    )


def _text(value: Any, where: str) -> str:
    """Return `value` if it is a text that is not blank. Raises `UserError` for anything else."""
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
        **_provenance(row),
    )


def _provenance(row: dict[str, Any]) -> dict[str, Any]:
    """Return who made a row, and what the PLM answered, as far as it says so."""
    said = {key: row[key] for key in ("way", "reply") if isinstance(row.get(key), str)}
    return said | ({"way": sys.intern(said["way"])} if "way" in said else {})


def _weight(row: dict[str, Any], where: str) -> float:
    """Return the weight of a row in the training loss, 1 by default. Raises `UserError` for an invalid one."""
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


def _target(row: dict[str, Any], where: str, labels: Sequence[str]) -> dict[str, float]:
    """Return the distribution that a row teaches, empty without one. Raises `UserError` for an invalid one."""
    value = row.get("target")
    if value in (None, ""):
        return NOTHING
    if isinstance(value, str):  # a cell of a CSV file
        value = json_object(value, f"{where}: target")
    numbers = isinstance(value, dict) and all(type(share) in (int, float) for share in value.values())
    if not numbers or not value or not is_target(Example("", "", "", target=value), labels):
        raise UserError(f"{where}: target is {value!r}; allowed is a probability of each label: {', '.join(labels)}")
    return {str(label): share for label, share in value.items()}


def _logprob(row: dict[str, Any]) -> float | None:
    value = row.get("logprob")
    return value if isinstance(value, float) and math.isfinite(value) else None
