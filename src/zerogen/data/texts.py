"""Read texts to predict from the command line, lines of a file or pipe, or a table, and group them in blocks."""

from __future__ import annotations

import codecs
import os
import select
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

from zerogen.data.records import Input
from zerogen.data.tables import Row, as_cell, json_rows, missing_column
from zerogen.errors import UserError, nearest
from zerogen.support.surrogates import refuse_surrogates

# Inputs predicted at a time: small blocks first for a quick first answer, then large ones for throughput.
_BLOCKS = (1, 16, 64, 256, 1024)
_CHARACTERS = 1 << 20  # characters of text at which a block is full
_BYTES = 1 << 16  # read at a time


@dataclass(frozen=True, slots=True)
class Item:
    """An input to predict, and what to show next to its prediction.

    given: the input of the model, None for a blank text.
    text: the text to show.
    row: all columns of a table's row, None if there is no table.
    """

    given: Input | None
    text: str
    row: Row | None = None


def opened(path: Path | None) -> tuple[int, str]:
    """Open a file or a named pipe, or standard input (None); return its descriptor, and its name for messages.

    Raises `UserError` if it cannot be opened.
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
    """The lines of a file, a pipe or a terminal, as they arrive. where: its name for messages.

    Only a newline ends a line: a text may hold Unicode's line separators. Iterating raises `UserError` for a line that
    is not UTF-8, and if there is no line at all.
    """

    def __init__(self, descriptor: int, where: str) -> None:
        self.descriptor, self.where = descriptor, where
        self.number = 0  # number of the line that was yielded last
        self._ready: deque[bytes] = deque()  # complete lines that were not yielded yet
        self._ready_texts = 0  # number of lines in `_ready` that are not blank
        self._pieces: list[bytes] = []  # pieces of a line whose end was not read yet
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
        self._ready_texts -= bool(line.strip())
        if self.number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where}:{self.number}: not UTF-8 text ({error})") from error

    def must_wait(self) -> bool:
        """Return whether the next line that is not blank has not arrived yet; one may never come."""
        while not self._ready_texts and not self._ended and self._readable(0):
            self._read()
        return not self._ready_texts and not self._ended

    def _readable(self, seconds: float | None) -> bool:
        return bool(select.select([self.descriptor], [], [], seconds)[0])

    def _read(self) -> None:
        self._readable(None)  # else reading fails on a terminal that another program has set to non-blocking
        try:
            read = os.read(self.descriptor, _BYTES)
        except OSError as error:
            raise UserError(f"{self.where}: cannot be read ({error.strerror})") from error
        first, *others = read.split(b"\n")
        self._pieces.append(first)
        for piece in others:
            self._end_line()
            self._pieces.append(piece)
        self._ended = not read
        if self._ended and any(self._pieces):
            self._end_line()

    def _end_line(self) -> None:
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._ready.append(line)
        self._ready_texts += bool(line.strip())


def items_of_texts(texts: Sequence[str], kind: str, contexts: Sequence[str]) -> Iterator[Item]:
    """Yield the items of TEXTs for a TAM of a kind. Raises `UserError` if it needs contexts and there are none."""
    if kind != "classification" and not contexts:
        name = "question" if kind == "qa" else "text"
        raise UserError(f"--context: this model reads a {name} and a context; give the context")
    for place, text in enumerate(texts):
        yield _item(text, contexts[place % len(contexts)] if contexts else None)


def _item(text: str, context: str | None) -> Item:
    """Return the item of a text, with its context if there is one; its input is None if the text is blank."""
    return Item(None if not text.strip() else text if context is None else (text, context), text)


def items_of_lines(lines: Iterable[str], kind: str, contexts: Sequence[str], where: str) -> Iterator[Item]:
    """Yield the items of lines for a TAM of a kind: each line is a text, or JSON with a text and its context.

    contexts: one context for every line, or none. where: the file of the lines, for errors. Raises `UserError` for a
    line that should be JSON with the two texts and is not.
    """
    if kind == "classification":
        yield from (_item(line, None) for line in lines)
        return
    if contexts:  # every line is a text
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
    """Yield the items of a table's rows for a TAM of a kind; the input of a row with a blank text is None.

    contexts: one context for every row, or none to read the column. where: the table, for errors. Raises `UserError`
    for a missing column, and for a value in a column to read that is not a text.
    """
    columns: list[str] = []
    for number, row in enumerate(rows, 1):
        place = f"{where}: row {number}"
        if not columns:
            default = "question" if kind == "qa" and ("question" in row or "text" not in row) else "text"
            columns = [text_column or default]
            if kind != "classification" and not contexts:
                columns.append(context_column or "context")
        for column in columns:
            if column not in row:
                raise missing_column(place, column, row)
            if not isinstance(row[column], str):
                raise UserError(f"{place}: column '{column}': {row[column]!r} is not a text")
        for column, value in row.items():
            # Check all columns, since all are written.
            refuse_surrogates(f"{column}{as_cell(value)}", f"{place}: column '{column}'")
        texts = [*(row[column] for column in columns), *contexts]
        model_input: Input = texts[0] if kind == "classification" else (texts[0], texts[1])
        yield Item(model_input if all(map(str.strip, texts)) else None, texts[0], row)


def blocks(items: Iterable[Item], must_wait: Callable[[], bool], most: int = _BLOCKS[-1]) -> Iterator[list[Item]]:
    """Yield items in lists of growing size; end a list early rather than wait for the next item.

    must_wait: returns whether the next item has not arrived yet. most: the largest size.
    """
    items = iter(items)
    for size in chain(_BLOCKS, repeat(_BLOCKS[-1])):
        block: list[Item] = []
        characters = 0
        for item in items:
            block.append(item)
            characters += sum(map(len, item.given)) if isinstance(item.given, tuple) else len(item.text)
            if len(block) >= min(size, most) or characters >= _CHARACTERS or must_wait():
                break
        if not block:
            return
        yield block
