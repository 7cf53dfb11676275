"""The results of a command for the terminal, and the pages over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zerogen.config.schema import Config
from zerogen.metrics import OF_KIND, metric_of
from zerogen.report.differences import CAPTION as DIFFERENCES
from zerogen.report.differences import Difference, lines
from zerogen.report.grid import CAPTION, Grid, grid
from zerogen.runs.result import Failed, Result, title
from zerogen.runs.settings import setting_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def report(
    groups: Sequence[Sequence[Config]], outcomes: Sequence[Result | Failed], folder: Path, console: Console
) -> None:
    """Print what the jobs of a command have come to and the paths of what was written; write pages and aggregates.

    groups: the jobs, those of the same setting that differ in their seed together. outcomes: of the first of them.
    folder: of all results, for the page over several of them.
    """
    from zerogen.report import present
    from zerogen.runs.summaries import write_aggregate

    console.print(results_table(outcomes))
    common = set.intersection(*(set(config.command) for group in groups for config in group))
    for number, failed in enumerate(outcomes, 1):
        if isinstance(failed, Result):
            continue
        named = title(failed.config)
        own = [word for word in failed.config.command if word not in common and word not in named.split()]
        words = f"{number}. failed: {' '.join([named, *own])}: {failed.reason}"
        console.print(words, highlight=False, markup=False, soft_wrap=True)
    results = [one for one in outcomes if isinstance(one, Result)]
    left, aggregates = list(outcomes), []
    for group in groups:
        of_group, left = left[: len(group)], left[len(group) :]
        finished = [one for one in of_group if isinstance(one, Result)]
        if len(group) == len(finished) > 1:
            aggregates.append(write_aggregate(finished))
    if not results:
        return
    folders = list(dict.fromkeys(result.folder for result in results))
    if sum(map(len, groups)) > 1:  # only now, since each page compares its run with all others
        for place in folders:
            present(place)
    pages = [place / "report.html" for place in folders]
    if len(folders) > 1:
        from zerogen.report.finished import read_run, read_runs
        from zerogen.report.overview import write_overview

        console.print()
        print_table(grid([read_run(place) for place in folders]), console)
        console.print()
        pages.append(folder / "overview.html")
        write_overview(grid(read_runs([folder], skip=True)), pages[-1])
    for path in [*pages, *aggregates, folder / "results.csv"]:
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)


def results_table(outcomes: Sequence[Result | Failed]) -> Table:
    """Return a table with a line per run that fits 80 columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, collapse_padding=True)
    for name in ("setting", "task", "PLM", "TAM"):
        table.add_column(name, overflow="fold")
    results = [one for one in outcomes if isinstance(one, Result)]
    seeds = {one.seed if isinstance(one, Result) else one.config.seed for one in outcomes}
    several, columns = len(seeds) > 1, list(_columns(results))
    for name in (["seed"] if several else []) + ["rows", *(heading for heading, _ in columns), "seconds"]:
        table.add_column(name, justify="right", no_wrap=True)
    for result in outcomes:
        if not isinstance(result, Result):
            config = result.config
            names = (setting_of(config).name, config.task.name, *setting_of(config).models(config))
            seed = [str(config.seed)] if several else []
            table.add_row(*("-" if name == "none" else name for name in names), *seed, "failed")
            continue
        values = [[result.scalars[name] for name in names if name in result.scalars] for _, names in columns]
        table.add_row(
            *("-" if name == "none" else name for name in (result.setting, result.task, result.plm, result.tam)),
            *([str(result.seed)] if several else []),
            f"{result.n_train:,}",
            *(f"{value[0]:.1%}" if value else "-" for value in values),
            f"{sum(result.seconds.values()):,.0f}",
        )
    return table


def _columns(results: Sequence[Result]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield title and metrics of each column: one for the main metric of every kind of task, and so on."""
    further = {name: said for result in results for name, said in result.further_metrics.items()}
    reported = {name for result in results for name in result.scalars}
    for rank in zip(*OF_KIND.values(), strict=True):
        names = tuple(dict.fromkeys(rank))
        shown = [name for name in names if name in reported] or names[:1]
        yield "/".join(dict.fromkeys(metric_of(name).column for name in shown)), names
    for name, said in further.items():
        yield said.column, (name,)


def print_differences(found: Sequence[Difference], notes: Sequence[str], console: Console) -> None:
    """Print how runs differ from the one that they are compared with."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    header, *rest = lines(found)
    console.print(DIFFERENCES, highlight=False)
    console.print()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name in header:
        named = name in ("task", "run")
        table.add_column(name, justify="left" if named else "right", overflow="fold", no_wrap=not named)
    for line in rest:
        table.add_row(*map(Text, line))
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False)


def print_table(summary: Grid, console: Console) -> None:
    """Print a table as wide as the console; columns that do not fit follow in another one below."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = ["setting", "PLM", "TAM"]
    variants = any(row.variant for row in summary.rows)
    columns = summary.shown()
    if columns:
        console.print(CAPTION, highlight=False)
    while columns:
        console.print()
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
        for name in [*names, *(["with"] if variants else [])]:
            table.add_column(name, overflow="fold")
        head = 2 * len(names) + sum(
            max(len(name), *(len(row.names[i]) for row in summary.rows)) for i, name in enumerate(names)
        )
        room = console.width - head - (20 if variants else 0)
        fitting: list[tuple[str, str]] = []
        for column in columns:
            width = 2 + max(len(summary.header(column)), *(len(summary.text(row, column)) for row in summary.rows))
            if fitting and width > room:
                break
            room -= width
            fitting.append(column)
        columns = columns[len(fitting) :]
        for column in fitting:
            table.add_column(Text(summary.header(column)), justify="right", no_wrap=True)
        for row in summary.rows:
            cells = [summary.text(row, column) for column in fitting]
            if any(cells):
                table.add_row(*map(Text, [*row.names, *([", ".join(row.variant)] if variants else []), *cells]))
        console.print(table)
    for note in summary.notes:
        console.print(note, markup=False, highlight=False)
