"""Measure the rows of a finished run and store the measures in its folder, reusing those that still apply."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zerogen.config.schema import Config
from zerogen.data.records import Example
from zerogen.data.synthetic import load_synthetic, write_jsonl
from zerogen.errors import UserError
from zerogen.measures.files import MEASURED_ROWS, MEASURES, read_lines, read_measures
from zerogen.measures.match import match_settings
from zerogen.measures.rows import PARTS, measure
from zerogen.runs.evaluator import evaluator_run
from zerogen.runs.identity import MEASURES_FORMAT
from zerogen.runs.run import Run
from zerogen.support.files import write_whole
from zerogen.support.hashes import digest

_FIGURES = ("agreement", "probability", "confidence", "uncalibrated", "margin")


def measure_run(run: Run, folder: Path) -> dict[str, Any] | None:
    """Measure the rows in the folder of a finished run and write the measures there; None if it holds no rows.

    Keep earlier measures that were made under the same settings, and those that the configuration switches off.
    """
    task = run.config.task.name
    path = folder / f"{task}-dataset.jsonl"
    if not path.is_file():
        return None
    rows = load_synthetic(str(path), run.config.task, {})
    settings, cached_measures = _measure_settings(run, rows), dict[str, Any]()
    earlier, cached_lines = _earlier(run, folder, rows)
    if earlier is not None:
        earlier_settings = earlier["asked_for"]
        # A key that is newer than the file had its default value; a match has no keys of its own.
        defaults = {name: asdict(getattr(Config(), name)) for name in PARTS if name != "match"} | {"match": {}}
        same = [
            part
            for part in PARTS
            if settings[part] is None
            or (earlier_settings[part] is not None and settings[part] == defaults[part] | earlier_settings[part])
        ]
        if len(same) == len(PARTS):
            return earlier
        cached_measures = {part: earlier[part] for part in same}
        cached_measures["seconds"] = earlier["seconds"]
        settings |= {part: earlier_settings[part] for part in same}
    measures, lines = measure(run, rows, cached_measures, cached_lines)
    measures["asked_for"] = {"format": MEASURES_FORMAT, "dataset": digest(str(path)), **settings}
    (folder / MEASURES).unlink(missing_ok=True)  # old measures must never lie beside new lines
    write_jsonl(lines, folder / MEASURED_ROWS)
    write_whole(json.dumps(measures, indent=2, ensure_ascii=False) + "\n", folder / MEASURES)
    return measures


def _earlier(run: Run, folder: Path, rows: Sequence[Example]) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return the earlier measures of the rows and their lines; (None, []) if there are none or a part is damaged."""
    measures, path = read_measures(folder, run.config.task.name), folder / MEASURED_ROWS
    if measures is None or not path.is_file() or measures["asked_for"].get("format") != MEASURES_FORMAT:
        return None, []
    uids = {row.uid for row in rows}
    try:
        lines = list(read_lines(path))
        valid = all(_is_valid(line, uids) for line in lines)
    except UserError:
        valid = False
    if not valid:
        run.progress.say(f"{path}: is damaged, so the rows are measured again")
        return None, []
    return measures, lines


def _is_valid(line: dict[str, Any], uids: set[str]) -> bool:
    """Return whether a line is about one of the rows and has the fields that `measure` writes."""
    figures = [line[name] for name in _FIGURES if name in line]
    complete = "agreement" not in line or "evaluator" in line
    uid = line.get("uid")
    return isinstance(uid, str) and uid in uids and complete and all(isinstance(one, int | float) for one in figures)


def _measure_settings(run: Run, rows: Sequence[Example]) -> dict[str, Any]:
    """Return the settings that each part of the measures of rows depends on, None for a part that is off."""
    from zerogen.metrics.diversity import tokenizer_of

    config = run.config
    has_evaluator = config.correctness.evaluator is not None
    # Store the tokenizer that `auto` stands for, so that measures made under its own name are reused.
    name = tokenizer_of(config.diversity.tokenizer, [row.text for row in rows])
    return {
        "diversity": asdict(config.diversity) | {"tokenizer": name},
        "match": match_settings(run),
        "correctness": asdict(config.correctness) | {"trained": evaluator_run(run).folder().name}
        if has_evaluator
        else None,
        "confidence": asdict(config.confidence) if config.confidence.rows else None,
    }
