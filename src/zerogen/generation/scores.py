"""The PLM's scores of rows (confidence, margin, log-probability), computed once and stored in the pool."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any

from zerogen.config.task_schema import TaskConfig
from zerogen.data.overlap import f1
from zerogen.data.records import Example
from zerogen.support.files import append_line
from zerogen.support.hashes import short_hash, short_hash_of_list
from zerogen.support.progress import Progress

if TYPE_CHECKING:
    from zerogen.plm.protocol import Scorer

# Names in `Example.scores`: the confidence in the row's label, and in each label as `confidence/LABEL`; the margin over
# the counter-prompts, if the row was written with any; the mean log-probability per token; and what PROMPTING says of
# the row's label in all ways that the task asks, brought to one scale and centred, and of each label as `asked/LABEL`.
# And the F1 of what the PLM answers to the row's question with its answer, if it was asked (`filter.round_trip`).
SCORES = ("confidence", "margin", "logprob", "asked", "round_trip")
_FORMAT = 1  # raise it when the same rows get other confidences
_BLOCK = 10_000  # rows in a line, which is read and written at once
_HEAD = 200  # bytes of a line that hold its set


class Table(Mapping[str, dict[str, float]]):
    """A number for each label of each row, by uid: as a dictionary of dictionaries, in a fraction of its memory."""

    def __init__(self) -> None:
        self.labels: list[str] = []  # of every row
        self.places: dict[str, int] = {}
        self.numbers = array("d")

    def add(self, rows: Iterable[tuple[str, Mapping[str, float]]]) -> Table:
        """Add rows, or replace them. Raises KeyError, TypeError for one that has other labels than the rows before."""
        for uid, by_label in rows:
            self.labels = self.labels or list(by_label)
            values = array("d", [by_label[label] for label in self.labels])
            if len(by_label) != len(values):
                raise KeyError(uid)
            place = self.places.setdefault(uid, len(self.places)) * len(values)
            self.numbers[place : place + len(values)] = values
        return self

    def __getitem__(self, uid: str) -> dict[str, float]:
        place = self.places[uid] * len(self.labels)
        return dict(zip(self.labels, self.numbers[place : place + len(self.labels)], strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Confidences:
    """The probability of each label of each row under the PLM, by uid and label, and what that took.

    usage: what a server was asked for, empty for a PLM in this process.
    """

    by_row: Mapping[str, Mapping[str, float]]
    seconds: float
    usage: dict[str, int] = field(default_factory=dict)

    def of(self, row: Example) -> float:
        """Return the probability of the row's own label."""
        return self.by_row[row.uid][row.label]


@dataclass(frozen=True)
class ScoreFile:
    """A file of `Confidences` of sets of rows, in the folder of the pool that the rows are from.

    A set is a line, or if it is large, several: blocks of its rows and then a line that says that they are all there.

    A set is identified by all its rows and their order: batches of other rows round differently. What a task is asked
    by for scores, and is no part of the pool's name, is stored beside.
    """

    path: Path
    task: TaskConfig

    def read(self, rows: Sequence[Example], among_others: bool = False) -> Confidences | None:
        """Return the confidences of exactly these rows; None if they were not scored.

        among_others: also accept a larger set that contains these rows.
        """
        name, superset = _name(rows), None
        for found, entry in self._entries(None if among_others else name):
            if found == name:
                return entry
            if all(row.label in entry.by_row.get(row.uid, ()) for row in rows):
                superset = entry
        return superset

    def add(self, rows: Sequence[Example], confidences: Confidences) -> None:
        """Append the confidences of a set of rows."""
        name, way, every = _name(rows), {"way": self._way()}, iter(confidences.by_row.items())
        about: dict[str, Any] = {"seconds": confidences.seconds}
        if confidences.usage:
            about["usage"] = confidences.usage
        if len(confidences.by_row) <= _BLOCK:
            self._append({"set": name} | way | {"seconds": about.pop("seconds"), "rows": dict(every)} | about)
            return
        while block := dict(islice(every, _BLOCK)):
            self._append({"part": name} | way | {"rows": block})
        self._append({"whole": name} | way | {"count": len(confidences.by_row)} | about)

    def _append(self, fields: dict[str, Any]) -> None:
        append_line(json.dumps(fields, ensure_ascii=False), self.path)

    def _way(self) -> str:
        return short_hash([_FORMAT, self.task.scoring if self.task.kind == "qa" else None])

    def _entries(self, name: str | None) -> Iterator[tuple[str, Confidences]]:
        """Yield sets that were scored in this way, by name; of damaged lines, rows are scored again.

        name: the only set that is wanted; None for all.
        """
        if not self.path.is_file():
            return
        way, parts = self._way(), dict[str, Table]()
        with self.path.open("rb") as file:
            for line in file:
                if name is not None and f'"{name}"'.encode() not in line[:_HEAD]:
                    continue
                try:
                    fields = json.loads(line)
                    if fields.get("way") != way:
                        continue
                    if "part" in fields:
                        parts.setdefault(fields["part"], Table()).add(fields["rows"].items())
                        continue
                    found = fields["set"] if "set" in fields else fields["whole"]
                    rows = Table().add(fields["rows"].items()) if "set" in fields else parts.pop(found)
                    if isinstance(fields["seconds"], float) and fields.get("count", len(rows)) == len(rows):
                        yield found, Confidences(rows, fields["seconds"], fields.get("usage", {}))
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    continue


def _name(rows: Sequence[Example]) -> str:
    """Return the name of a set of rows: a hash of their content and order."""
    return short_hash_of_list([row.uid, row.label, row.context, row.text] for row in rows)


def confidences(plm: Scorer, task: TaskConfig, rows: Sequence[Example], progress: Progress) -> Confidences | None:
    """Compute the probability of each label of each row under the PLM; None if there is nothing to compare."""
    from zerogen.plm.confidence import label_probabilities
    from zerogen.plm.protocol import used

    started = time.perf_counter()
    with used(plm) as usage:
        probabilities = label_probabilities(plm, task, rows, progress)
    if probabilities is None:
        return None
    by_row = Table().add(zip((row.uid for row in rows), probabilities, strict=True))
    return Confidences(by_row, round(time.perf_counter() - started, 2), usage)


def margin(row: Example) -> float | None:
    """Return the mean log-probability per token after the row's own prompt minus the highest after a counter-prompt.

    None for a row that was written without counter-prompts.
    """
    if not row.counter_logprob or row.logprob is None:
        return None
    return row.logprob - max(row.counter_logprob.values())


def round_trip(row: Example) -> float:
    """Return the F1 of what the PLM answered to a row's question with the answer that it was written for."""
    return max((f1(row.reply or "", answer.text) for answer in row.answers), default=0.0)


def with_scores(
    rows: Sequence[Example], confidences: Confidences | None, answers: Mapping[str, Mapping[str, float]]
) -> list[Example]:
    """Return rows with their available scores, by the names in `SCORES`; answers: by uid and label, of `asked`."""
    scored = []
    for row in rows:
        scores = {"margin": margin(row), "logprob": row.logprob}
        if row.reply is not None:
            scores["round_trip"] = round_trip(row)
        if confidences is not None and row.uid in confidences.by_row:
            scores["confidence"] = confidences.of(row)
            # All rows share the names: of each row's own, they would be half of its scores.
            scores |= {intern(f"confidence/{label}"): p for label, p in confidences.by_row[row.uid].items()}
        if row.uid in answers:
            scores["asked"] = answers[row.uid][row.label]
            scores |= {intern(f"asked/{label}"): score for label, score in answers[row.uid].items()}
        scored.append(replace(row, scores={name: value for name, value in scores.items() if value is not None}))
    return scored
