"""Accuracy, macro F1 and the confusion matrix of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from zerogen.data.records import Example, Prediction
from zerogen.metrics.intervals import wilson_interval
from zerogen.metrics.metric import Metric


def confusion_matrix(
    rows: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count rows by gold label and predicted label. Raises ValueError for no rows or unequal lengths."""
    if not rows or len(rows) != len(predictions):
        raise ValueError(f"cannot compare {len(rows)} gold labels with {len(predictions)} predicted ones")
    confusion = {label: dict.fromkeys(labels, 0) for label in labels}
    for row, prediction in zip(rows, predictions, strict=True):
        confusion[row.label][prediction.label] += 1
    return confusion


def accuracy(rows: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]) -> float:
    """Return the share of rows whose label is predicted."""
    return _hits(rows, predictions) / len(rows)


def macro_f1(rows: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]) -> float:
    """Return the plain mean of F1 over the labels.

    The F1 of a label is 2 TP / (2 TP + FP + FN), 0 where it is neither in the gold data nor predicted.
    """
    confusion = confusion_matrix(rows, predictions, labels)
    f1 = []
    for label in labels:
        in_gold = sum(confusion[label].values())
        in_predicted = sum(confusion[row][label] for row in labels)
        f1.append(2 * confusion[label][label] / (in_gold + in_predicted) if in_gold + in_predicted else 0.0)
    return sum(f1) / len(f1)


def accuracy_interval(rows: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]) -> list[float]:
    """Return Wilson's 95 % interval of the accuracy."""
    interval: list[float] = wilson_interval(_hits(rows, predictions), len(rows))["interval"]
    return interval


def macro_f1_interval(
    rows: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str], draws: int = 2000
) -> list[float] | None:
    """Return a 95 % interval of macro F1: percentiles over resampled rows (the bootstrap of Efron, 1979).

    Drawing rows with replacement draws the cells of the confusion matrix from a multinomial distribution; the draws
    are the same every time. None where they are all alike, of which the bootstrap can tell nothing: of predictions
    that are all right, say.
    """
    counts = np.array([list(row.values()) for row in confusion_matrix(rows, predictions, labels).values()])
    # Of many labels most cells are empty; the last one takes what the draws before it leave.
    used = np.union1d(np.flatnonzero(counts), counts.size - 1)
    gold, predicted = np.divmod(used, len(labels))
    cells = np.random.default_rng(0).multinomial(len(rows), counts.ravel()[used] / len(rows), draws)  # [draws, used]
    one = np.eye(len(labels))
    hits = cells @ (one[gold] * (gold == predicted)[:, None])  # [draws, labels]
    of = cells @ (one[gold] + one[predicted])
    values = np.divide(2 * hits, of, out=np.zeros(hits.shape), where=of > 0).mean(1)
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)] if low < high else None


def _hits(rows: Sequence[Example], predictions: Sequence[Prediction]) -> int:
    return sum(row.label == prediction.label for row, prediction in zip(rows, predictions, strict=True))


ACCURACY = Metric("accuracy", "accuracy", accuracy, accuracy_interval)
MACRO_F1 = Metric("macro_f1", "F1", macro_f1, macro_f1_interval, full_title="macro F1", hub="f1", in_tables=False)


def majority(confusion: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Return accuracy and macro F1 of always predicting the most frequent gold label, as shares of 1.

    confusion: {gold label: {predicted label: count}}, of whatever predictions.
    """
    counts = {label: sum(row.values()) for label, row in confusion.items()}
    share = max(counts.values()) / sum(counts.values())
    return {"accuracy": share, "macro_f1": 2 * share / (1 + share) / len(counts)}
