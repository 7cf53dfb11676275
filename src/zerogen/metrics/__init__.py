"""How good predictions are on gold rows: the table of metrics, and which of them each kind of task reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat

from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import AnswerPrediction, Example, Prediction
from zerogen.errors import UserError
from zerogen.metrics.metric import Metric, Reported
from zerogen.support.doors import load

__all__ = ["METRICS", "OWN", "Metric", "Reported", "evaluate", "further_metrics", "metric_of", "rehearse", "scalars"]

# A line is all that a metric needs: the key `metrics` takes its name.
METRICS = {
    "accuracy": "zerogen.metrics.classification.ACCURACY",
    "macro_f1": "zerogen.metrics.classification.MACRO_F1",
    "exact_match": "zerogen.metrics.squad.EXACT_MATCH",
    "f1": "zerogen.metrics.squad.F1",
}
# What each kind of task is always reported by, the main one first.
OF_KIND = {
    "classification": ("accuracy", "macro_f1"),
    "pair": ("accuracy", "macro_f1"),
    "qa": ("exact_match", "f1"),
}
OWN = tuple(dict.fromkeys(name for names in OF_KIND.values() for name in names))
_TAKEN = ("confusion", "setting", "task", "plm", "tam", "seed", "n", "n_train", "n_eval", "seconds", "folder")


def evaluate(
    task: TaskConfig, rows: Sequence[Example], predictions: Sequence[Any], further: Mapping[str, Metric] | None = None
) -> dict[str, Any]:
    """Compare predictions with gold rows: accuracy, macro_f1 and confusion, or exact_match and f1, as shares of 1.

    further: metrics beside these, by what names them in the configuration; one that is not defined for these
    predictions is None. Raises ValueError for no rows or unequal lengths, `UserError` for a further metric that fails.
    """
    confusion = {}
    if task.kind != "qa":
        from zerogen.metrics.classification import confusion_matrix

        confusion = {"confusion": confusion_matrix(rows, predictions, task.labels)}
    own = [load("metrics", name, METRICS) for name in OF_KIND[task.kind]]
    values: dict[str, Any] = {one.name: one.compute(rows, predictions, task.labels) for one in own}
    for source, metric in (further or {}).items():
        value = _guarded(source, metric.compute, rows, predictions, task.labels)
        if not isinstance(value, SupportsFloat):
            raise UserError(f"metrics={source}: returned a value of type {type(value).__name__}; allowed is a number")
        values[metric.name] = float(value) if math.isfinite(value) else None
    return values | confusion


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return those of the metrics that are numbers, the main one first."""
    names = [*(name for name in OWN if name in metrics), *(name for name in metrics if name not in OWN)]
    return {name: metrics[name] for name in names if isinstance(metrics[name], (int, float))}


def further_metrics(names: Sequence[str], kind: str) -> dict[str, Metric]:
    """Return the metrics that are named beside those which a kind of task is always reported by.

    names: of the table, or a user's own `module:attribute`. Raises `UserError` for one that cannot be computed.
    """
    further: dict[str, Metric] = {}
    taken = {*_TAKEN, *OWN}
    for name in dict.fromkeys(names):
        if name in OF_KIND[kind]:
            continue
        metric = load("metrics", name, METRICS)
        if not isinstance(metric, Metric):
            raise UserError(f"metrics={name}: is of type {type(metric).__name__}; allowed is a zerogen.metrics.Metric")
        if kind not in metric.kinds:
            raise UserError(f"metrics={name}: is for {', '.join(metric.kinds)}; this task is {kind}")
        if not metric.name.isidentifier() or metric.name in taken:
            raise UserError(
                f"metrics={name}: its name is '{metric.name}'; allowed are letters, digits and '_', and none of "
                f"{', '.join(sorted(taken))}"
            )
        taken.add(metric.name)
        further[name] = metric
    return further


def rehearse(task: TaskConfig, rows: Sequence[Example], further: Mapping[str, Metric]) -> None:
    """Compute further metrics and their intervals as if every row were predicted right: a mistake shows at once.

    Raises `UserError` for a metric that fails, which would otherwise be seen after hours of training only.
    """
    if not rows or not further:
        return
    right: list[Any] = [
        AnswerPrediction(row.answers[0].text if row.answers else "", row.answers[0].start if row.answers else -1, 1.0)
        if task.kind == "qa"
        else Prediction(row.label, {label: float(label == row.label) for label in task.labels})
        for row in rows
    ]
    evaluate(task, rows, right, further)
    for source, metric in further.items():
        interval_of(source, metric, rows, right, task.labels)


def interval_of(
    source: str, metric: Metric, rows: Sequence[Example], predictions: Sequence[Any], labels: Sequence[str]
) -> list[float] | None:
    """Return the 95 % interval of a further metric, None where it has none. Raises `UserError` where that fails."""
    bounds = None if metric.interval is None else _guarded(source, metric.interval, rows, predictions, labels)
    return None if bounds is None else [float(bound) for bound in bounds]


def _guarded(source: str, compute: Callable[..., Any], *evaluated: Any) -> Any:
    try:
        return compute(*evaluated)
    except Exception as error:  # whatever the user's code raises
        raise UserError(f"metrics={source}: failed with {type(error).__name__}: {error}") from error


def metric_of(name: str, further: Mapping[str, Reported] | None = None) -> Metric:
    """Return a metric by the name that it has in results, to present it.

    further: what a result says of further metrics, whose code need not be on this machine.
    """
    if name in OWN:
        return load("metrics", name, METRICS)
    said = (further or {}).get(name)
    return Metric(name, said.title if said else name, _not_here, column=said.column if said else "")


def _not_here(*_: object) -> float:
    raise LookupError("only the title of this metric is known here")
