"""Measures in a run folder: what was measured before stays, what was not is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zerogen.config import Config
from zerogen.dataset import load_synthetic, write_jsonl
from zerogen.errors import UserError
from zerogen.files import write_whole
from zerogen.measures.evaluator import evaluator_run
from zerogen.measures.rows import PARTS, measure
from zerogen.records import Example
from zerogen.report.runs import MEASURED_ROWS, MEASURES, read_lines, read_measures
from zerogen.runs.identity import MEASURES_FORMAT, digest
from zerogen.runs.run import Run

_FIGURES = ("agreement", "probability", "confidence", "uncalibrated", "margin")


def measure_run(run: Run, folder: Path) -> dict[str, Any] | None:
    """Measure the rows in the folder of a finished run and write what was found there; None where there are none.

    What was measured before as the configuration says, or where it says nothing, stays.
    """
    task = run.config.task.name
    path = folder / f"{task}-dataset.jsonl"
    if not path.is_file():
        return None
    rows = load_synthetic(str(path), run.config.task, {})
    asked, kept = _asked_for(run, rows), dict[str, Any]()
    earlier, known = _earlier(run, folder, rows)
    if earlier is not None:
        before = earlier["asked_for"]
        # A key that is newer than the file had its default.
        defaults = {name: asdict(getattr(Config(), name)) for name in PARTS}
        same = [
            part
            for part in PARTS
            if asked[part] is None or (before[part] is not None and asked[part] == defaults[part] | before[part])
        ]
        if len(same) == len(PARTS):
            return earlier
        kept = {part: earlier[part] for part in same}
        kept["seconds"] = earlier["seconds"]
        asked |= {part: before[part] for part in same}
    measures, lines = measure(run, rows, kept, known)
    measures["asked_for"] = {"format": MEASURES_FORMAT, "dataset": digest(str(path)), **asked}
    (folder / MEASURES).unlink(missing_ok=True)  # never beside rows that it is not about
    write_jsonl(lines, folder / MEASURED_ROWS)
    write_whole(json.dumps(measures, indent=2, ensure_ascii=False) + "\n", folder / MEASURES)
    return measures


def _earlier(run: Run, folder: Path, rows: Sequence[Example]) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return what was measured before of the rows, and of each of them; nothing where a part of it is damaged."""
    found, path = read_measures(folder, run.config.task.name), folder / MEASURED_ROWS
    if found is None or not path.is_file() or found["asked_for"].get("format") != MEASURES_FORMAT:
        return None, []
    uids = {row.uid for row in rows}
    try:
        lines = read_lines(path)
        sound = all(_is_of(line, uids) for line in lines)
    except UserError:
        sound = False
    if not sound:
        run.progress.say(f"{path}: is damaged, so the rows are measured again")
        return None, []
    return found, lines


def _is_of(line: dict[str, Any], uids: set[str]) -> bool:
    """Tell whether a line says of one of the rows what `measure` says."""
    figures = [line[name] for name in _FIGURES if name in line]
    judged = "agreement" not in line or "evaluator" in line
    uid = line.get("uid")
    return isinstance(uid, str) and uid in uids and judged and all(isinstance(one, int | float) for one in figures)


def _asked_for(run: Run, rows: Sequence[Example]) -> dict[str, Any]:
    """Return what each part of the measures of given rows depends on, None for one that is off."""
    from zerogen.metrics.diversity import tokenizer_of

    config = run.config
    judged = config.correctness.evaluator is not None
    # By the name that `auto` stands for: what was measured with that one stays.
    name = tokenizer_of(config.diversity.tokenizer, [row.text for row in rows])
    return {
        "diversity": asdict(config.diversity) | {"tokenizer": name},
        "correctness": asdict(config.correctness) | {"trained": evaluator_run(run).folder().name} if judged else None,
        "confidence": asdict(config.confidence) if config.confidence.rows else None,
    }
