"""Unlabelled texts of the user: a file, or the texts of the gold training split without their labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from zerogen.config.schema import FEWEST_UNLABELLED, FILE_ENDINGS
from zerogen.config.task_schema import TaskConfig
from zerogen.data.gold import cleaner, load_gold, source_of
from zerogen.data.records import Example
from zerogen.data.tables import read_texts
from zerogen.errors import UserError, nearest, unknown

GOLD = "gold"


def load_unlabelled(
    source: str, column: str | None, task: TaskConfig, reported: Collection[tuple[str, str]] = ()
) -> tuple[list[Example], int]:
    """Read unlabelled texts as rows without a label, each once; return them and how many of `reported` were left out.

    source: `gold`, the gold training split; or a file: .txt with one text per line, .jsonl, .csv or .parquet.
    column: that of the text in a table; None: that of the gold data, else `text`. The other text of a pair, or the
    passage of a question, stands in the gold data's context column, else in `context`. reported: contents of the rows
    that results are reported on. Raises `UserError` for a file that cannot be read, a missing column, and fewer than 50
    texts.
    """
    if source == GOLD:
        if not task.gold:
            raise UserError(f"unlabelled=gold: task '{task.name}' has no gold data (task.gold); allowed is a file")
        rows = [replace(row, label="", answers=()) for row in load_gold(task, "train")]
    else:
        rows = _of_file(Path(source), column, task)
    pair = task.kind != "classification"
    unique = {row.content if pair else ("", row.text): row for row in reversed(rows)}
    left_out_keys = set(reported) if pair else {("", text) for _, text in reported}
    kept = [row for key, row in reversed(unique.items()) if key not in left_out_keys]
    if len(kept) < FEWEST_UNLABELLED:
        left_out = f", {len(unique) - len(kept)} of them left out because results are reported on them"
        raise UserError(
            f"unlabelled={source}: holds {len(unique)} different texts"
            f"{left_out if len(kept) < len(unique) else ''}; allowed are {FEWEST_UNLABELLED} or more"
        )
    return kept, len(unique) - len(kept)


def _of_file(path: Path, column: str | None, task: TaskConfig) -> list[Example]:
    if not path.is_file():
        near = nearest(path.name, [GOLD, *(file.name for file in path.parent.glob("*") if file.is_file())])
        raise UserError(f"unlabelled={path}: there is no such file; allowed are gold or a file{near}")
    gold, pair = source_of(task), task.kind != "classification"
    if path.suffix == ".txt" and (pair or column):
        why = "a pair has two texts, a question a passage" if pair else f"unlabelled_column={column} is for tables"
        raise UserError(f"unlabelled={path}: {why}; allowed is a {', '.join(FILE_ENDINGS)} file")
    if path.suffix not in (".txt", *FILE_ENDINGS):
        raise unknown(f"unlabelled={path}: ending", path.suffix, (".txt", *FILE_ENDINGS))
    columns = [column or (gold.text if gold else "text"), *([(gold and gold.context) or "context"] if pair else [])]
    texts: Sequence[tuple[str, ...]] = read_texts(path, columns, gold.separator if gold else ",")
    # As gold texts are, which a TAM is evaluated on: markup that is cleaned there should not be learned here.
    clean = cleaner(gold.cleaning if gold else {}, f"task '{task.name}': gold.cleaning")
    rows = ([clean(text) for text in row] for row in texts)
    return [
        Example(f"unlabelled-{index}", text, "", other[0] if other else None)
        for index, (text, *other) in enumerate(rows)
        if text and all(other)
    ]
