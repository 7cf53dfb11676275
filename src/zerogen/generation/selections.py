"""The selections that `select` chooses from by name: rankings, relabellings and weightings by the PLM's scores.

A ranking returns all rows, the best first: with `overgenerate`, the first of each label are trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.data.words import words

# Which have nothing to choose from in question answering.
ABOUT_LABELS = ("asked", "relabel", "soft", "unigen", "cross_fitted", "sungen", "fusegen")
_SHARPNESS = 0.1  # temperature
_LEAD = 0.2  # how far above chance UniGen wants the most probable label


def all_rows(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    """Keep every row as it is."""
    return rows


def asked(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    """Give each row the label that PROMPTING finds best in all ways that the task asks; rank them by its lead."""
    ranked = []
    for row in rows:
        second, first = sorted((row.scores[f"asked/{label}"], label) for label in task.labels)[-2:]
        ranked.append((first[0] - second[0], replace(row, label=first[1])))
    return [row for _, row in sorted(ranked, key=lambda one: -one[0])]


def confidence(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    """Rank rows by the PLM's confidence in their label."""
    return sorted(rows, key=lambda row: -_own_confidence(row))


def logprob(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    """Rank rows by their mean log-probability per token, as SuperGen does (https://arxiv.org/abs/2202.04538)."""
    return sorted(rows, key=lambda row: -row.scores["logprob"])


def margin(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    """Rank rows by how much more probable they are after their own prompt than after another label's."""
    return sorted(rows, key=lambda row: -row.scores["margin"])


def relabel(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    """Give each row the label that the PLM finds most probable."""
    return [replace(row, label=max(task.labels, key=lambda label: row.scores[f"confidence/{label}"])) for row in rows]


def round_trip(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    """Rank questions by how well the PLM answers them with the answer that they were written for."""
    return sorted(rows, key=lambda row: -row.scores["round_trip"])


def soft(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    """Teach the PLM's probability of every label in place of the label alone."""
    return [replace(row, target=_distribution(row, task)) for row in rows]


def unigen(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    """Keep rows whose label the PLM agrees with by a lead over chance, and teach its probabilities.

    As in UniGen (https://arxiv.org/abs/2405.01022), whose probabilities are the softmax over labels of mean token
    log-probabilities at a temperature of 0.1, here of means over words; that of the row's label must be the largest
    and above 1/L + 0.2.
    """
    kept = []
    for row in rows:
        length = max(1, len(words(row.text)))
        # The log-odds of a whole text, divided by its length.
        scores = {label: math.log(max(p, 1e-300)) / length for label, p in _distribution(row, task).items()}
        top = max(scores.values())
        weights = {label: math.exp((score - top) / _SHARPNESS) for label, score in scores.items()}
        target = {label: weight / sum(weights.values()) for label, weight in weights.items()}
        if max(target, key=target.__getitem__) == row.label and target[row.label] > 1 / len(task.labels) + _LEAD:
            kept.append(replace(row, target=target))
    return kept


def weigh(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    """Weigh each row by the PLM's confidence in its label."""
    return [replace(row, weight=row.weight * _own_confidence(row)) for row in rows]


def _own_confidence(row: Example) -> float:
    """Return the confidence in the label that a row has now, which an earlier selection may have changed."""
    return row.scores[f"confidence/{row.label}"]


def _distribution(row: Example, task: TaskConfig) -> dict[str, float]:
    return {label: row.scores[f"confidence/{label}"] for label in task.labels}


confidence.needs = relabel.needs = soft.needs = unigen.needs = weigh.needs = ("confidence",)  # type: ignore[attr-defined]
asked.needs = ("asked",)  # type: ignore[attr-defined]
margin.needs = ("margin",)  # type: ignore[attr-defined]
round_trip.needs = ("round_trip",)  # type: ignore[attr-defined]
logprob.needs = ("logprob",)  # type: ignore[attr-defined]
