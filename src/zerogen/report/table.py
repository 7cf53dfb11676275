"""Tables of results for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def _table() -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, collapse_padding=True)
    for name in ("setting", "task", "PLM", "TAM"):
        table.add_column(name, overflow="fold")
    return table


def _names(row: dict[str, Any]) -> list[str]:
    return ["-" if row[key] == "none" else row[key] for key in ("setting", "task", "plm", "tam")]


def results_table(results: Sequence[dict[str, Any]]) -> Table:
    """Return a table with a line per run that fits 80 columns."""
    table = _table()
    several = len({result["seed"] for result in results}) > 1
    for name in (["seed"] if several else []) + ["rows", "accuracy", "F1", "seconds"]:
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        metrics = result["metrics"]
        numbers = [f"{metrics['accuracy']:.1%}", f"{metrics['macro_f1']:.3f}"] if metrics else ["-", "-"]
        table.add_row(
            *_names(result),
            *([str(result["seed"])] if several else []),
            f"{result['n_train']:,}",
            *numbers,
            f"{sum(result['seconds'].values()):,.0f}",
        )
    return table


def aggregate_table(aggregates: Sequence[dict[str, Any]]) -> Table:
    """Return a table of means and standard deviations over seeds."""
    table = _table()
    for name in ("rows", "seeds", "accuracy", "F1"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in aggregates:
        numbers = []
        for metric, scale in (("accuracy", 100), ("macro_f1", 1)):
            mean, spread = row["mean"].get(metric), row["standard_deviation"].get(metric)
            digits = 1 if scale == 100 else 3
            numbers.append(
                "-"
                if mean is None
                else f"{mean * scale:.{digits}f}" + ("" if spread is None else f" ± {spread * scale:.{digits}f}")
            )
        table.add_row(*_names(row), f"{row['n_train']:,}", str(len(row["seeds"])), *numbers)
    return table
