"""Runs arranged in a table: settings and models by task, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zerogen.metrics import OWN, Reported, metric_of
from zerogen.metrics.classification import majority
from zerogen.report.finished import FinishedRun, latest, spread, variants
from zerogen.runs.settings import SETTINGS

CAPTION = (
    "Accuracy on gold rows in percent, of questions exact match (EM) and F1: mean ± standard deviation over "
    "seeds (number of seeds)"
)
_MAJORITY = "majority label"  # a baseline; no setting has a blank in its name


@dataclass(frozen=True)
class Cell:
    """A metric over the seeds of one row and task: none of a baseline.

    spread: sample standard deviation, None for one seed.
    """

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
    """Rows x (task, metric), the runs of each row and task, and what a reader must know.

    further: what the runs say of metrics beside those of their kind of task.
    """

    rows: list[Row]
    columns: list[tuple[str, str]]
    cells: dict[tuple[Row, str, str], Cell]
    runs: dict[tuple[Row, str], list[FinishedRun]]
    notes: list[str]
    further: Mapping[str, Reported]

    def header(self, column: tuple[str, str]) -> str:
        """Name a column: the task, and the metric where it is not the accuracy."""
        task, metric = column
        return task if metric == "accuracy" else f"{task} {metric_of(metric, self.further).column}"

    def shown(self) -> list[tuple[str, str]]:
        """Return the columns that a table for people has."""
        return [column for column in self.columns if metric_of(column[1], self.further).in_tables]

    def text(self, row: Row, column: tuple[str, str]) -> str:
        """Return a cell in percent as `78.4 ± 0.6 (3)`, empty where there is none."""
        cell = self.cells.get((row, *column))
        if cell is None:
            return ""
        spread = "" if cell.spread is None else f" ± {100 * cell.spread:.1f}"
        return f"{100 * cell.mean:.1f}{spread}" + (f" ({len(cell.seeds)})" if cell.seeds else "")


def _place(row: Row) -> tuple[Any, ...]:
    """Return what rows are sorted by: the baseline, settings in the order of their table, those of the user's own."""
    order = [_MAJORITY, *SETTINGS].index(row.setting) if row.setting in (_MAJORITY, *SETTINGS) else len(SETTINGS) + 1
    return order, row.setting, row.plm, row.tam, row.variant


def grid(runs: Sequence[FinishedRun]) -> Grid:
    """Arrange runs in a table: a row for each setting, PLM and TAM (and for what else differs), a column per task.

    Runs that differ in their seed alone share a cell; those that do not count (`latest`) are left out.
    """
    notes = []
    own = [run for run in runs if not run.result.evaluator]
    with_figures = [run for run in own if run.result.scalars]
    counted = latest(with_figures)
    for number, reason in (
        (len(runs) - len(own), "they trained an evaluator of synthetic rows"),
        (len(own) - len(with_figures), "they were not evaluated on gold rows"),
        (len(with_figures) - len(counted), "a later one has the same configuration and seed"),
    ):
        if number:
            notes.append(f"runs left out because {reason}: {number}")
    by_seed: dict[tuple[Row, str], dict[int, FinishedRun]] = {}
    for run, variant in zip(counted, variants(counted), strict=True):
        by_seed.setdefault((Row(*run.models, variant), run.task), {})[run.result.seed] = run
    runs_of_cell = {key: [seeds[seed] for seed in sorted(seeds)] for key, seeds in by_seed.items()}
    tasks = sorted({task for _, task in runs_of_cell})
    cells: dict[tuple[Row, str, str], Cell] = {}
    for (row, task), of_cell in runs_of_cell.items():
        for metric in dict.fromkeys(metric for run in of_cell for metric in run.result.scalars):
            values = {run.result.seed: run.result.metrics[metric] for run in of_cell if metric in run.result.scalars}
            mean, deviation = spread(list(values.values()))
            cells[row, task, metric] = Cell(mean, deviation if len(values) > 1 else None, tuple(values))
    baseline = Row(_MAJORITY, "none", "none", ())
    for task in tasks:
        of_task = [run.result for (_, of), of_cell in runs_of_cell.items() if of == task for run in of_cell]
        confusions = {result.n_eval: result.metrics["confusion"] for result in of_task if "confusion" in result.metrics}
        if confusions:
            for metric, value in majority(confusions[max(confusions)]).items():
                cells[baseline, task, metric] = Cell(value, None, ())
    for task in tasks:
        on = sorted(
            {
                f"{run.result.n_eval:,} of {run.result.evaluated_on}"
                for (_, of), of_cell in runs_of_cell.items()
                for run in of_cell
                if of == task
            }
        )
        if len(on) > 1:
            notes.append(f"{task}: not all runs were reported on the same gold rows ({'; '.join(on)})")
    further = {name: said for run in counted for name, said in run.result.further_metrics.items()}
    return Grid(
        sorted({row for row, _, _ in cells}, key=_place),
        [
            (task, metric)
            for task in tasks
            for metric in [*OWN, *further]
            if any((row, task, metric) in cells for row, _, _ in cells)
        ],
        cells,
        runs_of_cell,
        notes,
        further,
    )
