"""The pool: append-only files of generated rows, one line per chunk so that no chunk is ever half-written.

Nothing here holds the rows of more than a chunk: a pool may be larger than memory.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

from zerogen.data.records import Answer, Example
from zerogen.errors import UserError
from zerogen.generation.shards import Damaged, ShardedLines, make_shard
from zerogen.support.files import whole, writing


@dataclass(frozen=True)
class Head:
    """What is known of a chunk without its rows, which stay on disk; the fields are those of `Chunk`.

    accepted: number of accepted rows by label.
    """

    index: int
    accepted: Counter[str]
    asked: dict[str, int]
    rejects: dict[str, dict[str, int]]
    tokens: int
    seconds: float
    cut: int = 0
    usage: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """The results of one chunk of requests.

    rows: the accepted rows, in request order.
    asked: number of requests by label. rejects: number of rejected texts by label and reason.
    samples: the first outputs of each label and the first rejected outputs of each reason, for people to read.
    cut: number of requests that hold only a part of their context.
    usage: what a server was asked for, see `zerogen.plm.protocol.Usage`; empty without one.
    """

    index: int
    rows: list[Example]
    asked: dict[str, int]
    rejects: dict[str, dict[str, int]]
    samples: list[dict[str, Any]]
    tokens: int
    seconds: float
    cut: int = 0
    usage: dict[str, int] = field(default_factory=dict)

    def accepted(self) -> Counter[str]:
        """Return the number of accepted rows per label."""
        return Counter(row.label for row in self.rows)

    def head(self) -> Head:
        """Return the chunk without its rows and samples."""
        return Head(
            self.index, self.accepted(), self.asked, self.rejects, self.tokens, self.seconds, self.cut, self.usage
        )


SHARD_BYTES = 64 << 20  # of lines in a file, from which on it becomes a shard

_ALLOWED = {one.name for one in fields(Example)}
_REQUIRED = {"uid", "text", "label"}
# What is set only after a row leaves the pool is not written.
_WRITTEN = [one.name for one in fields(Example) if one.name not in ("weight", "scores", "target")]


class Journal:
    """A file of chunks with its shards, or chunks in memory only if `path` is None.

    Of a file, it holds the heads of the chunks, and reads their rows where they are wanted.

    shard_bytes: what the file may hold before it becomes a shard, see `zerogen.generation.shards`.
    """

    def __init__(self, path: Path | None = None, shard_bytes: int = SHARD_BYTES) -> None:
        self.path, self.shard_bytes = path, shard_bytes
        self.heads: list[Head] = []
        self.accepted: Counter[str] = Counter()  # by label, of all chunks
        self._first = 0  # number of the first chunk that is in no shard
        self._in_memory: list[Chunk] = []

    @classmethod
    def open(
        cls, path: Path | None, appends: bool = False, repair: bool = False, shard_bytes: int = SHARD_BYTES
    ) -> Journal:
        """Read the heads of the chunks; ignore an incomplete last line, which a killed process may leave.

        appends: also cut such a line off; only the process that appends may do so. repair: go no further than a damaged
        line, where the file is then cut off, too, and kept beside. Raises `UserError` for such a line otherwise, and
        for one that is missing or there twice: the rows would be different ones.
        """
        journal = cls(path, shard_bytes)
        if path is None:
            return journal
        lines, damaged = ShardedLines(path, _head), False
        try:
            for head in lines:
                journal._add(head)
        except Damaged as damage:
            if not repair:
                raise _refused(damage) from None
            damaged = True
        if appends and (journal.heads or damaged or path.exists()):
            lines.mend(damaged)
        journal._first = lines.first
        return journal

    def append(self, chunk: Chunk) -> None:
        """Append a chunk and flush it to disk before returning. Raises `OSError` if that fails."""
        if self.path is None:
            self._in_memory.append(chunk)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with writing(self.path.parent):
                self._write(_line(chunk), self.path)
        self._add(chunk.head())

    def _write(self, line: bytes, path: Path) -> None:
        if self.heads and path.stat().st_size > self.shard_bytes:
            make_shard(path, self._first)
            # The file is never left empty: an earlier version, which knows no shards, would begin with chunk 0.
            with whole(path) as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._first = len(self.heads)
            return
        # Fail if the file was deleted meanwhile, instead of starting a new one in the middle.
        with path.open("r+b" if self.heads else "ab") as file:
            file.seek(0, os.SEEK_END)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _add(self, head: Head) -> None:
        self.heads.append(head)
        self.accepted.update(head.accepted)

    def chunks(self, start: int = 0) -> Iterator[Chunk]:
        """Yield the chunks from number `start` on, and open no shard before or after those that are asked for.

        Raises `UserError` for a file that was damaged or lost meanwhile.
        """
        if self.path is None:
            yield from self._in_memory[start:]
            return
        end = len(self.heads)
        try:
            for chunk in islice(ShardedLines(self.path, _chunk, start), end - start):
                start += 1
                yield chunk
        except Damaged as damage:
            raise _refused(damage) from None
        if start < end:
            raise UserError(f"{self.path}: has lost chunk {start}: another process has changed the file")

    def rows(self) -> Iterator[Example]:
        """Yield the accepted rows of all chunks in request order; see `chunks`."""
        for chunk in self.chunks():
            yield from chunk.rows


def samples_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the samples of the chunks of a file, in order. Raises `UserError` where it is damaged."""
    try:
        for chunk in ShardedLines(path, _chunk):
            yield from chunk.samples
    except Damaged as damage:
        raise _refused(damage) from None


def _line(chunk: Chunk) -> bytes:
    said = {one.name: getattr(chunk, one.name) for one in fields(Chunk)}
    if not chunk.usage:
        del said["usage"]
    said["rows"] = [{name: getattr(row, name) for name in _WRITTEN} for row in chunk.rows]
    for row in said["rows"]:
        row["answers"] = [asdict(answer) for answer in row["answers"]]
        if not row["model"]:
            del row["model"]
    return (json.dumps(said, ensure_ascii=False) + "\n").encode()


def _chunk(line: bytes) -> Chunk:
    said = json.loads(line)
    said["rows"] = [Example.of(row) for row in said["rows"]]
    return Chunk(**said)


def _head(line: bytes) -> Head:
    """Return the head of a chunk, in a third of the time; its rows are checked to be ones."""
    said = json.loads(line)
    rows = said.pop("rows")
    del said["samples"]
    for row in rows:
        if not _REQUIRED <= row.keys() <= _ALLOWED:
            raise ValueError("not a row")
        for answer in row.get("answers", ()):
            Answer(**answer)
    return Head(accepted=Counter(row["label"] for row in rows), **said)


def _refused(damage: Damaged) -> UserError:
    return UserError(
        f"{damage}; restore the file, set pool.repair=true to write again what follows, or delete the folder to start "
        "again"
    )


def quotas(n: int, labels: Iterable[str]) -> dict[str, int]:
    """Share `n` rows equally among labels; the first labels get the remainder."""
    labels = list(labels)
    return {label: n // len(labels) + (i < n % len(labels)) for i, label in enumerate(labels)}


def rows_within(quota: Mapping[str, int], accepted: Mapping[str, int]) -> int:
    """Return how many of the accepted rows, given by label, count towards a quota."""
    return sum(min(accepted.get(label, 0), share) for label, share in quota.items())


def first_per_label(rows: Iterable[Example], quota: dict[str, int]) -> Iterator[Example]:
    """Yield the first `quota[label]` rows of each label, in order; read no further than that."""
    taken: Counter[str] = Counter()
    left = sum(quota.values())
    for row in rows if left else ():
        if taken[row.label] < quota[row.label]:
            taken[row.label] += 1
            left -= 1
            yield row
            if not left:
                return


def used_chunks(heads: Sequence[Head], quota: dict[str, int]) -> Sequence[Head]:
    """Return the chunks up to the last one that holds any of the first `quota[label]` rows of each label."""
    taken: Counter[str] = Counter()
    used = 0
    for number, head in enumerate(heads, 1):
        if any(head.accepted[label] and taken[label] < share for label, share in quota.items()):
            used = number
        taken.update(head.accepted)
        if rows_within(quota, taken) == sum(quota.values()):
            break
    return heads[:used]


def count_rejects(chunks: Iterable[Chunk | Head]) -> dict[str, int]:
    """Return the number of rejected texts by reason, the most frequent one first."""
    counts: Counter[str] = Counter()
    for chunk in chunks:
        for reasons in chunk.rejects.values():
            counts.update(reasons)
    return dict(counts.most_common())


def first_outputs(chunk: Chunk, labels: Sequence[str]) -> str:
    """Return text that shows two prompts and outputs of each label, and the number of rejected texts by reason."""
    lines = []
    for label in labels:
        for sample in [sample for sample in chunk.samples if sample["label"] == label][:2]:
            verdict = f"rejected: {sample['reason']}" if sample["reason"] else "accepted"
            prompt = sample["prompt"]
            if len(prompt) > 300:  # shorten a passage in the middle
                prompt = f"{prompt[:120]} ... {prompt[-160:]}"
            lines += [f"[{label}, {verdict}] {prompt}", f"    -> {sample['text']}"]
    rejects = ", ".join(f"{reason} {count:,}" for reason, count in count_rejects([chunk]).items())
    asked = sum(chunk.asked.values())
    lines.append(f"of the first {asked:,} texts {len(chunk.rows):,} were accepted; rejected: {rejects or 'none'}")
    return "\n".join(lines)
