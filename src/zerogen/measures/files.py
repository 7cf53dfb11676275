"""Read measures.json and measured-rows.jsonl of a run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zerogen.errors import UserError
from zerogen.support.hashes import digest

MEASURES, MEASURED_ROWS = "measures.json", "measured-rows.jsonl"


_NO_NUMBER = object()


def read_measures(folder: Path, task: str) -> dict[str, Any] | None:
    """Return what was measured of the rows that a run folder holds; None where it was of others, or is damaged.

    Earlier versions measured by another format, and did not say what a confidence is of.
    """
    place, rows = folder / MEASURES, folder / f"{task}-dataset.jsonl"
    if not place.is_file() or not rows.is_file():
        return None
    try:
        measures: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        if measures["asked_for"]["dataset"] != digest(str(rows)):
            return None
        parts = {"diversity", "correctness", "confidence"}
        if not parts <= set(measures["asked_for"]) or not isinstance(measures["seconds"], dict):
            return None
        if measures["confidence"] is not None:
            measures["confidence"].setdefault("of", "label")
        measures.setdefault("match", None)  # which is newer than the others
        measures["asked_for"].setdefault("match", None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return measures


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield JSON lines; none where there is no file. A number that is none, which is no JSON, is left out.

    Raises `UserError` for a file that is damaged, and says what writes it anew.
    """
    if not path.is_file():
        return
    number = 0
    with path.open(encoding="utf-8", newline="\n") as file:
        try:
            for line in file:
                number += 1
                row = json.loads(line, parse_constant=lambda _: _NO_NUMBER)
                yield {key: value for key, value in row.items() if value is not _NO_NUMBER}
        except (ValueError, AttributeError, RecursionError) as error:
            anew = (
                "python -m zerogen.measure writes it anew"
                if path.name == MEASURED_ROWS
                else "delete the run to run it again"
            )
            raise UserError(f"{path}:{number}: is damaged; {anew}") from error
