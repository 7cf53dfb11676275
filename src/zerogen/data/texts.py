"""Texts to predict, as they come: from a command line, from lines of a file or a pipe, from a table."""

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

from zerogen.errors import UserError, nearest
from zerogen.records import Input, refuse_surrogates
from zerogen.tables import Row, as_cell, json_rows, missing_column

# Inputs predicted at a time: the first answer comes soon, the many later ones fast.
_BLOCKS = (1, 16, 64, 256, 1024)
_CHARACTERS = 1 << 20  # of a block's texts, from which on it is full
_BYTES = 1 << 16  # read at a time


@dataclass(frozen=True, slots=True)
class Item:
    """What is predicted, and what is shown beside.

    given: what the model reads; None for a blank text. text: the one that is shown. row: all
    columns of a table's row, None where there is no table.
    """

    given: Input | None
    text: str
    row: Row | None = None


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
            refuse_surrogates(f"{column}{as_cell(value)}", f"{place}: column '{column}'")
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
