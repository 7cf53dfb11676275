"""How good predictions are, by the kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zerogen.config import TaskConfig
from zerogen.metrics.classification import classification_metrics
from zerogen.metrics.squad import squad_metrics
from zerogen.records import Example

MAIN = {"accuracy": "accuracy", "macro_f1": "F1", "exact_match": "exact match", "f1": "F1"}  # and what people call them


def evaluate(task: TaskConfig, rows: Sequence[Example], predictions: Sequence[Any]) -> dict[str, Any]:
    """Compare predictions with gold rows: accuracy, macro_f1 and confusion, or exact_match and f1, as shares of 1."""
    if task.kind == "qa":
        references = [[answer.text for answer in row.answers] for row in rows]
        return squad_metrics(references, [span.text for span in predictions])
    return classification_metrics(
        [row.label for row in rows], [prediction.label for prediction in predictions], task.labels
    )


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """Return those of the metrics that are numbers, the main one first."""
    return {name: metrics[name] for name in MAIN if name in metrics}
