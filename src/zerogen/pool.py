"""Append-only stores of generated rows: one line per chunk, so that a chunk is either whole or absent."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zerogen.errors import UserError
from zerogen.files import writing
from zerogen.records import Example


@dataclass(frozen=True)
class Chunk:
    """What came of one chunk of requests.

    rows: accepted, in request order. asked and rejects count requests, by label and by (label, reason).
    samples: the first outputs of each label and the first rejected ones of each reason, to look at. cut: how many of
    the requests hold a part of their context only.
    """

    index: int
    rows: list[Example]
    asked: dict[str, int]
    rejects: dict[str, dict[str, int]]
    samples: list[dict[str, Any]]
    tokens: int
    seconds: float
    cut: int = 0

    def accepted(self) -> Counter[str]:
        """Return the number of accepted rows per label."""
        return Counter(row.label for row in self.rows)


@dataclass
class Journal:
    """A file of chunks. `path` None keeps them in memory only."""

    path: Path | None = None
    chunks: list[Chunk] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path | None, repair: bool = False) -> Journal:
        """Read what is there; a line that was not written to its end (the process was killed) does not count.

        repair: also cut such a line off, which only the one process that appends may do. Raises `UserError` for a file
        that is not a journal, and for one that lacks a chunk or has one twice: its rows would be others.
        """
        journal = cls(path)
        if path is None or not path.exists():
            return journal
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if repair and whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                fields = json.loads(line)
                fields["rows"] = [Example.of(row) for row in fields["rows"]]
                chunk = Chunk(**fields)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise UserError(
                    f"{path}:{number}: not a chunk of generated rows; delete the folder to start again"
                ) from error
            if chunk.index != len(journal.chunks):
                raise UserError(
                    f"{path}:{number}: holds chunk {chunk.index}, where chunk {len(journal.chunks)} belongs: a line is "
                    "missing or there twice; restore the file, or delete the folder to start again"
                )
            journal.chunks.append(chunk)
        return journal

    def append(self, chunk: Chunk) -> None:
        """Add a chunk and put it on disk before returning. Raises `OSError` where that cannot be done."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fields = asdict(chunk)
            for row in fields["rows"]:
                del row["weight"], row["scores"]  # which a row gets after the pool
            line = json.dumps(fields, ensure_ascii=False) + "\n"
            # A file that somebody has deleted meanwhile is not begun again in the middle.
            with writing(self.path.parent), self.path.open("r+b" if self.chunks else "ab") as file:
                file.seek(0, os.SEEK_END)
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        self.chunks.append(chunk)

    def rows(self) -> Iterator[Example]:
        """Yield the accepted rows of all chunks in request order."""
        for chunk in self.chunks:
            yield from chunk.rows


def quotas(n: int, labels: Iterable[str]) -> dict[str, int]:
    """Share `n` rows equally among labels; the first labels get what does not divide."""
    labels = list(labels)
    return {label: n // len(labels) + (i < n % len(labels)) for i, label in enumerate(labels)}


def first_per_label(rows: Iterable[Example], quota: dict[str, int]) -> Iterator[Example]:
    """Yield the first `quota[label]` rows of each label, in order."""
    taken: Counter[str] = Counter()
    for row in rows:
        if taken[row.label] < quota[row.label]:
            taken[row.label] += 1
            yield row
