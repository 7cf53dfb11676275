"""What a run leaves in its folder: result.json, configuration, predictions, the dataset, the TAM."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from zerogen.config.keys import keys_of
from zerogen.config.schema import SERVER, Config
from zerogen.config.yaml_files import read_yaml, typed
from zerogen.data.records import Answer, AnswerPrediction, Example, Prediction
from zerogen.data.synthetic import export_rows, write_folder, write_jsonl
from zerogen.errors import UserError
from zerogen.generation.extractors import provenance
from zerogen.metrics import Metric, Reported, evaluate, interval_of
from zerogen.plm.protocol import cost_of
from zerogen.runs.result import Result
from zerogen.runs.run import Outcome, Run
from zerogen.runs.settings import setting_of
from zerogen.runs.summaries import add_line, write_trend
from zerogen.support.doors import fingerprint
from zerogen.support.files import require_folder, write_whole

CONFIG = "config.yaml"
PACKAGES = ("zerogen", "torch", "transformers", "datasets", "pytorch-lightning", "hydra-core")


def write_run(run: Run, outcome: Outcome) -> Result:
    """Write all files of a run into its folder and its line into results.csv; return what result.json holds.

    result.json is written last: where it is, the run is complete. Only one process at a time may write a run, whose
    folder must be there.
    """
    folder = run.folder()
    require_folder(folder)
    (folder / "result.json").unlink(missing_ok=True)
    write_config(run.config, folder)
    _write_files(run, outcome, folder)
    result = _result_of(run, outcome)
    result.write()
    shutil.rmtree(run.unfinished, ignore_errors=True)
    if not run.evaluator:
        add_line(Path(run.config.output_dir) / "results.csv", result, run.progress)
    return result


def write_config(config: Config, folder: Path) -> None:
    """Write config.yaml into a run folder."""
    write_whole(yaml.safe_dump(keys_of(config), sort_keys=False, allow_unicode=True), folder / CONFIG)


def read_config(folder: Path) -> Config:
    """Read the configuration of a run from its folder. Raises `UserError` for a file that holds none."""
    path = folder / CONFIG
    keys = read_yaml(path)
    if not isinstance(keys, dict) or "task" not in keys:
        raise UserError(f"{path}: holds no configuration of a run")
    return typed(keys, Config, str(path))


def _write_files(run: Run, outcome: Outcome, folder: Path) -> None:
    config = run.config
    if outcome.rows:
        write_jsonl(export_rows(outcome.rows, config.task), folder / f"{config.task.name}-dataset.jsonl")
        shutil.rmtree(folder / "dataset", ignore_errors=True)
        write_folder(outcome.rows, config.task, folder / "dataset")
    (folder / "pseudo-labels.jsonl").unlink(missing_ok=True)
    if outcome.pseudo_labelled:
        labelled = outcome.pseudo_labelled
        lines = (
            export_rows(labelled, config.task)
            if config.task.kind == "qa"
            else [{"C": row.context, "X": row.text, "label": row.label, "uid": row.uid} for row in labelled]
        )
        write_jsonl(lines, folder / "pseudo-labels.jsonl")
    if outcome.predictions:
        write_jsonl(
            [prediction_line(row, prediction) for row, prediction in zip(run.gold, outcome.predictions, strict=True)],
            folder / "predictions.jsonl",
        )
    if outcome.tam is not None and config.train:
        shutil.rmtree(folder / "tam", ignore_errors=True)
        outcome.tam.save(folder / "tam")
    if outcome.trend:
        write_trend(folder / "trend.csv", config.seed, outcome.trend)


def _result_of(run: Run, outcome: Outcome) -> Result:
    config = run.config
    plm, tam = run.names()
    further = run.further_metrics if outcome.predictions else {}
    return Result(
        setting=run.setting.name,
        task=config.task.name,
        plm=plm,
        tam=tam,
        weights=run.weights(),
        seed=config.seed,
        n_train=outcome.n_train,
        n_eval=len(outcome.predictions),
        evaluated_on=evaluated_on(config) if outcome.predictions else None,
        metrics=outcome.metrics,
        best_epoch=outcome.epoch,
        heldout_accuracy=outcome.heldout_accuracy,
        seconds={stage: round(seconds, 2) for stage, seconds in run.seconds.items()},
        tokens=outcome.tokens,
        requests=outcome.requests,
        cut=outcome.cut,
        rejects=outcome.rejects,
        blank=run.blank,
        answers=provenance(config.task.answers) if outcome.requests and config.task.kind == "qa" else None,
        peak_memory_mb=peak_memory_mb(run),
        versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        asked_for=asked_for(config),
        command=config.command,
        pool=str(run.pool_folder()) if outcome.requests else None,
        folder=run.folder(),
        evaluator=run.evaluator,
        selected_from=outcome.size if config.select or outcome.rounds else 0,
        rounds=outcome.rounds,
        gold_rows=len(few.train) if (few := run.few_gold) else 0,
        labels_alone=outcome.labels_alone,
        server=_server(run, outcome),
        own_setting=run.setting.record(),
        further_metrics=_reported(further, run.gold if further else (), outcome.predictions, config.task.labels),
    )


def _server(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Return what a server was asked for, whichever run asked for the rows; empty for a PLM in this process."""
    plm, usage = run.config.plm, {stage: dict(its) for stage, its in run.usage.items() if its}
    if plm.writer != SERVER or not usage:
        return {}
    said: dict[str, Any] = {"model": plm.model, "address": plm.base_url, "usage": usage}
    if models := sorted({row.model for row in outcome.rows if row.model}):
        said["answered_as"] = models
    if run.setting.name == "prompting" and run.config.task.kind != "qa":
        said["scoring"] = plm.scoring
    if (cost := cost_of(plm, usage.values())) is not None:
        said["cost"] = round(cost, 6)
    return said


def _reported(
    further: Mapping[str, Metric], rows: Sequence[Example], predictions: Sequence[Any], labels: Sequence[str]
) -> dict[str, Reported]:
    """Return what a result says of further metrics, so that pages need no code of the user's."""
    reported = {}
    for source, metric in further.items():
        interval = interval_of(source, metric, rows, predictions, labels)
        reported[metric.name] = Reported(fingerprint(source), metric.title, metric.column, interval)
    return reported


def metrics_to_add(run: Run, result: Result) -> dict[str, Metric]:
    """Return those of `metrics` that the result of a finished run does not say, by what names them."""
    if not result.n_eval:
        return {}
    before = {one.source for one in result.further_metrics.values()}
    return {name: one for name, one in run.further_metrics.items() if fingerprint(name) not in before}


def add_metrics(run: Run, result: Result) -> Result:
    """Return the result of a finished run with those of `metrics` that it does not say, and write both down.

    They are computed from predictions.jsonl; the trend has them at its last size only. Raises `UserError` where the
    predictions are not there.
    """
    further = metrics_to_add(run, result)
    if not further:
        return result
    folder, task = run.folder(), run.config.task
    read = read_predictions(folder / "predictions.jsonl")
    if read is None:
        raise UserError(
            f"metrics=[{','.join(further)}]: {folder} has no predictions.jsonl to compute them from; delete the folder "
            "to run again"
        )
    computed = evaluate(task, *read, further)
    metrics = result.metrics | {metric.name: computed[metric.name] for metric in further.values()}
    described = result.further_metrics | _reported(further, *read, task.labels)
    result = replace(result, metrics=metrics, further_metrics=described)
    if not result.rounds:  # after self-training, the predictions are of no point of the trend
        write_trend(folder / "trend.csv", result.seed, [(result.selected_from or result.n_train, metrics)])
    write_config(run.config, folder)
    result.write()
    return result


def prediction_line(row: Example, prediction: Prediction | AnswerPrediction) -> dict[str, Any]:
    """Return a line of predictions.jsonl: a gold row and what was predicted for it."""
    line: dict[str, Any] = {"uid": row.uid}
    if isinstance(prediction, AnswerPrediction):
        return line | {
            "question": row.text,
            "context": row.context,
            "answers": [answer.text for answer in row.answers],
            "prediction": prediction.text,
            "start": prediction.start,
            "probability": round(prediction.probability, 6),
        }
    return line | {
        "text": row.text,
        **({} if row.context is None else {"context": row.context}),
        "label": row.label,
        "prediction": prediction.label,
        "probabilities": {label: round(p, 6) for label, p in prediction.probabilities.items()},
    }


def read_predictions(path: Path) -> tuple[list[Example], list[Any]] | None:
    """Return the gold rows and the predictions of a predictions.jsonl; None where there is no file.

    The references of a question have no place in its context (-1). Raises `UserError` for a damaged file.
    """
    if not path.is_file():
        return None
    rows, predictions = list[Example](), list[Any]()
    with path.open(encoding="utf-8", newline="\n") as file:
        try:
            for line in map(json.loads, file):
                if "question" in line:
                    answers = tuple(Answer(text, -1) for text in line["answers"])
                    rows.append(Example(line["uid"], line["question"], "question", line["context"], answers=answers))
                    predictions.append(AnswerPrediction(line["prediction"], line["start"], line["probability"]))
                else:
                    rows.append(Example(line["uid"], line["text"], line["label"], line.get("context")))
                    predictions.append(Prediction(line["prediction"], line["probabilities"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path}:{len(rows) + 1}: is damaged; delete the run to run it again") from error
    return rows, predictions


def finished(run: Run) -> Result | None:
    """Return the result of an earlier run of the same configuration and size, None where there is none.

    Raises `UserError` where the folder holds a larger run, whose dataset and TAM would be lost, or a damaged result.
    """
    path = run.folder() / "result.json"
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged; delete it to run again") from error
    result = Result.of(said, str(path), run.folder())
    now, before = asked_for(run.config), result.asked_for
    if before == now:
        if "seconds" not in said:
            raise UserError(f"{path}: does not say 'seconds'; delete it to run again")
        return result
    larger = before.get("n") if isinstance(before, dict) else None
    if now["n"] and isinstance(larger, int) and larger > now["n"]:
        raise UserError(
            f"n={now['n']}: {run.folder()} holds a run of n={larger}, which this one would replace; delete it or set "
            f"another output_dir (log_every={now['n']} reports on sizes below n)"
        )
    return None


def asked_for(config: Config) -> dict[str, Any]:
    """Return what distinguishes runs that share a folder."""
    return setting_of(config).asked_for(config)


def evaluated_on(config: Config) -> str:
    """Name the gold source and split that a result is about."""
    source = config.task.gold_source or next(iter(config.task.gold))
    return f"{source}/{config.task.gold[source].evaluate_on}"


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
