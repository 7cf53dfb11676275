"""Accuracy, macro-F1 and the confusion matrix of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def classification_metrics(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Compare predicted with gold labels.

    Returns accuracy and macro_f1 as shares of 1 and confusion as {gold label: {predicted label: count}}. The F1 of a
    label is 2 TP / (2 TP + FP + FN), 0 where it is neither in the gold data nor predicted; macro_f1 is the plain mean
    over `labels`. Raises ValueError for no rows or unequal lengths.
    """
    if not gold or len(gold) != len(predicted):
        raise ValueError(f"cannot compare {len(gold)} gold labels with {len(predicted)} predicted ones")
    confusion = {row: dict.fromkeys(labels, 0) for row in labels}
    for row, column in zip(gold, predicted, strict=True):
        confusion[row][column] += 1
    f1 = []
    for label in labels:
        hits = confusion[label][label]
        in_gold = sum(confusion[label].values())
        in_predicted = sum(confusion[row][label] for row in labels)
        f1.append(2 * hits / (in_gold + in_predicted) if in_gold + in_predicted else 0.0)
    accuracy = sum(confusion[label][label] for label in labels) / len(gold)
    return {"accuracy": accuracy, "macro_f1": sum(f1) / len(f1), "confusion": confusion}


def macro_f1_interval(confusion: Sequence[Sequence[int]], draws: int = 2000) -> list[float] | None:
    """Return a 95 % interval of macro F1: percentiles over resampled rows (the bootstrap of Efron, 1979).

    confusion: counts by gold label and predicted label. Drawing rows with replacement draws its cells from a
    multinomial distribution; the draws are the same every time. None where they are all alike, of which the bootstrap
    can tell nothing: of predictions that are all right, say.
    """
    counts = np.asarray(confusion)
    rows = counts.sum()
    cells = np.random.default_rng(0).multinomial(rows, counts.ravel() / rows, draws).reshape(draws, *counts.shape)
    hits, of = cells.diagonal(axis1=1, axis2=2), cells.sum(1) + cells.sum(2)
    values = np.divide(2 * hits, of, out=np.zeros(hits.shape), where=of > 0).mean(1)
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)] if low < high else None
