"""Selections: choose, relabel or weight generated rows before training, each one function in a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example, is_target
from zerogen.errors import UserError, unknown
from zerogen.generation.scores import SCORES
from zerogen.support.doors import call, load

if TYPE_CHECKING:
    from zerogen.generation.weighting import Embeddings

# A selection takes rows with their scores, and the task; it returns the rows to train on, in training order, each
# unchanged or with another label or weight (`dataclasses.replace`). Its attribute `needs` names the scores it reads;
# one that needs embeddings takes them as a third argument, by the uid of the row.
Selection = Callable[..., Sequence[Example]]

SELECTIONS = {"all": "zerogen.generation.selections.all_rows"} | {
    name: f"zerogen.generation.selections.{name}"
    for name in ("asked", "confidence", "logprob", "margin", "relabel", "round_trip", "soft", "unigen", "weigh")
}
SELECTIONS |= {name: f"zerogen.generation.weighting.{name}" for name in ("cross_fitted", "sungen", "fusegen")}
EMBEDDING = "embedding"  # what selections may need beside scores: vectors of the untrained TAM's encoder


def selections(names: Sequence[str]) -> list[tuple[str, Selection]]:
    """Return (name, selection) for each name. Raises `UserError` if one is unknown or needs an unknown score."""
    pairs = [(name, load("select", name, SELECTIONS)) for name in names]
    for name, selection in pairs:
        if not callable(selection):
            raise UserError(f"select={name}: is no function")
        for score in _needs(selection):
            if score not in (*SCORES, EMBEDDING):
                raise UserError(
                    f"select={name}: needs the score '{score}'; there are {', '.join((*SCORES, EMBEDDING))}"
                )
    return pairs


def needs(names: Sequence[str]) -> set[str]:
    """Return the names of the scores that selections read, and `EMBEDDING` where one reads embeddings."""
    return {score for _, selection in selections(names) for score in _needs(selection)}


def _needs(selection: Any) -> Sequence[str]:
    return getattr(selection, "needs", ())


def select(
    names: Sequence[str], rows: Sequence[Example], task: TaskConfig, embeddings: Embeddings | None = None
) -> list[Example]:
    """Apply selections in order.

    embeddings: the vector of each row by its uid, for selections that need them. Raises `UserError` if a selection
    returns rows that it was not given, a row twice, an invalid label or weight, or leaves no row with a weight above 0
    for a label.
    """
    for name, selection in selections(names):
        for score in _needs(selection):
            if lacking := [row.uid for row in rows if not _has(row, score, embeddings)]:
                raise UserError(f"select={name}: needs the score '{score}', which row {lacking[0]} does not have")
        further = [embeddings] if EMBEDDING in _needs(selection) else []
        chosen = call("select", name, selection, rows, task, *further)
        if not isinstance(chosen, Sequence) or not all(isinstance(row, Example) for row in chosen):
            raise UserError(
                f"select={name}: returned {type(chosen).__name__}; allowed is a list of the rows it was given"
            )
        originals, rows = {row.uid: row for row in rows}, list(chosen)
        uids = [row.uid for row in rows]
        if not set(uids) <= set(originals) or len(set(uids)) != len(uids):
            raise UserError(f"select={name}: returned rows that it was not given, or one of them twice")
        for row in rows:
            if _as_learned(originals[row.uid], row) != row:
                raise UserError(
                    f"select={name}: row {row.uid}: allowed is to change its label, weight and target, nothing else"
                )
            if not is_target(row, task.labels):
                raise UserError(
                    f"select={name}: row {row.uid} has target {row.target}; allowed is a probability of each label"
                )
            if row.label not in task.labels:
                raise unknown(f"select={name}: row {row.uid}: label", row.label, task.labels)
            if not isinstance(row.weight, int | float) or not (math.isfinite(row.weight) and row.weight >= 0):
                raise UserError(f"select={name}: row {row.uid} has weight {row.weight}; allowed is 0 or more")
        for label in task.labels:
            if not any(row.label == label and row.weight for row in rows):
                raise UserError(f"select={name}: leaves no row of label '{label}'")
    return list(rows)


def _has(row: Example, score: str, embeddings: Embeddings | None) -> bool:
    return row.uid in (embeddings or {}) if score == EMBEDDING else score in row.scores


def _as_learned(original: Example, row: Example) -> Example:
    """Return a row with what another says is to be learned of it."""
    return replace(original, label=row.label, weight=row.weight, scores=row.scores, target=row.target)
