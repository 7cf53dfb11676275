"""Read gold (human-labelled) data from the Hub, local files or an installed package, as `Example`s."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from zerogen.config.task_schema import GoldConfig, TaskConfig
from zerogen.data.records import Answer, Example
from zerogen.data.tables import Row, iter_rows, json_object, missing_column, read_texts
from zerogen.errors import Unavailable, UserError, nearest, unknown
from zerogen.support.surrogates import refuse_surrogates
from zerogen.support.weights import BUNDLED, package_folder

# What YAML reads as a boolean, by the text of that boolean.
_YAML_BOOLEANS = {"True": {"true", "yes", "on", "y"}, "False": {"false", "no", "off", "n"}}


def source_of(task: TaskConfig) -> GoldConfig | None:
    """Return the gold source that a task selects, None for a task without gold data."""
    if not task.gold:
        return None
    return task.gold[task.gold_source or next(iter(task.gold))]


def load_gold(task: TaskConfig, split: str) -> list[Example]:
    """Read one split (`train`, `validation` or `test`) of the task's gold data.

    Texts are cleaned and labels are names; rows with a blank text (or context, if the task needs one) are left out.
    Raises `UserError` for missing data, a missing column, an unmapped label value or a malformed row.
    """
    return read_gold(task, split)[0]


def read_gold(task: TaskConfig, split: str) -> tuple[list[Example], int]:
    """Return the rows of `load_gold`, and the number of rows left out because they are blank."""
    gold = source_of(task)
    if gold is None:
        raise UserError(f"task '{task.name}' has no gold data")
    by_holdout = gold.holdout is not None and split in ("train", "validation")
    rows, blank = _examples(task, gold, *_rows(task, gold, "train" if by_holdout else split), split)
    if by_holdout:
        validation = _validation_contents(rows, gold)
        rows = [row for row in rows if (row.content in validation) == (split == "validation")]
        rows = list({row.content: row for row in reversed(rows)}.values())[::-1]  # keep the first of equal texts
    if not rows:
        raise UserError(
            f"task '{task.name}': the {split} split of its gold data has no row left after gold.where"
            + (f"; {blank:,} rows have no text" if blank else "")
        )
    return rows, blank


def _validation_contents(rows: Sequence[Example], gold: GoldConfig) -> set[tuple[str, str]]:
    """Draw the contents of the validation split by a seeded hash; no text and no context is in both splits.

    Whole contexts are rank until there are holdout.rows contents, so there may be a few more.
    """
    assert gold.holdout is not None
    size, seed = gold.holdout.rows, gold.holdout.seed
    groups: dict[str, dict[tuple[str, str], None]] = {}
    for row in rows:
        groups.setdefault(row.context or row.text, {})[row.content] = None

    def rank(group: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{group}".encode()).digest()

    contents: set[tuple[str, str]] = set()
    for group in sorted(groups, key=rank):
        if len(contents) >= size:
            return contents
        contents.update(groups[group])
    reason = "; a context must be left to train on" if rows and rows[0].context else ""
    raise UserError(f"gold holdout.rows={size}: allowed is fewer than the {len(contents)} unique texts{reason}")


def _examples(
    task: TaskConfig, gold: GoldConfig, rows: Iterable[Row], where: str, split: str
) -> tuple[list[Example], int]:
    """Convert the raw rows that match `gold.where` to examples; return them and the number of blank rows left out."""
    clean = cleaner(gold.cleaning, f"task '{task.name}': gold.cleaning")
    names = {str(value): name for value, name in gold.labels.items()}
    if not names:  # use the names of a `datasets` feature if they are the task's
        names = {value: name for value, name in _class_names(rows, gold.label).items() if name in task.labels}
    conditions = {
        column: {str(item) for item in (value if isinstance(value, list) else [value])}
        for column, value in gold.where.items()
    }
    by_answers = task.kind == "qa"
    texts = [column for column in (gold.text, gold.context) if column is not None]
    columns = [*texts, gold.answers if by_answers else gold.label, gold.uid, *gold.where]
    needed = [column for column in columns if column is not None]
    examples, blank = [], 0
    for index, row in enumerate(rows):
        place = f"{where}: row {index + 1}"
        for column in needed:
            if column not in row:
                raise missing_column(place, column, row)
        if not all(str(row[column]) in values for column, values in conditions.items()):
            continue
        for column in texts:
            if not isinstance(row[column], str):
                raise UserError(f"{place}: column '{column}': {row[column]!r} is not a text")
            refuse_surrogates(row[column], f"{place}: column '{column}'")
        text, context = clean(row[gold.text]), None if gold.context is None else row[gold.context]
        if context is not None and not by_answers:  # answers are offsets into the passage as it is
            context = clean(context)
        if not text or (task.kind != "classification" and not str(context).strip()):
            blank += 1
            continue
        uid = f"{split}-{index}" if gold.uid is None else str(row[gold.uid])
        if by_answers:
            answers = read_answers(row[gold.answers], str(context), f"{place}: column '{gold.answers}'")
            examples.append(Example(uid, text, task.labels[0], context, answers=answers))
            continue
        value = row[gold.label]
        label = names.get(str(value), str(value))
        if label not in task.labels:
            raise unknown(
                f"{place}: column '{gold.label}': label", value, list(names) or task.labels, _yaml_hint(value, names)
            )
        examples.append(Example(uid, text, label, context))
    return examples, blank


def _class_names(rows: Iterable[Row], column: str) -> dict[str, str]:
    """Return the names that a `datasets` feature has for the integers of a column, if any."""
    names = getattr((getattr(rows, "features", None) or {}).get(column), "names", None)
    return {str(place): name for place, name in enumerate(names or ())}


def _yaml_hint(value: Any, names: dict[str, str]) -> str:
    """Return a hint on how to write a label in gold.labels if it differs from a key only in how YAML reads it."""

    def same(key: str) -> bool:
        text = str(value).strip().casefold()
        try:
            if float(text) == float(key):
                return True
        except ValueError:
            pass
        return text == key.strip().casefold() or text in _YAML_BOOLEANS.get(key, ())

    for key, name in names.items():
        if same(key):
            return f"; write it in quotes and as it stands in the data: labels: {{'{value}': {name}}}"
    if names.keys() & _YAML_BOOLEANS.keys():
        return "; write what stands in the data, in quotes: YAML reads an unquoted yes as true"
    return ""


_ANSWERS = "allowed is {text: [...], answer_start: [...]} as in SQuAD, or one text of the context"


def read_answers(value: Any, context: str, where: str) -> tuple[Answer, ...]:
    """Return the reference answers of a question, spans of its context.

    value: as in SQuAD, {text: [...], answer_start: [...]}, possibly as a JSON string; or the text of the only answer,
    which is located at its first occurrence in the context as whole words, else at its first occurrence; empty for a
    question without an answer. Raises `UserError` for anything else, and for an answer that is not at its position.
    """
    if isinstance(value, str) and value.lstrip().startswith("{") and value.strip() not in context:
        value = json_object(value, where)  # a cell of a CSV file
    if isinstance(value, str):
        text = value.strip()
        if text not in context:
            raise UserError(f"{where}: '{text}' does not stand in the context; {_ANSWERS}")
        whole = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", context)
        return (Answer(text, whole.start() if whole else context.index(text)),) if text else ()
    texts, starts = (value.get("text"), value.get("answer_start")) if isinstance(value, dict) else (None, None)
    if (
        not isinstance(texts, list)
        or not isinstance(starts, list)
        or len(texts) != len(starts)
        or not all(isinstance(text, str) for text in texts)
        or not all(type(start) is int for start in starts)  # True is an int, too
    ):
        raise UserError(f"{where}: {value!r}; {_ANSWERS}")
    answers = [Answer(text, start) for text, start in zip(texts, starts, strict=True) if text.strip()]
    for answer in answers:
        if answer.start < 0 or context[answer.start : answer.start + len(answer.text)] != answer.text:
            raise UserError(f"{where}: '{answer.text}' does not stand at {answer.start} of the context")
    return tuple(answers)


def read_contexts(task: TaskConfig) -> list[str]:
    """Read the file of `context.source`: a .txt with one context per line, else a table with the gold context column.

    Raises `UserError` for a file that does not exist or holds no context, and for a missing column.
    """
    assert task.context is not None
    path = Path(task.context.source)
    if not path.is_file():
        near = nearest(str(path), ["plm", "gold", *(file.name for file in path.parent.glob("*") if file.is_file())])
        raise UserError(f"context.source={path}: there is no such file; allowed are plm, gold or a file{near}")
    gold = source_of(task)
    column = (gold.context if gold else None) or "context"
    texts = [text for (text,) in read_texts(path, [column], gold.separator if gold else ",")]
    if not texts:
        raise UserError(f"context.source={path}: the file holds no text")
    return texts


def cleaner(rules: dict[str, str], where: str) -> Callable[[str], str]:
    """Return a function that applies regex replacements in order and collapses white space.

    where: the key of the rules, for errors. Raises `UserError` for a pattern that is not a regular expression.
    """
    try:
        patterns = [(re.compile(pattern), replacement) for pattern, replacement in rules.items()]
    except re.error as error:
        raise UserError(f"{where}: '{error.pattern!s}' is not a regular expression: {error}") from error

    def clean(text: str) -> str:
        for pattern, replacement in patterns:
            text = pattern.sub(replacement, text)
        return " ".join(text.split())

    return clean


def _rows(task: TaskConfig, gold: GoldConfig, split: str) -> tuple[Iterable[Row], str]:
    """Return the raw rows of a split, and the name of their source for errors."""
    name = gold.splits.get(split, split)
    if gold.hub:
        return _hub_rows(task, gold.hub, name)
    if gold.folder:
        return _folder_rows(Path(gold.folder), name)
    if gold.package:
        package, _, inside = gold.package.partition("/")
        if split != "train":
            raise UserError(f"task '{task.name}': gold of package {package} has no {split} split; set holdout")
        path = package_folder(package, f"the gold data of task '{task.name}'") / inside
    else:
        if name not in gold.files:
            raise UserError(
                f"task '{task.name}': its gold data has no file for the {name} split, which is needed here (files, or "
                f"data_dir); there are: {', '.join(gold.files.values())}{nearest(name, gold.files)}"
            )
        path = Path(gold.files[name])
        if not path.exists():
            near = nearest(path.name, [file.name for file in path.parent.glob("*")])
            raise UserError(f"task '{task.name}': gold.files.{name}={path}: there is no such file{near}")
    return iter_rows(path, gold.separator), str(path)


def _hub_rows(task: TaskConfig, arguments: dict[str, Any], split: str) -> tuple[Iterable[Row], str]:
    import datasets

    where = f"Hub dataset '{arguments.get('path')}'"
    try:
        return datasets.load_dataset(**arguments, split=split), where
    except Exception as error:  # a dataset's files, the Hub or a proxy may raise anything
        others = [f"task.gold_source={name}" for name, gold in task.gold.items() if gold.package]
        instead = others[0] if others else "data_dir=FOLDER for files of your own, or task=rotten_tomatoes"
        raise Unavailable(
            f"gold data of task '{task.name}': {where} could not be loaded ({type(error).__name__}: {_short(error)}); "
            f"without a network use {instead} ({BUNDLED})"
        ) from error


def _short(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:160]


def _folder_rows(folder: Path, split: str) -> tuple[Iterable[Row], str]:
    import datasets

    if not folder.is_dir():
        raise UserError(f"gold folder {folder}: there is no such folder")
    try:
        dataset = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"gold folder {folder}: not a datasets folder ({_short(error)})") from error
    if isinstance(dataset, datasets.Dataset):
        dataset = datasets.DatasetDict({"train": dataset})
    if split not in dataset:
        raise unknown(f"gold folder {folder}: split", split, list(dataset))
    return dataset[split], f"{folder} ({split})"
