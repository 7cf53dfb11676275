"""What a run leaves behind: result.json, trend.csv, predictions, the dataset, the TAM, and a line in results.csv."""

from __future__ import annotations

import csv
import io
import json
import platform
import resource
import shutil
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from zerogen.answers import provenance
from zerogen.config import Config, keys_of
from zerogen.dataset import export_rows, write_folder, write_jsonl
from zerogen.errors import UserError
from zerogen.files import put_aside, write_whole
from zerogen.metrics import MAIN, scalars
from zerogen.progress import Progress
from zerogen.records import AnswerPrediction, Example, Prediction
from zerogen.runs.identity import short_hash
from zerogen.runs.run import Outcome, Run
from zerogen.runs.settings import setting_of

COLUMNS = (
    "setting",
    "task",
    "plm",
    "tam",
    "seed",
    "n_train",
    "n_eval",
    "accuracy",
    "macro_f1",
    "exact_match",
    "f1",
    "seconds",
    "folder",
)
# What every result says, and of which type.
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "setting": str,
    "task": str,
    "plm": str,
    "tam": str,
    "seed": int,
    "n_train": int,
    "n_eval": int,
    "evaluated_on": (str, type(None)),
    "metrics": dict,
}
PACKAGES = ("zerogen", "torch", "transformers", "datasets", "pytorch-lightning", "hydra-core")


def write_run(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Write all files of a run into its folder and its line into results.csv; return what result.json holds.

    result.json is written last: where it is, the run is complete. Only one process at a time may write a run.
    """
    folder = run.folder()
    folder.mkdir(parents=True, exist_ok=True)
    result = _write_files(run, outcome, folder)
    if not run.evaluator:
        add_line(Path(run.config.output_dir) / "results.csv", result, run.progress)
    return result


def write_config(config: Config, folder: Path) -> None:
    """Write config.yaml into a run folder."""
    write_whole(yaml.safe_dump(keys_of(config), sort_keys=False, allow_unicode=True), folder / "config.yaml")


def write_result(result: dict[str, Any]) -> None:
    """Write result.json into the folder of its run."""
    write_whole(json.dumps(result, indent=2, ensure_ascii=False) + "\n", Path(result["folder"]) / "result.json")


def _write_files(run: Run, outcome: Outcome, folder: Path) -> dict[str, Any]:
    config = run.config
    plm, tam = run.names()
    (folder / "result.json").unlink(missing_ok=True)
    write_config(config, folder)
    if outcome.rows:
        write_jsonl(export_rows(outcome.rows, config.task), folder / f"{config.task.name}-dataset.jsonl")
        shutil.rmtree(folder / "dataset", ignore_errors=True)
        write_folder(outcome.rows, config.task, folder / "dataset")
    if outcome.predictions:
        write_jsonl(
            [described(row, found) for row, found in zip(run.gold, outcome.predictions, strict=True)],
            folder / "predictions.jsonl",
        )
    if outcome.tam is not None and config.train:
        shutil.rmtree(folder / "tam", ignore_errors=True)
        outcome.tam.save(folder / "tam")
    if outcome.trend:
        write_trend(folder / "trend.csv", config.seed, outcome.trend)
    result = {
        "setting": run.setting.name,
        "task": config.task.name,
        "plm": plm,
        "tam": tam,
        "weights": run.weights(),
        "seed": config.seed,
        "n_train": outcome.n_train,
        "n_eval": len(outcome.predictions),
        "evaluated_on": evaluated_on(config) if outcome.predictions else None,
        "metrics": outcome.metrics,
        "best_epoch": outcome.epoch,
        "heldout_accuracy": outcome.heldout_accuracy,
        "seconds": {stage: round(seconds, 2) for stage, seconds in run.seconds.items()},
        "tokens": outcome.tokens,
        "requests": outcome.asked,
        "cut": outcome.cut,
        "rejects": outcome.rejects,
        "blank": run.blank,
        "answers": provenance(config.task.answers) if outcome.asked and config.task.kind == "qa" else None,
        "peak_memory_mb": peak_memory_mb(run),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "asked_for": asked_for(config),
        "command": config.command,
        "pool": str(run.pool_folder()) if outcome.asked else None,
        "folder": str(folder),
        "evaluator": run.evaluator,
        **run.setting.record(),
    }
    write_result(result)
    return result


def described(row: Example, found: Prediction | AnswerPrediction) -> dict[str, Any]:
    """Return a line of predictions.jsonl: a gold row and what was predicted for it."""
    line: dict[str, Any] = {"uid": row.uid}
    if isinstance(found, AnswerPrediction):
        return line | {
            "question": row.text,
            "context": row.context,
            "answers": [answer.text for answer in row.answers],
            "prediction": found.text,
            "start": found.start,
            "probability": round(found.probability, 6),
        }
    return line | {
        "text": row.text,
        **({} if row.context is None else {"context": row.context}),
        "label": row.label,
        "prediction": found.label,
        "probabilities": {label: round(p, 6) for label, p in found.probabilities.items()},
    }


def finished(run: Run) -> dict[str, Any] | None:
    """Return the result of an earlier run of the same configuration and size, None where there is none.

    Raises `UserError` where the folder holds a larger run, whose dataset and TAM would be lost, or a damaged result.
    """
    path = run.folder() / "result.json"
    if not path.is_file():
        return None
    try:
        # Where it is now: outputs may have been moved, and earlier versions had no evaluators.
        result = checked(json.loads(path.read_text(encoding="utf-8")), str(path)) | {"folder": str(run.folder())}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged; delete it to run again") from error
    asked, before = asked_for(run.config), result.get("asked_for")
    if before == asked:
        if "seconds" not in result:
            raise UserError(f"{path}: does not say 'seconds'; delete it to run again")
        return {"evaluator": False} | result
    larger = before.get("n") if isinstance(before, dict) else None
    if asked["n"] and isinstance(larger, int) and larger > asked["n"]:
        raise UserError(
            f"n={asked['n']}: {run.folder()} holds a run of n={larger}, which this one would replace; delete it or set "
            f"another output_dir (log_every={asked['n']} reports on sizes below n)"
        )
    return None


def checked(result: Any, where: str) -> dict[str, Any]:
    """Return what a result.json holds. Raises `UserError` where it is not what a run writes."""
    if not isinstance(result, dict):
        raise UserError(f"{where}: is damaged; delete it to run again")
    for key, kind in _NEEDED.items():
        if key not in result:
            raise UserError(
                f"{where}: does not say '{key}': another version of zerogen wrote it; delete it to run again"
            )
        if not isinstance(result[key], kind):
            raise UserError(f"{where}: {key}={result[key]!r} is not what a run writes; delete it to run again")
    figures = {name: value for name, value in result["metrics"].items() if name in MAIN}
    seconds = result.get("seconds", {})
    for key, values in (("metrics", figures), ("seconds", seconds)):
        if not isinstance(values, dict) or not all(type(value) in (int, float) for value in values.values()):
            raise UserError(f"{where}: {key}={result[key]!r} is not what a run writes; delete it to run again")
    return result


def asked_for(config: Config) -> dict[str, Any]:
    """Return what distinguishes runs that share a folder."""
    return setting_of(config).asked_for(config)


def evaluated_on(config: Config) -> str:
    """Name the gold source and split that a result is about."""
    source = config.task.gold_source or next(iter(config.task.gold))
    return f"{source}/{config.task.gold[source].evaluate_on}"


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(".trend.lock")):  # runs of different size share a folder
        points = read_trend(path)
        for n, metrics in trend:
            for metric, value in scalars(metrics).items():
                points[n, seed, metric] = value
        lines = [f"{n},{of},{metric},{value:.6f}" for (n, of, metric), value in sorted(points.items())]
        write_whole("\n".join(["n,seed,metric,value", *lines]) + "\n", path)


def add_line(path: Path, result: dict[str, Any], progress: Progress) -> None:
    """Add a run to results.csv; the line of an earlier run in the same folder with as many rows is replaced.

    A file that is not a table in UTF-8 is put aside, which is said.
    """
    line = {column: str(cell(result, column)) for column in COLUMNS}
    with FileLock(path.with_name(".results.lock")):
        rows: list[dict[str, str]] = []
        if path.is_file():
            try:
                with path.open(encoding="utf-8", newline="") as file:
                    rows = [{column: row.get(column) or "" for column in COLUMNS} for row in csv.DictReader(file)]
            except (UnicodeDecodeError, csv.Error) as error:
                aside = put_aside(path)
                progress.say(f"{path} was not a table in UTF-8 ({error}); it is now {aside}, and a new one begins")
        rows = [row for row in rows if (row["folder"], row["n_train"]) != (line["folder"], line["n_train"])]
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, line])
        write_whole(table.getvalue(), path)


def cell(result: dict[str, Any], column: str) -> Any:
    """Return a result's value for a column of results.csv; an empty string where it has none."""
    if column == "seconds":
        return round(sum(result["seconds"].values()), 1)
    if column in MAIN:
        value = result["metrics"].get(column)
        return "" if value is None else round(value, 4)
    return result[column]


def write_aggregate(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write mean and sample standard deviation over the seeds of one setting beside their folders; return them."""
    first = results[0]
    names = list(scalars(first["metrics"]))
    values = {name: [result["metrics"][name] for result in results] for name in names}
    seeds = [result["seed"] for result in results]
    aggregate = {
        **{key: first[key] for key in ("setting", "task", "plm", "tam", "n_train", "n_eval")},
        "seeds": seeds,
        "mean": {name: statistics.fmean(numbers) for name, numbers in values.items()},
        "standard_deviation": {
            name: statistics.stdev(numbers) if len(numbers) > 1 else None for name, numbers in values.items()
        },
        "folders": [result["folder"] for result in results],
    }
    runs = short_hash([Path(folder).name for folder in aggregate["folders"]])
    name = f"{first['setting']}_{first['plm']}_{first['tam']}_n{first['n_train']}_seeds_{runs}.json"
    path = Path(first["folder"]).parent / name
    write_whole(json.dumps(aggregate, indent=2) + "\n", path)
    return aggregate | {"path": str(path)}


def peak_memory_mb(run: Run) -> dict[str, int]:
    """Return the peak resident memory of this process, of the largest that wrote for it, and of the GPU, in MiB."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"cpu": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20}
    if len(run.devices) > 1:
        peak["writing process"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit >> 20
    if run.device.type == "cuda":
        import torch

        peak["gpu"] = torch.cuda.max_memory_allocated(run.device) >> 20
    return peak
