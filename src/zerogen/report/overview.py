"""One page over many runs: their table, and the trends of each task, linked to the reports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zerogen.files import write_whole
from zerogen.metrics import MAIN
from zerogen.report.grid import CAPTION, Grid, Row
from zerogen.report.page import template
from zerogen.report.plots import Curve, Level, svg, trend_figure
from zerogen.report.runs import curve


def write_overview(found: Grid, path: Path) -> None:
    """Write the page; links to reports are relative to it."""
    tasks = dict.fromkeys(task for task, _ in found.columns)
    page = template("overview.html.jinja").render(
        title="Runs",
        caption=CAPTION,
        grid=found,
        variants=any(row.variant for row in found.rows),
        trends=[one for task in tasks if (one := _trend(found, task)) is not None],
        links={
            key: [(run.result["seed"], _link(run.folder / "report.html", path)) for run in runs]
            for key, runs in found.runs.items()
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, path)


def _link(report: Path, page: Path) -> str | None:
    """Return the address of a report as the page sees it, None where there is none."""
    return quote(Path(os.path.relpath(report, page.absolute().parent)).as_posix()) if report.is_file() else None


def _trend(found: Grid, task: str) -> dict[str, Any] | None:
    """Return the plot of a task: a curve for each row whose setting grows, a level for each other one."""
    metric = next(metric for of, metric in found.columns if of == task)
    curves, levels = list[Curve](), list[Level]()
    for row in found.rows:
        runs = found.runs.get((row, task))
        if runs is None:
            continue
        if runs[0].setting.grows:
            curves.append(curve(" ".join(_words(row)), runs, metric))
        else:
            levels.append(Level(" ".join(_words(row)), found.cells[row, task, metric].mean))
    if not any(len(one.sizes) for one in curves):
        return None
    return {"task": task, "metric": MAIN[metric], "figure": svg(trend_figure(curves, levels, MAIN[metric]))}


def _words(row: Row) -> Iterator[str]:
    yield row.setting.upper()
    yield from (name for name in (row.plm, row.tam) if name != "none")
    yield from row.variant
