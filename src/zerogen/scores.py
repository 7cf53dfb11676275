"""What the PLM thinks of the rows that it wrote: asked once, while it is loaded, and kept beside the pool."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config import TaskConfig
from zerogen.files import append_line
from zerogen.progress import Progress
from zerogen.records import Example
from zerogen.runs.identity import short_hash

if TYPE_CHECKING:
    from zerogen.plm.model import Plm

# What `Example.scores` may hold of a row: its confidence, and that of each label as `confidence/LABEL`; its margin over
# the counter-prompts, as far as it was written with some; its mean log-probability per token.
SCORES = ("confidence", "margin", "logprob")


@dataclass(frozen=True)
class Confidences:
    """How probable the PLM finds each label of each row, by uid and label, and the seconds it took to say so."""

    by_row: dict[str, dict[str, float]]
    seconds: float

    def of(self, row: Example) -> float:
        """Return how probable the row's own label is."""
        return self.by_row[row.uid][row.label]


@dataclass(frozen=True)
class ScoreFile:
    """A file of what a PLM thinks of sets of rows, one set a line; it lies in the pool that the rows are from.

    A set was scored at once, in the order of its rows: batches of other rows round differently.
    """

    path: Path

    def read(self, rows: Sequence[Example], among_others: bool = False) -> Confidences | None:
        """Return what was found of exactly these rows; None where they were not scored.

        among_others: a set that holds more rows will do.
        """
        wanted, larger = _name(rows), None
        for line in self._lines():
            found = Confidences(line["rows"], line["seconds"])
            if line["set"] == wanted:
                return found
            if among_others and all(row.label in found.by_row.get(row.uid, ()) for row in rows):
                larger = found
        return larger

    def add(self, rows: Sequence[Example], confidences: Confidences) -> None:
        """Append what was found of rows; the line is there whole or not at all."""
        fields = {"set": _name(rows), "seconds": confidences.seconds, "rows": confidences.by_row}
        append_line(json.dumps(fields, ensure_ascii=False), self.path)

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines that are whole; what is damaged is asked of the PLM again."""
        if not self.path.is_file():
            return
        for line in self.path.read_bytes().splitlines():
            try:
                fields = json.loads(line)
                if isinstance(fields["rows"], dict) and isinstance(fields["seconds"], float) and fields["set"]:
                    yield fields
            except (ValueError, TypeError, KeyError, RecursionError):
                continue


def _name(rows: Sequence[Example]) -> str:
    return short_hash([[row.uid, row.label, row.context, row.text] for row in rows])


def confidences(plm: Plm, task: TaskConfig, rows: Sequence[Example], progress: Progress) -> Confidences | None:
    """Ask the PLM how probable the labels of rows are; None where there is nothing to compare."""
    from zerogen.plm.confidence import label_probabilities

    started = time.perf_counter()
    found = label_probabilities(plm, task, rows, progress)
    if found is None:
        return None
    by_row = {row.uid: probabilities for row, probabilities in zip(rows, found, strict=True)}
    return Confidences(by_row, round(time.perf_counter() - started, 2))


def margin(row: Example) -> float | None:
    """Return the mean log-probability per token after the row's own prompt, minus the highest after another label's.

    None for a row that was written without counter-prompts.
    """
    if not row.counter_logprob or row.logprob is None:
        return None
    return row.logprob - max(row.counter_logprob.values())


def with_scores(rows: Sequence[Example], confidences: Confidences | None) -> list[Example]:
    """Return rows that carry what is known of them, by the names in `SCORES`."""
    scored = []
    for row in rows:
        scores = {"margin": margin(row), "logprob": row.logprob}
        if confidences is not None and row.uid in confidences.by_row:
            scores["confidence"] = confidences.of(row)
            scores |= {f"confidence/{label}": p for label, p in confidences.by_row[row.uid].items()}
        scored.append(replace(row, scores={name: value for name, value in scores.items() if value is not None}))
    return scored
