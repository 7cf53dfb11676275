"""Read rows of .jsonl, .csv, .tsv and .parquet files one at a time, each as a dictionary from column to value."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zerogen.config.schema import FILE_ENDINGS
from zerogen.errors import UserError, nearest
from zerogen.support.surrogates import refuse_surrogates

Row = dict[str, Any]
_TABS = (".tsv", ".tab")  # endings of files that are separated by tabs, whatever else is asked for
_SEPARATORS = {";": "';'", "\t": '"\\t"', "|": "'|'", ",": "','"}  # separator: how YAML writes it


def iter_rows(path: Path, separator: str = ",") -> Iterator[Row]:
    """Yield the rows of a file with one of `FILE_ENDINGS`; all values of a CSV file are strings.

    separator: the character between the columns of a CSV file. Raises `UserError` at once for a missing file or an
    unknown ending; while iterating, for a repeated column, a malformed row (with its line) or a file without rows.
    """
    if not path.exists() or path.is_dir():
        near = nearest(path.name, [file.name for file in path.parent.glob("*") if file.is_file()])
        raise UserError(f"{path}: {'is a folder' if path.is_dir() else f'there is no such file{near}'}")
    if path.suffix.lower() not in FILE_ENDINGS:
        raise UserError(f"{path}: ending '{path.suffix}' is unknown; allowed: {', '.join(FILE_ENDINGS)}")
    return _rows(path, separator)


def read_texts(path: Path, columns: Sequence[str], separator: str = ",") -> list[tuple[str, ...]]:
    """Read the lines of a .txt file, each a tuple of one text, or columns of a table; rows with a blank are left out.

    White space within a line is collapsed. Raises `UserError` for a file that cannot be read, a missing column, and a
    value that is not a text.
    """
    texts: list[tuple[str, ...]] = []
    if path.suffix == ".txt":
        try:
            texts = [(" ".join(line.split()),) for line in path.read_bytes().decode("utf-8-sig").split("\n")]
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error})") from error
    else:
        for number, row in enumerate(iter_rows(path, separator), 1):
            for column in columns:
                if column not in row:
                    raise missing_column(f"{path}: row {number}", column, row)
                if not isinstance(row[column], str):
                    raise UserError(f"{path}: row {number}: column '{column}': {row[column]!r} is not a text")
            texts.append(tuple(row[column] for column in columns))
    for number, row_texts in enumerate(texts, 1):
        for text in row_texts:
            refuse_surrogates(text, f"{path}: text {number}")
    return [row_texts for row_texts in texts if all(map(str.strip, row_texts))]


def _rows(path: Path, separator: str) -> Iterator[Row]:
    none = True
    try:
        for row in _parquet(path) if path.suffix.lower() == ".parquet" else _text(path, separator):
            none = False
            yield row
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error})") from error
    if none:
        raise UserError(f"{path}: the file has no rows")


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _refuse_duplicates(file.schema_arrow.names, str(path))
            for batch in file.iter_batches():
                yield from _python_rows(batch, path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a parquet file ({_short(error)})") from error


def _python_rows(batch: Any, path: Path) -> list[Row]:
    """Return the rows of a parquet batch. Raises `UserError`, naming the column, for values that Python does not have.

    Such as dates after the year 9999. UnicodeDecodeError is raised for texts that are none.
    """
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column.to_pylist()
            except (ValueError, OverflowError) as error:
                what = f"column '{name}' ({column.type})"
                raise UserError(f"{path}: {what} holds what cannot be read ({_short(error)}); leave it out") from error
        raise


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _text(path: Path, separator: str) -> Iterator[Row]:
    ending = path.suffix.lower()
    with path.open(encoding="utf-8-sig", newline="") as file:
        if ending == ".jsonl":
            yield from (row for _, row in json_rows(file, path))
        else:
            yield from _csv(file, path, "\t" if ending in _TABS else separator)


def json_rows(lines: Iterable[str], where: object) -> Iterator[tuple[int, Row]]:
    """Yield (line number, JSON object) for each line that is not blank.

    where: the file of the lines, for errors. Raises `UserError` for a line that is not a JSON object or repeats a key.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, json_object(line, f"{where}:{number}")


def json_object(text: str, where: str) -> Row:
    """Parse a JSON object. Raises `UserError` for anything else, and for an object that repeats a key."""

    def to_row(pairs: list[tuple[str, Any]]) -> Row:
        row = dict(pairs)
        if len(row) < len(pairs):
            _refuse_duplicates([key for key, _ in pairs], where)
        return row

    try:
        value = json.loads(text, object_pairs_hook=to_row)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise UserError(f"{where}: not JSON that can be read (it is nested too deeply)") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise UserError(f"{where}: not JSON that can be read ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: allowed is a JSON object, found {type(value).__name__}")
    return value


def _csv(lines: Iterable[str], path: Path, separator: str) -> Iterator[Row]:
    csv.field_size_limit((1 << 31) - 1)  # the largest that every platform accepts; Python's default is 131,072
    # Strict, because otherwise an unclosed quote silently swallows the lines after it.
    reader = csv.reader(lines, delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}:{start}: not CSV ({_csv_reason(error)})") from error
        if values is None:
            return
        if header is None:
            header = values or None  # an empty line may come first
            _refuse_duplicates(values, str(path))
        elif values:  # otherwise an empty line
            if len(values) != len(header):
                hint = separator_hint(header)
                raise UserError(
                    f"{path}:{start}: the header has {len(header)} columns, this row {len(values)}{hint}; a text that "
                    "holds a separator stands in double quotes"
                )
            yield dict(zip(header, values, strict=True))


def _csv_reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return "a quote is opened here and closed nowhere"
    if "expected after" in text:
        return "text follows a closing quote; a quote is not closed before, or one inside a text is not written twice"
    return text


def _refuse_duplicates(names: Sequence[str], where: str) -> None:
    """Raise `UserError` for a repeated column name: which of the two is meant is unknown."""
    for place, name in enumerate(names):
        if name and name in names[:place]:  # a spreadsheet may have several columns without a name
            raise UserError(f"{where}: column '{name}' is there twice; rename or remove one")


def missing_column(where: str, column: str, row: Row) -> UserError:
    """Return the error for a `column` that is missing from `row`. where: file and row."""
    names = [str(name) for name in row]
    hint = separator_hint(names) or nearest(column, names)
    if ".csv" in where and not hint:
        hint = "; the first line of a CSV file names its columns"
    return UserError(f"{where}: no column '{column}'; there are: {', '.join(names)}{hint}")


def separator_hint(names: Sequence[str]) -> str:
    """Return a hint if a CSV file has a single column whose name contains another separator, else nothing."""
    if len(names) == 1:
        for sign, quoted in _SEPARATORS.items():
            if sign in names[0]:
                return f"; is it separated otherwise? set separator: {quoted} in the gold source (predict: --separator)"
    return ""


def as_cell(value: object) -> str:
    """Return a value as the text of a CSV cell: JSON for lists and dictionaries, an empty cell for None."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else str(value)
