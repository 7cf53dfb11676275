"""A metric of your own: the Matthews correlation, 0 for guesses, 1 (shown as 100 %) if all predictions are right.

    cd examples/own_metric
    python -m zerogen experiment=demo setting=supervised 'metrics=["matthews:MATTHEWS"]'

A run that is already finished is not trained again: the metric is computed from the run's predictions.
"""

from collections.abc import Sequence
from math import nan, sqrt

from zerogen import Example, Prediction
from zerogen.metrics import Metric


def matthews(rows: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]) -> float:
    """Return the correlation of gold and predicted labels, nan where one of them never changes (Gorodkin, 2004)."""
    gold, predicted = [row.label for row in rows], [prediction.label for prediction in predictions]
    hits = sum(ours == theirs for ours, theirs in zip(gold, predicted, strict=True))
    counts = [(gold.count(label), predicted.count(label)) for label in labels]
    spread = sqrt(len(rows) ** 2 - sum(n * n for n, _ in counts)) * sqrt(len(rows) ** 2 - sum(n * n for _, n in counts))
    return (hits * len(rows) - sum(ours * theirs for ours, theirs in counts)) / spread if spread else nan


MATTHEWS = Metric("matthews", "Matthews correlation", matthews, column="MCC")
