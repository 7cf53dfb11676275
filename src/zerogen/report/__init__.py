"""What presents runs: pages, tables and cards."""

from __future__ import annotations

from pathlib import Path


def present(folder: Path) -> Path:
    """Write report.html and the cards of a finished run and return the report's path. Raises `UserError`."""
    from zerogen.report.cards import write_cards
    from zerogen.report.page import write_report

    write_cards(folder)
    return write_report(folder)
