"""The pool: append-only files of generated rows, one line per chunk so that no chunk is ever half-written."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.support.files import name_aside, write_bytes, writing


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


@dataclass
class Journal:
    """A file of chunks, or chunks in memory only if `path` is None."""

    path: Path | None = None
    chunks: list[Chunk] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path | None, appends: bool = False, repair: bool = False) -> Journal:
        """Read the chunks of a file; ignore an incomplete last line, which a killed process may leave.

        appends: also cut such a line off; only the process that appends may do so. repair: go no further than a damaged
        line, where the file is then cut off, too, and kept beside. Raises `UserError` for such a line otherwise, and
        for one that is missing or there twice: the rows would be different ones.
        """
        journal = cls(path)
        if path is None or not path.exists():
            return journal
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        kept, damage = 0, ""
        for number, line in enumerate(content[:whole].splitlines(keepends=True), 1):
            try:
                fields = json.loads(line)
                fields["rows"] = [Example.of(row) for row in fields["rows"]]
                chunk = Chunk(**fields)
            except (ValueError, TypeError, KeyError, RecursionError):
                damage = f"{path}:{number}: not a chunk of generated rows"
                break
            if chunk.index != len(journal.chunks):
                damage = (
                    f"{path}:{number}: holds chunk {chunk.index}, where chunk {len(journal.chunks)} belongs: a line is "
                    "missing or there twice"
                )
                break
            journal.chunks.append(chunk)
            kept += len(line)
        if damage and not repair:
            raise UserError(
                f"{damage}; restore the file, set pool.repair=true to write again what follows, or delete the folder "
                "to start again"
            )
        if damage and appends:
            write_bytes(content, name_aside(path))
        if appends and kept < len(content):
            with path.open("r+b") as file:
                file.truncate(kept)
        return journal

    def append(self, chunk: Chunk) -> None:
        """Append a chunk and flush it to disk before returning. Raises `OSError` if that fails."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fields = asdict(chunk)
            if not chunk.usage:
                del fields["usage"]
            for row in fields["rows"]:
                del row["weight"], row["scores"], row["target"]  # set only after a row leaves the pool
                if not row["model"]:
                    del row["model"]
            line = json.dumps(fields, ensure_ascii=False) + "\n"
            # Fail if the file was deleted meanwhile, instead of starting a new one in the middle.
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
    """Share `n` rows equally among labels; the first labels get the remainder."""
    labels = list(labels)
    return {label: n // len(labels) + (i < n % len(labels)) for i, label in enumerate(labels)}


def first_per_label(rows: Iterable[Example], quota: dict[str, int]) -> Iterator[Example]:
    """Yield the first `quota[label]` rows of each label, in order."""
    taken: Counter[str] = Counter()
    for row in rows:
        if taken[row.label] < quota[row.label]:
            taken[row.label] += 1
            yield row


def used_chunks(chunks: Sequence[Chunk], rows: Sequence[Example]) -> list[Chunk]:
    """Return the chunks up to the last one that holds any of `rows`."""
    wanted = {row.uid for row in rows}
    last = max((i for i, chunk in enumerate(chunks) if any(row.uid in wanted for row in chunk.rows)), default=-1)
    return list(chunks[: last + 1])


def count_rejects(chunks: Sequence[Chunk]) -> dict[str, int]:
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
