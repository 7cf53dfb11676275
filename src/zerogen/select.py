"""Which generated rows are trained on, under which label and with which weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from zerogen.config import Config, TaskConfig
from zerogen.doors import load
from zerogen.errors import UserError, unknown
from zerogen.records import Example
from zerogen.scores import SCORES

# A selection takes rows with their scores and the task, and returns those to train on, in this order: each as it was,
# or with another label or weight (`dataclasses.replace`). The scores that it reads stand in its attribute `needs`.
Selection = Callable[[Sequence[Example], TaskConfig], Sequence[Example]]

SELECTIONS: dict[str, str] = {"all": "zerogen.select.all_rows"}


def all_rows(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    """Keep every row as it is."""
    return rows


def selections(names: Sequence[str]) -> list[tuple[str, Selection]]:
    """Return the selections with these names. Raises `UserError` for one that is unknown or needs an unknown score."""
    found = [(name, load("select", name, SELECTIONS)) for name in names]
    for name, selection in found:
        if not callable(selection):
            raise UserError(f"select={name}: is no function")
        for score in _needs(selection):
            if score not in SCORES:
                raise UserError(f"select={name}: needs the score '{score}'; there are {', '.join(SCORES)}")
    return found


def check_select(config: Config) -> None:
    """Check the names in `select`, which imports code of the user's own, against the rest of the configuration."""
    if not config.select:
        return
    scores, setting = needs(config.select), config.setting.name
    if setting != "zerogen" or config.tam.checkpoint:
        raise UserError(f"select={config.select}: setting={setting} trains on no generated rows; leave it out")
    if config.dataset and "confidence" in scores:
        raise UserError(f"select={config.select}: needs the PLM's confidence, which rows of a dataset do not have")


def needs(names: Sequence[str]) -> set[str]:
    """Return the names of the scores that selections read."""
    return {score for _, selection in selections(names) for score in _needs(selection)}


def _needs(selection: Any) -> Sequence[str]:
    return getattr(selection, "needs", ())


def select(names: Sequence[str], rows: Sequence[Example], task: TaskConfig) -> list[Example]:
    """Apply selections one after the other.

    Raises `UserError` where one returns rows that it was not given, a label or weight that cannot be, or none of a
    label.
    """
    for name, selection in selections(names):
        known = {row.uid for row in rows}
        rows = list(selection(rows, task))
        uids = [row.uid for row in rows]
        if not set(uids) <= known or len(set(uids)) != len(uids):
            raise UserError(f"select={name}: returned rows that it was not given, or one of them twice")
        for row in rows:
            if row.label not in task.labels:
                raise unknown(f"select={name}: row {row.uid}: label", row.label, task.labels)
            if not (math.isfinite(row.weight) and row.weight >= 0):
                raise UserError(f"select={name}: row {row.uid} has weight {row.weight}; allowed is 0 or more")
        for label in task.labels:
            if not any(row.label == label and row.weight for row in rows):
                raise UserError(f"select={name}: leaves no row of label '{label}'")
    return list(rows)
