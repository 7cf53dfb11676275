"""Use a trained TAM: `python -m zerogen.predict RUN_FOLDER [TEXT ...]`."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from zerogen.console import ArgumentParser, ending_with_the_reader, reporting_errors
from zerogen.errors import UserError, nearest
from zerogen.files import expanded
from zerogen.models import tam_folder
from zerogen.records import AnswerPrediction, Prediction, refuse_surrogates
from zerogen.tables import FILE_ENDINGS, Row, iter_rows, json_rows, missing_column

if TYPE_CHECKING:
    import argparse

    from zerogen.tam.tam import Input

# Inputs predicted at a time: the first answer comes soon, the many later ones fast.
_BLOCKS = (1, 16, 64, 256, 1024)
_CHARACTERS = 1 << 20  # of a block's texts, from which on it is full
_BYTES = 1 << 16  # read at a time
_OTHER_TABLES = (".tsv", ".json", ".xls", ".xlsx", ".ods", ".feather", ".arrow", ".gz", ".zip")  # not lines of texts


@dataclass(frozen=True, slots=True)
class Item:
    """What is predicted, and what is shown beside.

    given: what the model reads; None for a blank text. text: the one that is shown. row: all
    columns of a table's row, None where there is no table.
    """

    given: Input | None
    text: str
    row: Row | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m zerogen.predict` and of the console script `zerogen-predict`."""
    with reporting_errors(), ending_with_the_reader():
        keep_characters(sys.stdout)
        options = _parser().parse_intermixed_args(arguments)
        path = None if options.file is None else Path(expanded(options.file, "--file"))
        table = path if path is not None and path.suffix.lower() in FILE_ENDINGS else None
        if path is not None and path.suffix.lower() in _OTHER_TABLES:
            raise UserError(
                f"--file {path}: cannot be read; allowed are {', '.join(FILE_ENDINGS)}, or texts, one a line"
            )
        check_options(options, table)
        folder = tam_folder(Path(expanded(options.folder, "folder")))
        # Opened before the model is loaded: a file that is not there is said at once.
        rows = None if table is None else iter_rows(table, options.separator or ",")
        lines = None if options.text or table is not None else Lines(*opened(path))
        from zerogen.process import devices_of, gpu_of, share_cores, stop_on_signals

        stop_on_signals()
        share_cores()
        device = devices_of(gpu_of(options.gpu))[0]
        from zerogen.tam.tam import load_tam

        tam = load_tam(folder, device)
        kind, contexts = tam.spec.kind, options.context
        if kind == "classification" and (contexts or options.context_column):
            option = "--context" if contexts else "--context-column"
            raise UserError(f"{option}: this model reads a single text; leave it out")
        if rows is not None:
            found = rows_of_table(rows, kind, str(table), options.text_column, options.context_column, contexts)
        elif lines is not None:
            found = items_of_lines(lines, kind, contexts, lines.where)
        else:
            found = items_of_texts(options.text, kind, contexts)
        write = Writer(options.format or _format_of(table), kind, sys.stdout, str(table))
        blank = 0
        with shown_progress(sys.stdout, sys.stderr) as advance:
            for block in blocks(found, lambda: lines is not None and lines.must_wait()):
                predicted = iter(tam.predict([item.given for item in block if item.given is not None]))
                write([(item, None if item.given is None else next(predicted)) for item in block])
                sys.stdout.flush()
                blank += sum(item.given is None for item in block)
                advance(len(block))
        if blank:
            print(f"zerogen: no prediction where the text is blank: {blank:,} of {write.count:,}", file=sys.stderr)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="zerogen-predict",
        description="Print the label and its probability for texts, or the answer to questions, by the small model "
        "that a run has trained.",
        epilog="Without TEXT and --file, texts are read from standard input, one a line. Where the model reads a text "
        "and a context, each TEXT goes with a --context, and lines are JSON: {text, context}, for answers "
        "{question, context}. Of a table, all columns are written, and the prediction after them.",
    )
    parser.add_argument("folder", help="run folder (or the tam/ folder inside it)")
    parser.add_argument("text", nargs="*", default=[], help="text to label, or question to answer")
    parser.add_argument(
        "--context",
        action="append",
        default=[],
        help="the other text of the pair, or the passage that answers the question: one for all TEXTs, or one for each",
    )
    parser.add_argument("--file", help="file of texts, one a line; or a table: .csv, .jsonl or .parquet")
    parser.add_argument(
        "--text",
        dest="text_column",
        metavar="COLUMN",
        help="column of the text in a table; default: text, for answers question where there is one",
    )
    parser.add_argument("--context-column", metavar="COLUMN", help="column of the context in a table; default: context")
    parser.add_argument("--separator", help="what stands between the columns of a .csv file; default: a comma")
    parser.add_argument(
        "--format",
        choices=("text", "jsonl", "csv"),
        help="default: text (tab-separated); of a table csv, and jsonl where it is .jsonl",
    )
    parser.add_argument("--gpu", default="auto", help="auto, none or an index; default: auto")
    return parser


def check_options(options: argparse.Namespace, table: Path | None) -> None:
    """Raise `UserError` for options that do not go together. table: the file, where it is one."""
    if options.text and options.file is not None:
        raise UserError(f"--file {options.file}: allowed is TEXT or --file, not both")
    for name, value in (("--text", options.text_column), ("--context-column", options.context_column)):
        if value is not None and table is None:
            raise UserError(f"{name} {value}: is for a table; allowed with --file and {', '.join(FILE_ENDINGS)}")
    if options.separator is not None:
        if table is None or table.suffix.lower() != ".csv":
            raise UserError(f"--separator {options.separator!r}: is for a table; allowed with --file and .csv")
        options.separator = options.separator.replace("\\t", "\t")  # as a shell passes it on
        if len(options.separator) != 1 or options.separator in '"\r\n':
            raise UserError(f"--separator {options.separator!r}: allowed is one character, such as ';' or '\\t'")
    if options.context and options.context_column is not None:
        raise UserError(f"--context-column {options.context_column}: allowed is --context or --context-column")
    for number, context in enumerate(options.context, 1):
        if not context.strip():
            raise UserError("--context: is empty; allowed is a text")
        refuse_surrogates(context, f"--context {number}")
    for number, text in enumerate(options.text, 1):
        refuse_surrogates(text, f"TEXT {number}")
    if options.text and len(options.context) not in (0, 1, len(options.text)):
        raise UserError(
            f"--context: given {len(options.context)} times for {len(options.text)} texts; "
            "allowed is one, or one for each"
        )
    if not options.text and len(options.context) > 1:
        raise UserError(f"--context: given {len(options.context)} times; allowed for a file or lines is one")


def _format_of(table: Path | None) -> str:
    if table is None:
        return "text"
    return "jsonl" if table.suffix.lower() == ".jsonl" else "csv"


def keep_characters(file: TextIO) -> None:
    """Let results that go into a file or a pipe be UTF-8, unless the user has set another encoding for Python."""
    if isinstance(file, io.TextIOWrapper) and not file.isatty() and "PYTHONIOENCODING" not in os.environ:
        file.reconfigure(encoding="utf-8")


def opened(path: Path | None) -> tuple[int, str]:
    """Open a file, or a pipe by its path, or standard input (None): its descriptor, and its name for messages.

    Raises `UserError` where that cannot be.
    """
    if path is None:
        if sys.stdin is None:
            raise UserError("standard input: is closed; give TEXT or --file")
        return sys.stdin.fileno(), "standard input"
    if path.is_dir():
        raise UserError(f"--file {path}: is a folder; allowed is a file")
    try:
        return os.open(path, os.O_RDONLY), str(path)
    except FileNotFoundError as error:
        near = nearest(path.name, [file.name for file in path.parent.glob("*") if file.is_file()])
        raise UserError(f"--file {path}: there is no such file{near}") from error
    except OSError as error:
        raise UserError(f"--file {path}: cannot be read ({error.strerror})") from error


class Lines(Iterator[str]):
    """The lines of a file, a pipe or a terminal, as they come. where: its name for messages.

    Lines end at a newline only: a text may hold a line separator of Unicode's. Iterating raises `UserError` for what is
    not UTF-8, and where there is no line at all.
    """

    def __init__(self, descriptor: int, where: str) -> None:
        self.descriptor, self.where = descriptor, where
        self.number = 0  # of the line that was yielded last
        self._ready: deque[bytes] = deque()
        self._filled = 0  # of those, how many are not blank
        self._begun: list[bytes] = []  # pieces of a line whose end was not read yet
        self._ended = False

    def __next__(self) -> str:
        while not self._ready and not self._ended:
            self._read()
        if not self._ready:
            if not self.number:
                raise UserError(f"{self.where}: holds no text")
            raise StopIteration
        self.number += 1
        line = self._ready.popleft().removesuffix(b"\r")
        self._filled -= bool(line.strip())
        if self.number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where}:{self.number}: not UTF-8 text ({error})") from error

    def must_wait(self) -> bool:
        """Say whether no line is there yet that holds anything; whether one will come is not known."""
        while not self._filled and not self._ended and self._readable(0):
            self._read()
        return not self._filled and not self._ended

    def _readable(self, seconds: float | None) -> bool:
        return bool(select.select([self.descriptor], [], [], seconds)[0])

    def _read(self) -> None:
        self._readable(None)  # a terminal that another program has set not to block would fail
        try:
            read = os.read(self.descriptor, _BYTES)
        except OSError as error:
            raise UserError(f"{self.where}: cannot be read ({error.strerror})") from error
        first, *others = read.split(b"\n")
        self._begun.append(first)
        for piece in others:
            self._end_line()
            self._begun.append(piece)
        self._ended = not read
        if self._ended and any(self._begun):
            self._end_line()

    def _end_line(self) -> None:
        line = b"".join(self._begun)
        self._begun.clear()
        self._ready.append(line)
        self._filled += bool(line.strip())


def items_of_texts(texts: Sequence[str], kind: str, contexts: Sequence[str]) -> Iterator[Item]:
    """Yield what a TAM of a kind reads of TEXTs. Raises `UserError` where they need contexts and there are none."""
    if kind != "classification" and not contexts:
        name = "question" if kind == "qa" else "text"
        raise UserError(f"--context: this model reads a {name} and a context; give the context")
    for place, text in enumerate(texts):
        yield _item(text, contexts[place % len(contexts)] if contexts else None)


def _item(text: str, context: str | None) -> Item:
    """Return what is predicted for a text of its own or about a context: nothing where it is blank."""
    return Item(None if not text.strip() else text if context is None else (text, context), text)


def items_of_lines(lines: Iterable[str], kind: str, contexts: Sequence[str], where: str) -> Iterator[Item]:
    """Yield what a TAM of a kind reads of lines: each a text, or JSON with the text and its context.

    contexts: one that goes with every line, or none. where: names the lines' place. Raises `UserError` for a line that
    is not JSON with the two texts.
    """
    if kind == "classification":
        yield from (_item(line, None) for line in lines)
        return
    if contexts:  # every line is a text of its own
        yield from (_item(line, contexts[0]) for line in lines)
        return
    name = "question" if kind == "qa" else "text"
    for number, row in json_rows(lines, where):
        for key in (name, "context"):
            if key not in row:
                raise UserError(f"{where}:{number}: has no '{key}'; allowed is {{{name}, context}}{nearest(key, row)}")
            if not isinstance(row[key], str) or not row[key].strip():
                raise UserError(f"{where}:{number}: '{key}' is {row[key]!r}; allowed is a text")
            refuse_surrogates(row[key], f"{where}:{number}: '{key}'")
        yield Item((row[name], row["context"]), row[name])


def rows_of_table(
    rows: Iterable[Row],
    kind: str,
    where: str,
    text_column: str | None,
    context_column: str | None,
    contexts: Sequence[str],
) -> Iterator[Item]:
    """Yield what a TAM of a kind reads of the rows of a table; nothing is read of one with a blank text.

    contexts: one that goes with every row, or none for that of the column. where: names the table. Raises `UserError`
    for a column that is not there, and for a value in one that is not a text.
    """
    columns: list[str] = []
    for number, row in enumerate(rows, 1):
        place = f"{where}: row {number}"
        if not columns:
            asked = "question" if kind == "qa" and ("question" in row or "text" not in row) else "text"
            columns = [text_column or asked]
            if kind != "classification" and not contexts:
                columns.append(context_column or "context")
        for column in columns:
            if column not in row:
                raise missing_column(place, column, row)
            if not isinstance(row[column], str):
                raise UserError(f"{place}: column '{column}': {row[column]!r} is not a text")
        for column, value in row.items():
            # Of all columns, since all are written.
            refuse_surrogates(f"{column}{_as_text(value)}", f"{place}: column '{column}'")
        texts = [*(row[column] for column in columns), *contexts]
        given: Input = texts[0] if kind == "classification" else (texts[0], texts[1])
        yield Item(given if all(map(str.strip, texts)) else None, texts[0], row)


def blocks(items: Iterable[Item], must_wait: Callable[[], bool]) -> Iterator[list[Item]]:
    """Yield items in lists that grow; a list also ends where the next item would have to be waited for."""
    items = iter(items)
    for size in chain(_BLOCKS, repeat(_BLOCKS[-1])):
        block: list[Item] = []
        characters = 0
        for item in items:
            block.append(item)
            characters += sum(map(len, item.given)) if isinstance(item.given, tuple) else len(item.text)
            if len(block) == size or characters >= _CHARACTERS or must_wait():
                break
        if not block:
            return
        yield block


class Writer:
    """Writes a line per item: label (or answer), probability and text, as tab-separated text, JSON or CSV.

    JSON also says where an answer begins in its context, -1 for none. Of a table, JSON and CSV have all columns, and
    after them label and probability, or answer, probability and start; `predicted_label` and so on where the table has
    a column of such a name itself.
    """

    def __init__(self, style: str, kind: str, file: TextIO, where: str = "") -> None:
        self.style, self.file, self.where = style, file, where
        self.text = "question" if kind == "qa" else "text"
        self.names = ["answer", "probability", "start"] if kind == "qa" else ["label", "probability"]
        self.columns: list[str] = []  # of the first row
        self.count = 0

    def __call__(self, found: Sequence[tuple[Item, Prediction | AnswerPrediction | None]]) -> None:
        """Write items with their predictions. Raises `UserError` for a row with columns that the first one lacks."""
        for item, prediction in found:
            self.count += 1
            values = _values(prediction, len(self.names))
            if self.style == "text":
                probability = "" if values[1] is None else f"{values[1]:.4f}"
                # A line each, and three columns, whatever the texts hold.
                self.file.write("\t".join((_one_line(values[0] or ""), probability, _one_line(item.text))) + "\n")
                continue
            row = self._of_table(item.row, values) if item.row is not None else self._of_line(item.text, values)
            if self.style == "jsonl":
                self.file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                continue
            if self.count == 1:
                self.file.write(_csv_line(row))
                self.columns = list(row)
            self.file.write(_csv_line(_as_text(row.get(column)) for column in self.columns))

    def _of_line(self, text: str, values: Sequence[Any]) -> Row:
        row = dict(zip(self.names[:2], values, strict=False)) | {self.text: text}
        return row | dict(zip(self.names[2:], values[2:], strict=True)) if self.style == "jsonl" else row

    def _of_table(self, row: Row, values: Sequence[Any]) -> Row:
        if self.count == 1:
            self.columns = list(row)
            while not set(self.names).isdisjoint(row):
                self.names = [f"predicted_{name}" for name in self.names]
        for column in row:
            if column in self.names or (self.style == "csv" and column not in self.columns):
                hint = "rename it, predictions have that name" if column in self.names else "--format jsonl writes it"
                raise UserError(f"{self.where}: row {self.count}: column '{column}' is not in the first row; {hint}")
        return row | dict(zip(self.names, values, strict=True))


def _values(found: Prediction | AnswerPrediction | None, count: int) -> list[Any]:
    """Return the values of a prediction in their order; `count` times None for none."""
    if found is None:
        return [None] * count
    if isinstance(found, AnswerPrediction):
        return [found.text, round(found.probability, 4), found.start]
    return [found.label, round(found.probabilities[found.label], 4)]


def _as_text(value: object) -> str:
    """Return a value as a cell of a CSV file."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else str(value)


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # with \n alone, a \r in a text is not quoted
    return line.getvalue().removesuffix("\r\n") + "\n"


def _one_line(text: str) -> str:
    return re.sub(r"[\t\r\n]+", " ", text)


@contextmanager
def shown_progress(answers: TextIO, file: TextIO) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many lines are done, and how many a second, where the answers go elsewhere.

    Yields what is called with the number of lines just done.
    """
    if answers.isatty() or not file.isatty():
        yield lambda done: None
        return
    total, started, shown = 0, time.monotonic(), 0.0

    def advance(done: int) -> None:
        nonlocal total, shown
        total += done
        now = time.monotonic()
        if now - shown > 0.2:
            shown = now
            file.write(f"\r{total:,} lines, {total / max(now - started, 1e-9):,.0f} lines/s\x1b[K")
            file.flush()

    try:
        yield advance
    finally:
        file.write("\r\x1b[K")
        file.flush()


if __name__ == "__main__":
    main()
