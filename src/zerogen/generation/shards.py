"""Files of numbered lines that grow for ever: the last ones in NAME.jsonl, those before in compressed shards.

When NAME.jsonl exceeds a size, the whole of it becomes a shard, NAME-000000.jsonl.zst, with the number of its first
line, and NAME.jsonl begins anew. A process that is killed in between leaves lines in both.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Generic, Protocol, TypeVar

from zerogen.support.files import name_aside, put_aside, whole, write_bytes

_BLOCK = 1 << 20  # bytes copied at a time
_SUFFIX = ".jsonl.zst"


class _Numbered(Protocol):
    @property
    def index(self) -> int: ...


T = TypeVar("T", bound=_Numbered)


class Damaged(Exception):
    """A line that is not what it should be. Its text names the file and the line."""


class ShardedLines(Generic[T]):
    """Reads the lines of a file and of its shards in order, once, and knows where it stands.

    parse: returns what a line says; raises ValueError, TypeError or KeyError where it is no chunk. start: the first
    line that is wanted; no shard before it is opened.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T], start: int = 0) -> None:
        self.path, self.parse, self.start = path, parse, start
        self.file = path  # the one that is read
        self.first = 0  # number of the first line of that file that no file before holds
        self._next = 0  # number of the line that comes next
        self._good = 0  # bytes of that file, unpacked, that were read and are as they should be
        self._in_shard = 0  # bytes at the beginning of NAME.jsonl that a shard holds, too

    def __iter__(self) -> Iterator[T]:
        """Yield what the lines say; leave out an incomplete last one. Raises `Damaged`, `OSError`."""
        with ExitStack() as stack:
            # Opened before the shards are listed: another process that makes a shard meanwhile puts a new file in the
            # place of this one, so that each line is in at least one of those that are read here.
            tail = stack.enter_context(self.path.open("rb")) if self.path.exists() else io.BytesIO()
            shards = shards_of(self.path)
            begin = max((number for number, _ in shards if number <= self.start), default=0)
            self._next = begin
            for number, shard in shards:
                if number >= begin:
                    yield from self._of_shard(number, shard)
            self._begin(self.path)
            yield from self._of_tail(tail, shards[-1][0] if shards else None)

    def _of_shard(self, number: int, shard: Path) -> Iterator[T]:
        self._begin(shard)
        if number != self._next:
            raise Damaged(
                f"{shard}: begins with chunk {number}, where chunk {self._next} belongs: a file is missing or damaged"
            )
        try:
            for place, line in enumerate(_unpacked(shard), 1):
                yield from self._checked(line, place)
        except OSError as error:
            if error.errno is not None:  # of the machine
                raise
            raise Damaged(f"{shard}:{self._next - self.first + 1}: cannot be unpacked ({error})") from error

    def _begin(self, file: Path) -> None:
        self.file, self.first, self._good = file, self._next, 0

    def _of_tail(self, tail: BinaryIO, last_shard: int | None) -> Iterator[T]:
        repeated = 0
        for place, line in enumerate(tail, 1):
            if not line.endswith(b"\n"):  # which a killed process may leave
                return
            if place == 1 and last_shard is not None and self._parsed(line, place).index == last_shard:
                repeated = self.first - last_shard
            if place <= repeated:
                self._in_shard += len(line)
                self._good += len(line)
            else:
                yield from self._checked(line, place)

    def _checked(self, line: bytes, place: int) -> Iterator[T]:
        if self._next >= self.start:
            parsed = self._parsed(line, place)
            if parsed.index != self._next:
                raise Damaged(
                    f"{self.file}:{place}: holds chunk {parsed.index}, where chunk {self._next} belongs: a line is "
                    "missing or there twice"
                )
            yield parsed
        self._good += len(line)
        self._next += 1

    def _parsed(self, line: bytes, place: int) -> T:
        try:
            return self.parse(line)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Damaged(f"{self.file}:{place}: not a chunk of generated rows") from error

    def mend(self, damaged: bool) -> None:
        """Cut NAME.jsonl off where reading ended, and at its beginning what a shard holds, too.

        damaged: reading ended at a damaged line. Files are kept beside as they were, and what is good of a damaged
        shard becomes NAME.jsonl. Only the process that appends may do this.
        """
        if self.file != self.path:
            self._end_before_shard()
            return
        if damaged:
            with self.path.open("rb") as file, whole(name_aside(self.path)) as aside:
                shutil.copyfileobj(file, aside, _BLOCK)
        if self._in_shard:
            with self.path.open("rb") as file:
                file.seek(self._in_shard)
                write_bytes(file.read(self._good - self._in_shard), self.path)
        elif not self.path.exists():
            self.path.touch()
        elif self._good < self.path.stat().st_size:
            os.truncate(self.path, self._good)

    def _end_before_shard(self) -> None:
        """Make what is good of a damaged shard the end; the shard itself goes last: after a kill, this begins anew."""
        shards = [shard for _, shard in shards_of(self.path)]
        for later in reversed(shards[shards.index(self.file) + 1 :]):
            put_aside(later)
        if self.path.exists():
            put_aside(self.path)
        with whole(self.path) as tail:
            left = self._good
            for line in _unpacked(self.file) if left else ():
                tail.write(line)
                left -= len(line)
                if not left:
                    break
        put_aside(self.file)


def shards_of(path: Path) -> list[tuple[int, Path]]:
    """Return the shards of NAME.jsonl with the numbers of their first lines, in order."""
    pattern = re.compile(re.escape(path.stem) + r"-(\d{6,})" + re.escape(_SUFFIX))
    names = [(pattern.fullmatch(one.name), one) for one in path.parent.glob(f"*{_SUFFIX}")]
    return sorted((int(match[1]), one) for match, one in names if match)


def make_shard(path: Path, first: int) -> None:
    """Write a shard with all lines of NAME.jsonl, completely or not at all. first: the number of the first one."""
    import pyarrow

    with path.open("rb") as tail, whole(path.with_name(f"{path.stem}-{first:06d}{_SUFFIX}")) as shard:
        # Of a duplicate, since closing the stream closes it.
        with pyarrow.CompressedOutputStream(os.fdopen(os.dup(shard.fileno()), "wb"), "zstd") as packed:
            shutil.copyfileobj(tail, packed, _BLOCK)
        os.fsync(shard.fileno())


def _unpacked(shard: Path) -> Iterator[bytes]:
    """Yield the lines of a shard."""
    import pyarrow

    with pyarrow.input_stream(str(shard), compression="zstd") as packed:
        yield from io.BufferedReader(packed, _BLOCK)
