"""The results of a command for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zerogen.metrics import scalars

if TYPE_CHECKING:
    from rich.table import Table


def results_table(results: Sequence[dict[str, Any]]) -> Table:
    """Return a table with a line per run that fits 80 columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, collapse_padding=True)
    for name in ("setting", "task", "PLM", "TAM"):
        table.add_column(name, overflow="fold")
    several = len({result["seed"] for result in results}) > 1
    main = _main([result["metrics"] for result in results])
    for name in (["seed"] if several else []) + ["rows", main, "F1", "seconds"]:
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        found = list(scalars(result["metrics"]).values())
        table.add_row(
            *("-" if result[key] == "none" else result[key] for key in ("setting", "task", "plm", "tam")),
            *([str(result["seed"])] if several else []),
            f"{result['n_train']:,}",
            *([f"{found[0]:.1%}", f"{found[1]:.1%}"] if found else ["-", "-"]),
            f"{sum(result['seconds'].values()):,.0f}",
        )
    return table


def _main(metrics: Sequence[dict[str, Any]]) -> str:
    """Name the column of the main metric: accuracy, of questions exact match (EM), or both."""
    names = [
        name for name, metric in (("accuracy", "accuracy"), ("EM", "exact_match")) if any(metric in m for m in metrics)
    ]
    return "/".join(names) or "accuracy"
