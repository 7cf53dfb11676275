"""The trend of a run (trend.csv), the table of all runs (results.csv), and aggregates over seeds."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from zerogen.errors import UserError
from zerogen.metrics import OWN, scalars
from zerogen.runs.result import Result
from zerogen.support.files import put_aside, require_folder, write_whole
from zerogen.support.hashes import short_hash
from zerogen.support.progress import Progress

# Columns of further metrics come after these.
COLUMNS = ("setting", "task", "plm", "tam", "seed", "n_train", "n_eval", *OWN, "seconds", "folder")


def read_trend(path: Path) -> dict[tuple[int, int, str], float]:
    """Read a trend as (n, seed, metric) to value; empty where there is no file.

    Raises `UserError` for a damaged one.
    """
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {(int(row["n"]), int(row["seed"]), row["metric"]): float(row["value"]) for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: is damaged; allowed are lines n,seed,metric,value: delete it or mend it") from error


def write_trend(path: Path, seed: int, trend: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """Write (or extend) a trend as n, seed, metric, value; a point that is there already is replaced."""
    require_folder(path.parent)  # which the lock would make again
    with FileLock(path.with_name(".trend.lock")):  # runs of different size share a folder
        points = read_trend(path)
        for n, metrics in trend:
            for metric, value in scalars(metrics).items():
                points[n, seed, metric] = value
        lines = [f"{n},{of},{metric},{value:.6f}" for (n, of, metric), value in sorted(points.items())]
        write_whole("\n".join(["n,seed,metric,value", *lines]) + "\n", path)


def add_line(path: Path, result: Result, progress: Progress) -> None:
    """Add a run to results.csv; the line of an earlier run in the same folder with as many rows is replaced.

    A file that is not a table in UTF-8 is put aside, which is said.
    """
    require_folder(path.parent)
    with FileLock(path.with_name(".results.lock")):
        for scratch in path.parent.glob(f"{path.name}.*.part"):  # of a process that was killed
            scratch.unlink(missing_ok=True)
        columns, rows = [*COLUMNS, *result.further_metrics], list[dict[str, str]]()
        if path.is_file():
            try:
                with path.open(encoding="utf-8", newline="") as file:
                    reader = csv.DictReader(file)
                    rows = list(reader)
                columns = list(dict.fromkeys([*COLUMNS, *filter(None, reader.fieldnames or ()), *columns]))
            except (UnicodeDecodeError, csv.Error) as error:
                aside = put_aside(path)
                progress.say(f"{path} was not a table in UTF-8 ({error}); it is now {aside}, and a new one begins")
        rows = [{column: row.get(column) or "" for column in columns} for row in rows]
        line = {column: str(_cell(result, column)) for column in columns}
        rows = [row for row in rows if (row["folder"], row["n_train"]) != (line["folder"], line["n_train"])]
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, line])
        write_whole(table.getvalue(), path)


def _cell(result: Result, column: str) -> Any:
    """Return a result's value for a column of results.csv; an empty string where it has none."""
    if column == "seconds":
        return round(sum(result.seconds.values()), 1)
    if column in COLUMNS and column not in OWN:
        return getattr(result, column)
    value = result.scalars.get(column)
    return "" if value is None else round(value, 4)


def write_aggregate(results: Sequence[Result]) -> Path:
    """Write mean and sample standard deviation over the seeds of one setting beside their folders; return the path."""
    first = results[0]
    names = [name for name in first.scalars if all(name in result.scalars for result in results)]
    values = {name: [result.metrics[name] for result in results] for name in names}
    aggregate = {
        **{key: getattr(first, key) for key in ("setting", "task", "plm", "tam", "n_train", "n_eval")},
        "seeds": [result.seed for result in results],
        "mean": {name: statistics.fmean(numbers) for name, numbers in values.items()},
        "standard_deviation": {
            name: statistics.stdev(numbers) if len(numbers) > 1 else None for name, numbers in values.items()
        },
        "folders": [str(result.folder) for result in results],
    }
    runs = short_hash([result.folder.name for result in results])
    name = f"{first.setting}_{first.plm}_{first.tam}_n{first.n_train}_seeds_{runs}.json"
    path = first.folder.parent / name
    write_whole(json.dumps(aggregate, indent=2) + "\n", path)
    return path
