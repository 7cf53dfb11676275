"""Rewrite report and cards of finished runs: `python -m zerogen.report RUNS...`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zerogen.report import present
from zerogen.support.console import ArgumentParser, reporting_errors


def main(arguments: Sequence[str] | None = None) -> None:
    """Write them into each run folder and print the path of the report."""
    parser = ArgumentParser("zerogen-report", description="Write report and cards of finished runs again.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, which holds result.json")
    with reporting_errors():
        for folder in parser.parse_args(arguments).runs:
            print(present(folder))


if __name__ == "__main__":
    main()
