"""One table over runs: `python -m zerogen.table RUNS...`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from zerogen.errors import UserError
from zerogen.report.differences import CAPTION as DIFFERENCES
from zerogen.report.differences import Difference, differences, lines
from zerogen.report.grid import CAPTION, Grid, grid
from zerogen.report.terminal import print_differences, print_table
from zerogen.runs.result import Result
from zerogen.support.console import ArgumentParser, ending_with_the_reader, make_console, reporting_errors

Cells = tuple[list[list[str]], int, list[str]]
"""Lines of a table, its header first; how many columns hold names, which stand on the left; and notes."""


def cells(summary: Grid) -> Cells:
    """Return what a table of runs says."""
    variants = any(row.variant for row in summary.rows)
    columns = summary.shown()
    table = [["setting", "PLM", "TAM", *(["with"] if variants else []), *map(summary.header, columns)]]
    for row in summary.rows:
        texts = [summary.text(row, column) for column in columns]
        table.append([*row.names, *([", ".join(row.variant)] if variants else []), *texts])
    return table, 4 if variants else 3, [CAPTION, *summary.notes]


def markdown(table: Cells) -> str:
    """Return a table in GitHub's Markdown."""
    lines, names, notes = table
    escaped = str.maketrans({sign: f"\\{sign}" for sign in "\\|`*_[]"} | {"<": "&lt;", "&": "&amp;"})
    written = [f"| {' | '.join(cell.translate(escaped) for cell in line)} |" for line in lines]
    written.insert(1, "|" + " --- |" * names + " ---: |" * (len(lines[0]) - names))
    return "\n".join([*written, "", notes[0] + ".", *notes[1:]]) + "\n"


def latex(table: Cells) -> str:
    """Return a tabular that needs the package booktabs."""
    lines, names, notes = table
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
    header, *rest = [" & ".join(cell.translate(escaped) for cell in line) + r" \\" for line in lines]
    return "\n".join(
        [
            *(f"% {note}" for note in notes),
            rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(lines[0]) - names)}}}",
            r"\toprule",
            header,
            r"\midrule",
            *rest,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def differences_csv(found: Sequence[Difference]) -> str:
    """Return one line per row and task; shares of 1, and seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = "setting plm tam variant task metric mean standard_deviation n gain low high seconds"
    writer.writerow(names.split())
    for one in found:
        row, ends = one.row, one.interval or ("", "")
        models = [row.setting, row.plm, row.tam, json.dumps(row.variant) if row.variant else ""]
        figures = [one.mean, one.spread, one.seeds, one.gain, *ends, one.seconds]
        shown = [f"{value:.6f}" if isinstance(value, float) else value for value in figures]
        writer.writerow([*models, one.task, one.metric, *("" if value is None else value for value in shown)])
    return text.getvalue()


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
    formats = ("terminal", "markdown", "latex", "csv")
    parser.add_argument("--format", choices=formats, default="terminal", help="default: terminal")
    parser.add_argument(
        "--against", metavar="BASE", help="compare all with one: a setting, or a variant such as method=supergen"
    )
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
        found = differences(summary, options.against) if options.against else []
        _print(summary, found, options.format)
        if options.html:
            from zerogen.report.overview import write_overview

            write_overview(summary, options.html, found)
            if options.format == "terminal":
                print(options.html)


def _print(summary: Grid, found: Sequence[Difference], style: str) -> None:
    """Print the table, or where there are differences these, in a format."""
    if style == "terminal":
        print_differences(found, summary.notes, make_console()) if found else print_table(summary, make_console())
        return
    if style == "csv":
        print(differences_csv(found) if found else as_csv(summary), end="")
        return
    table = cells(summary)
    if found:
        compared = lines(found)
        table = compared, compared[0].index("run") + 1, [DIFFERENCES, *summary.notes]
    print({"markdown": markdown, "latex": latex}[style](table), end="")


if __name__ == "__main__":
    main()
