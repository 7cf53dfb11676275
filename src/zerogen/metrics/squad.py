"""Exact match and F1 of extractive question answering, as SQuAD defines them (Rajpurkar et al., 2016)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zerogen.data.overlap import exact_match, f1
from zerogen.data.records import AnswerPrediction, Example
from zerogen.metrics.intervals import mean
from zerogen.metrics.metric import Metric


def best_scores(
    score: Callable[[str, str], float], rows: Sequence[Example], predictions: Sequence[AnswerPrediction]
) -> list[float]:
    """Return the score of each predicted answer against the best of its row's references.

    A question without references has none to find: an empty prediction is right. Raises ValueError for no rows or
    unequal lengths.
    """
    if not rows or len(rows) != len(predictions):
        raise ValueError(f"cannot compare {len(rows)} gold rows with {len(predictions)} predictions")
    return [
        max(score(prediction.text, reference) for reference in [answer.text for answer in row.answers] or [""])
        for row, prediction in zip(rows, predictions, strict=True)
    ]


def _metric(name: str, title: str, score: Callable[[str, str], float], column: str) -> Metric:
    """Return the metric that is the mean of a score over rows."""

    def compute(rows: Sequence[Example], predictions: Sequence[AnswerPrediction], labels: Sequence[str]) -> float:
        best = best_scores(score, rows, predictions)
        return sum(best) / len(best)

    def interval(
        rows: Sequence[Example], predictions: Sequence[AnswerPrediction], labels: Sequence[str]
    ) -> list[float]:
        bounds: list[float] = mean(best_scores(score, rows, predictions))["interval"]
        return bounds

    return Metric(name, title, compute, interval, kinds=("qa",), column=column)


EXACT_MATCH = _metric("exact_match", "exact match", exact_match, "EM")
F1 = _metric("f1", "F1", f1, "F1")
