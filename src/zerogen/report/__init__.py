"""What presents runs: pages, tables and cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def present(folder: Path) -> Path:
    """Write report.html and the cards of a finished run and return the report's path. Raises `UserError`."""
    from zerogen.report.cards import write_cards
    from zerogen.report.page import write_report

    write_cards(folder)
    return write_report(folder)


def present_evaluator(measures: dict[str, Any] | None) -> None:
    """Write the page and card of the run that trained the evaluator of some measures, where it has none yet."""
    from zerogen.support.files import exclusive
    from zerogen.support.progress import Progress

    correctness = measures and measures["correctness"]
    folder = Path(correctness["folder"]) if correctness else None
    if folder is not None and (folder / "result.json").is_file() and not (folder / "report.html").is_file():
        with exclusive(folder, Progress()):
            present(folder)
