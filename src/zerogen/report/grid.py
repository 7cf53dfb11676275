"""Runs arranged in a table: settings and models by task, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zerogen.metrics import MAIN, scalars
from zerogen.report.runs import Finished, latest, spread, variants
from zerogen.runs.settings import SETTINGS

CAPTION = (
    "Accuracy on gold rows in percent, of questions exact match (EM) and F1: mean ± standard deviation over "
    "seeds (number of seeds)"
)
_ORDER = list(SETTINGS)
_SHOWN = ("accuracy", "exact_match", "f1")  # macro F1 is in the CSV only


@dataclass(frozen=True)
class Cell:
    """A metric over the seeds of one row and task. spread: sample standard deviation, None for one seed."""

    mean: float
    spread: float | None
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One line of a table: setting, PLM, TAM, and what else tells it from other lines (key=value)."""

    setting: str
    plm: str
    tam: str
    variant: tuple[str, ...]

    @property
    def names(self) -> tuple[str, str, str]:
        plm, tam = ("-" if name == "none" else name for name in (self.plm, self.tam))
        return self.setting.upper(), plm, tam


@dataclass(frozen=True)
class Grid:
    """Rows x (task, metric), the runs of each row and task, and what a reader must know."""

    rows: list[Row]
    columns: list[tuple[str, str]]
    cells: dict[tuple[Row, str, str], Cell]
    runs: dict[tuple[Row, str], list[Finished]]
    notes: list[str]

    def header(self, column: tuple[str, str]) -> str:
        """Name a column: the task, and of questions the metric."""
        task, metric = column
        return f"{task} {'EM' if metric == 'exact_match' else 'F1'}" if metric != "accuracy" else task

    def shown(self) -> list[tuple[str, str]]:
        """Return the columns that a table for people has."""
        return [column for column in self.columns if column[1] in _SHOWN]

    def text(self, row: Row, column: tuple[str, str], plus_minus: str = "±") -> str:
        """Return a cell in percent as `78.4 ± 0.6 (3)`, empty where there is none."""
        cell = self.cells.get((row, *column))
        if cell is None:
            return ""
        spread = "" if cell.spread is None else f" {plus_minus} {100 * cell.spread:.1f}"
        return f"{100 * cell.mean:.1f}{spread} ({len(cell.seeds)})"


def _place(row: Row) -> tuple[Any, ...]:
    """Return what rows are sorted by: settings in the order of their table, after them those of the user's own."""
    order = _ORDER.index(row.setting) if row.setting in _ORDER else len(_ORDER)
    return order, row.setting, row.plm, row.tam, row.variant


def grid(runs: Sequence[Finished]) -> Grid:
    """Arrange runs in a table: a row for each setting, PLM and TAM (and for what else differs), a column per task.

    Runs that differ in their seed alone share a cell; those that do not count (`latest`) are left out.
    """
    notes = []
    asked = [run for run in runs if not run.result["evaluator"]]
    reported = [run for run in asked if scalars(run.result["metrics"])]
    counted = latest(reported)
    for number, reason in (
        (len(runs) - len(asked), "they trained an evaluator of synthetic rows"),
        (len(asked) - len(reported), "they were not evaluated on gold rows"),
        (len(reported) - len(counted), "a later one has the same configuration and seed"),
    ):
        if number:
            notes.append(f"runs left out because {reason}: {number}")
    cells: dict[tuple[Row, str], dict[int, Finished]] = {}
    for run, variant in zip(counted, variants(counted), strict=True):
        cells.setdefault((Row(*run.models, variant), run.task), {})[run.result["seed"]] = run
    kept = {key: [seeds[seed] for seed in sorted(seeds)] for key, seeds in cells.items()}
    tasks = sorted({task for _, task in kept})
    found: dict[tuple[Row, str, str], Cell] = {}
    for (row, task), mine in kept.items():
        for metric in scalars(mine[0].result["metrics"]):
            values = [run.result["metrics"][metric] for run in mine]
            mean, deviation = spread(values)
            found[row, task, metric] = Cell(
                mean, deviation if len(mine) > 1 else None, tuple(run.result["seed"] for run in mine)
            )
    for task in tasks:
        on = sorted(
            {
                f"{run.result['n_eval']:,} of {run.result['evaluated_on']}"
                for (_, of), mine in kept.items()
                for run in mine
                if of == task
            }
        )
        if len(on) > 1:
            notes.append(f"{task}: not all runs were reported on the same gold rows ({'; '.join(on)})")
    return Grid(
        sorted({row for row, _ in kept}, key=_place),
        [(task, metric) for task in tasks for metric in MAIN if any((row, task, metric) in found for row, _ in kept)],
        found,
        kept,
        notes,
    )
