"""One page over many runs: their table, and the trends of each task, linked to the reports."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zerogen.metrics import metric_of
from zerogen.report.differences import CAPTION as DIFFERENCES
from zerogen.report.differences import Difference, lines, names_of
from zerogen.report.finished import curve
from zerogen.report.grid import CAPTION, Grid, Row
from zerogen.report.page import template
from zerogen.report.plots import Curve, Level, interval_figure, svg, trend_figure
from zerogen.support.files import write_whole


def write_overview(summary: Grid, path: Path, found: Sequence[Difference] = ()) -> None:
    """Write the page, with differences where there are any; links to reports are relative to it."""
    tasks = dict.fromkeys(task for task, _ in summary.columns)
    page = template("overview.html.jinja").render(
        title="Runs",
        caption=CAPTION,
        grid=summary,
        variants=any(row.variant for row in summary.rows),
        differences=[_differences(found, task) for task in tasks] if found else [],
        differences_caption=DIFFERENCES,
        trends=[one for task in tasks if (one := _trend(summary, task)) is not None],
        links={
            key: [(run.result.seed, _link(run.folder / "report.html", path)) for run in runs]
            for key, runs in summary.runs.items()
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, path)


def _link(report: Path, page: Path) -> str | None:
    """Return the address of a report as the page sees it, None where there is none."""
    return quote(Path(os.path.relpath(report, page.absolute().parent)).as_posix()) if report.is_file() else None


def _trend(summary: Grid, task: str) -> dict[str, Any] | None:
    """Return the plot of a task: a curve for each row whose setting grows, a level for each other one."""
    metric = next(metric for of, metric in summary.columns if of == task)
    curves, levels = list[Curve](), list[Level]()
    for row in summary.rows:
        runs = summary.runs.get((row, task))
        if runs is None:
            continue
        drawn = curve(" ".join(_words(row)), runs, metric) if runs[0].setting.grows else None
        if drawn is not None and drawn.sizes:  # self-training may have no points
            curves.append(drawn)
        else:
            levels.append(Level(" ".join(_words(row)), summary.cells[row, task, metric].mean))
    if not any(len(one.sizes) for one in curves):
        return None
    title = metric_of(metric).title
    return {"task": task, "metric": title, "figure": svg(trend_figure(curves, levels, title))}


def _differences(found: Sequence[Difference], task: str) -> dict[str, Any]:
    """Return the table and the plot of a task's differences."""
    of_task = [one for one in found if one.task == task]
    names = names_of([one.row for one in of_task])
    intervals = [(names[one.row], one.gain, one.interval) for one in of_task if one.gain is not None and one.interval]
    base, title = names[of_task[0].row], metric_of(of_task[0].metric).title
    figure = svg(interval_figure(intervals, f"{title}: points more than {base}")) if intervals else None
    return {"task": task, "base": base, "metric": title, "lines": lines(of_task), "figure": figure}


def _words(row: Row) -> Iterator[str]:
    yield row.setting.upper()
    yield from (name for name in (row.plm, row.tam) if name != "none")
    yield from row.variant
