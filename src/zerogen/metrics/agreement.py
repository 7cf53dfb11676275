"""Whether synthetic rows have the label they were written for, according to an evaluator or the PLM."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from zerogen.data.overlap import exact_match, f1
from zerogen.data.records import AnswerPrediction, Example, Prediction
from zerogen.metrics.intervals import mean, wilson_interval


def agreement(row: Example, found: Prediction | AnswerPrediction) -> tuple[float, float]:
    """Return how far an evaluator agrees with a row, and how probable it finds the row's label, both from 0 to 1.

    Of questions it is the F1 of its answer against the row's, and the same again where it would answer otherwise: a
    reader gives no probability of somebody else's answer.
    """
    if isinstance(found, AnswerPrediction):
        overlap = max((f1(found.text, answer.text) for answer in row.answers), default=float(not found.text))
        return overlap, overlap
    return float(found.label == row.label), found.probabilities[row.label]


def correctness(rows: Sequence[Example], predictions: Sequence[Any], labels: Sequence[str]) -> dict[str, Any]:
    """Compare the labels of rows with an evaluator's predictions.

    Returns overall and per label {rows, share, interval}; of questions exact_match and f1 instead.
    """
    if isinstance(predictions[0], AnswerPrediction):
        pairs = [
            (found.text, [answer.text for answer in row.answers] or [""])
            for row, found in zip(rows, predictions, strict=True)
        ]
        return {
            name: mean([max(score(text, answer) for answer in answers) for text, answers in pairs])
            for name, score in (("exact_match", exact_match), ("f1", f1))
        }
    right = [row.label == found.label for row, found in zip(rows, predictions, strict=True)]
    by_label = {label: [same for row, same in zip(rows, right, strict=True) if row.label == label] for label in labels}
    return {
        "overall": wilson_interval(sum(right), len(right)),
        "labels": {label: wilson_interval(sum(same), len(same)) for label, same in by_label.items() if same},
    }


def quarters(confidence: Sequence[float], right: Sequence[float] | None) -> list[dict[str, Any]]:
    """Cut rows into four equal parts by confidence, the least confident first.

    Returns rows, the range of their confidence and its mean, and where `right` is known its mean and 95 % interval.
    """
    order = np.argsort(confidence, kind="stable")
    parts = []
    for part in np.array_split(order, min(4, len(order))):
        values = [confidence[i] for i in part]
        parts.append(
            {"rows": len(part), "from": min(values), "to": max(values), "confidence": statistics.fmean(values)}
            | ({"right": mean([right[i] for i in part])} if right is not None else {})
        )
    return parts


def calibrate(confidence: Sequence[float], right: Sequence[float]) -> tuple[float, float]:
    """Return (slope, intercept) for the log-odds of a confidence such that it says how often rows are right.

    Logistic regression on the log-odds (Platt, 1999), with his targets, which keep a perfect separation finite. right:
    0 to 1 for each row. (1, 0) leaves a confidence as it is.
    """
    from scipy.optimize import minimize

    x, y = log_odds(confidence), np.asarray(right, dtype=float)
    positive, negative = y.sum(), (1 - y).sum()
    target = y * (positive + 1) / (positive + 2) + (1 - y) / (negative + 2)

    def loss(line: Any) -> Any:
        z = line[0] * x + line[1]
        error = 1 / (1 + np.exp(-z)) - target
        return (np.logaddexp(0, z) - target * z).mean(), np.array([(error * x).mean(), error.mean()])

    slope, intercept = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B").x
    return float(slope), float(intercept)


def calibrated(confidence: Sequence[float], line: tuple[float, float]) -> list[float]:
    """Return confidences with their log-odds moved by (slope, intercept)."""
    return [float(value) for value in 1 / (1 + np.exp(-(line[0] * log_odds(confidence) + line[1])))]


def log_odds(probabilities: Sequence[float]) -> Any:
    """Return log(p / (1 - p)) of probabilities, at most 20 from 0. [N]"""
    p = np.clip(np.asarray(probabilities, dtype=float), math.exp(-20), 1 - math.exp(-20))
    return np.log(p) - np.log1p(-p)
