"""One table over runs: `python -m zerogen.table RUNS...`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from zerogen.errors import UserError
from zerogen.report.grid import CAPTION, Grid, grid
from zerogen.report.terminal import print_table
from zerogen.runs.result import Result
from zerogen.support.console import ArgumentParser, ending_with_the_reader, make_console, reporting_errors


def _lines(summary: Grid, plus_minus: str) -> Iterable[list[str]]:
    variants = any(row.variant for row in summary.rows)
    columns = summary.shown()
    yield ["setting", "PLM", "TAM", *(["with"] if variants else []), *map(summary.header, columns)]
    for row in summary.rows:
        texts = [summary.text(row, column, plus_minus) for column in columns]
        yield [*row.names, *([", ".join(row.variant)] if variants else []), *texts]


def markdown(summary: Grid) -> str:
    """Return a table in GitHub's Markdown."""
    escaped = str.maketrans({sign: f"\\{sign}" for sign in "\\|`*_[]"} | {"<": "&lt;", "&": "&amp;"})
    lines = [f"| {' | '.join(cell.translate(escaped) for cell in line)} |" for line in _lines(summary, "±")]
    names = 4 if any(row.variant for row in summary.rows) else 3
    lines.insert(1, "|" + " --- |" * names + " ---: |" * len(summary.shown()))
    return "\n".join([*lines, "", CAPTION + ".", *summary.notes]) + "\n"


def latex(summary: Grid) -> str:
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
    header, *lines = [" & ".join(cell.translate(escaped) for cell in line) + r" \\" for line in _lines(summary, "±")]
    names = 4 if any(row.variant for row in summary.rows) else 3
    return "\n".join(
        [
            *(f"% {note}" for note in [CAPTION, *summary.notes]),
            rf"\begin{{tabular}}{{{'l' * names}{'r' * len(summary.shown())}}}",
            r"\toprule",
            header,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def as_csv(summary: Grid) -> str:
    """Return one line per row, task and metric, with the seeds it is over; shares of 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = "setting plm tam variant task metric mean standard_deviation n seeds n_train n_eval evaluated_on"
    writer.writerow(names.split())
    for row in summary.rows:
        for task, metric in summary.columns:
            cell = summary.cells.get((row, task, metric))
            if cell is None:
                continue
            results = [run.result for run in summary.runs.get((row, task), ()) if run.result.seed in cell.seeds]
            models = [row.setting, row.plm, row.tam, json.dumps(row.variant) if row.variant else ""]
            figures = [f"{cell.mean:.6f}", "" if cell.spread is None else f"{cell.spread:.6f}"]
            seeds = [len(cell.seeds), " ".join(map(str, cell.seeds))]
            rows = [_each(results, key) for key in ("n_train", "n_eval", "evaluated_on")]
            writer.writerow([*models, task, metric, *figures, *seeds, *rows])
    return text.getvalue()


def _each(results: Sequence[Result], key: str) -> str:
    """Return the value that all results have, or those of each seed, apart by spaces."""
    values = [str(getattr(result, key)) for result in results]
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
        from zerogen.report.finished import read_runs

        summary = grid(read_runs(options.runs))
        if options.format == "terminal":
            print_table(summary, make_console())
        else:
            print(formats[options.format](summary), end="")
        if options.html:
            from zerogen.report.overview import write_overview

            write_overview(summary, options.html)
            if options.format == "terminal":
                print(options.html)


if __name__ == "__main__":
    main()
