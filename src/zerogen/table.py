"""One table over runs: `python -m zerogen.table RUNS...`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zerogen.console import ArgumentParser, make_console, reporting_errors
from zerogen.metrics import MAIN, numbers

if TYPE_CHECKING:
    from rich.console import Console

    from zerogen.report.runs import Finished

_ORDER = ("supervised", "prompting", "zerogen")
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


def grid(runs: Sequence[Finished]) -> Grid:
    """Arrange runs in a table: a row for each setting, PLM and TAM (and for what else differs), a column per task.

    Runs that differ in their seed alone share a cell. Of runs with the same configuration and seed, the one that was
    written last counts.
    """
    from zerogen.report.runs import spread, variants

    notes = []
    reported = [run for run in runs if numbers(run.result["metrics"])]
    if len(reported) < len(runs):
        notes.append(f"runs left out because they were not evaluated on gold rows: {len(runs) - len(reported)}")
    reported.sort(key=lambda run: (run.folder / "result.json").stat().st_mtime)
    cells: dict[tuple[Row, str], dict[int, Finished]] = {}
    for run, variant in zip(reported, variants(reported), strict=True):
        cells.setdefault((Row(*run.models, variant), run.task), {})[run.result["seed"]] = run
    again = len(reported) - sum(len(seeds) for seeds in cells.values())
    if again:
        notes.append(f"runs left out because a later one has the same configuration and seed: {again}")
    kept = {key: [seeds[seed] for seed in sorted(seeds)] for key, seeds in cells.items()}
    tasks = sorted({task for _, task in kept})
    found: dict[tuple[Row, str, str], Cell] = {}
    for (row, task), mine in kept.items():
        for metric in numbers(mine[0].result["metrics"]):
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
        sorted({row for row, _ in kept}, key=lambda row: (_ORDER.index(row.setting), row.plm, row.tam, row.variant)),
        [(task, metric) for task in tasks for metric in MAIN if any((row, task, metric) in found for row, _ in kept)],
        found,
        kept,
        notes,
    )


CAPTION = (
    "Accuracy on gold rows in percent, of questions exact match (EM) and F1: mean ± standard deviation over "
    "seeds (number of seeds)"
)


def print_table(found: Grid, console: Console) -> None:
    """Print a table as wide as the console; columns that do not fit follow in another one below."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = ["setting", "PLM", "TAM"]
    variants = any(row.variant for row in found.rows)
    columns = found.shown()
    if columns:
        console.print(CAPTION, highlight=False)
    while columns:
        console.print()
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
        for name in [*names, *(["with"] if variants else [])]:
            table.add_column(name, overflow="fold")
        head = 2 * len(names) + sum(
            max(len(name), *(len(row.names[i]) for row in found.rows)) for i, name in enumerate(names)
        )
        left = console.width - head - (20 if variants else 0)
        taken: list[tuple[str, str]] = []
        for column in columns:
            width = 2 + max(len(found.header(column)), *(len(found.text(row, column)) for row in found.rows))
            if taken and width > left:
                break
            left -= width
            taken.append(column)
        columns = columns[len(taken) :]
        for column in taken:
            table.add_column(Text(found.header(column)), justify="right", no_wrap=True)
        for row in found.rows:
            cells = [found.text(row, column) for column in taken]
            if any(cells):
                table.add_row(*map(Text, [*row.names, *([", ".join(row.variant)] if variants else []), *cells]))
        console.print(table)
    for note in found.notes:
        console.print(note, markup=False, highlight=False)


def _lines(found: Grid, plus_minus: str) -> Iterable[list[str]]:
    variants = any(row.variant for row in found.rows)
    columns = found.shown()
    yield ["setting", "PLM", "TAM", *(["with"] if variants else []), *map(found.header, columns)]
    for row in found.rows:
        texts = [found.text(row, column, plus_minus) for column in columns]
        yield [*row.names, *([", ".join(row.variant)] if variants else []), *texts]


def markdown(found: Grid) -> str:
    """Return a table in GitHub's Markdown."""
    escaped = str.maketrans({"|": "\\|", "<": "&lt;", "&": "&amp;", "`": "\\`", "*": "\\*", "_": "\\_"})
    lines = [f"| {' | '.join(cell.translate(escaped) for cell in line)} |" for line in _lines(found, "±")]
    names = 4 if any(row.variant for row in found.rows) else 3
    lines.insert(1, "|" + " --- |" * names + " ---: |" * len(found.shown()))
    return "\n".join([*lines, "", CAPTION + ".", *found.notes]) + "\n"


def latex(found: Grid) -> str:
    """Return a tabular that needs the package booktabs."""
    escaped = str.maketrans(
        {character: f"\\{character}" for character in "&%$#_{}"}
        | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$"}
    )
    header, *lines = [" & ".join(cell.translate(escaped) for cell in line) + r" \\" for line in _lines(found, "±")]
    names = 4 if any(row.variant for row in found.rows) else 3
    return "\n".join(
        [
            *(f"% {note}" for note in [CAPTION, *found.notes]),
            rf"\begin{{tabular}}{{{'l' * names}{'r' * len(found.shown())}}}",
            r"\toprule",
            header,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def as_csv(found: Grid) -> str:
    """Return one line per row, task and metric, with the seeds it is over; shares of 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = "setting plm tam variant task metric mean standard_deviation n seeds n_train n_eval evaluated_on"
    writer.writerow(names.split())
    for row in found.rows:
        for task, metric in found.columns:
            cell = found.cells.get((row, task, metric))
            if cell is None:
                continue
            result = found.runs[row, task][0].result
            models = [row.setting, row.plm, row.tam, " ".join(row.variant)]
            figures = [f"{cell.mean:.6f}", "" if cell.spread is None else f"{cell.spread:.6f}"]
            seeds = [len(cell.seeds), " ".join(map(str, cell.seeds))]
            rows = [result["n_train"], result["n_eval"], result["evaluated_on"]]
            writer.writerow([*models, task, metric, *figures, *seeds, *rows])
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table over run folders, and write the page over them where it is asked for."""
    parser = ArgumentParser("zerogen-table", description="One table over finished runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run folders, or folders of them")
    formats = {"markdown": markdown, "latex": latex, "csv": as_csv}
    parser.add_argument("--format", choices=("terminal", *formats), default="terminal", help="default: terminal")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page with the trends, linked to reports"
    )
    with reporting_errors():
        options = parser.parse_args(arguments)
        from zerogen.report.runs import read_runs

        found = grid(read_runs(options.runs))
        if options.format == "terminal":
            print_table(found, make_console())
        else:
            print(formats[options.format](found), end="")
        if options.html:
            from zerogen.report.overview import write_overview

            write_overview(found, options.html)
            if options.format == "terminal":
                print(options.html)


if __name__ == "__main__":
    main()
