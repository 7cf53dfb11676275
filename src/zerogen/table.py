"""One table over runs: `python -m zerogen.table RUNS...`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.console import ArgumentParser, ending_with_the_reader, make_console, reporting_errors
from zerogen.errors import UserError
from zerogen.report.grid import CAPTION, Grid, grid

if TYPE_CHECKING:
    from rich.console import Console


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
    escaped = str.maketrans({sign: f"\\{sign}" for sign in "\\|`*_[]"} | {"<": "&lt;", "&": "&amp;"})
    lines = [f"| {' | '.join(cell.translate(escaped) for cell in line)} |" for line in _lines(found, "±")]
    names = 4 if any(row.variant for row in found.rows) else 3
    lines.insert(1, "|" + " --- |" * names + " ---: |" * len(found.shown()))
    return "\n".join([*lines, "", CAPTION + ".", *found.notes]) + "\n"


def latex(found: Grid) -> str:
    """Return a tabular that needs the package booktabs."""
    escaped = str.maketrans(
        {character: f"\\{character}" for character in "&%$#_{}"}
        | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$"}
        | {
            "<": r"\textless{}",
            ">": r"\textgreater{}",
            "|": r"\textbar{}",
            "`": r"\textasciigrave{}",
        }
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
            results = [run.result for run in found.runs[row, task]]
            models = [row.setting, row.plm, row.tam, json.dumps(row.variant) if row.variant else ""]
            figures = [f"{cell.mean:.6f}", "" if cell.spread is None else f"{cell.spread:.6f}"]
            seeds = [len(cell.seeds), " ".join(map(str, cell.seeds))]
            rows = [_each(results, key) for key in ("n_train", "n_eval", "evaluated_on")]
            writer.writerow([*models, task, metric, *figures, *seeds, *rows])
    return text.getvalue()


def _each(results: Sequence[dict[str, Any]], key: str) -> str:
    """Return the value that all results have, or those of each seed, apart by spaces."""
    values = [str(result[key]) for result in results]
    return values[0] if len(set(values)) == 1 else " ".join(values)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table over run folders, and write the page over them where it is asked for."""
    parser = ArgumentParser("zerogen-table", description="One table over finished runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run folders, or folders of them")
    formats = {"markdown": markdown, "latex": latex, "csv": as_csv}
    parser.add_argument("--format", choices=("terminal", *formats), default="terminal", help="default: terminal")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page with the trends, linked to reports"
    )
    with reporting_errors(), ending_with_the_reader():
        options = parser.parse_args(arguments)
        if options.html and options.html.is_dir():
            raise UserError(
                f"--html {options.html}: is a folder; allowed is a file such as {options.html}/overview.html"
            )
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
