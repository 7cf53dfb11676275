"""Exact match and F1, against values worked out by hand from SQuAD's definition."""

from collections.abc import Sequence
from typing import Any

import pytest

from zerogen.config.task_schema import TaskConfig
from zerogen.data.overlap import exact_match, f1, normalise
from zerogen.data.records import Answer, AnswerPrediction, Example
from zerogen.metrics import evaluate


def squad_metrics(references: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, Any]:
    rows = [Example("", "", "question", answers=tuple(Answer(text, -1) for text in answers)) for answers in references]
    return evaluate(TaskConfig(kind="qa"), rows, [AnswerPrediction(text, -1, 1.0) for text in predicted])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Cat!", "cat"),
        ("a an the", ""),
        ("Anna the An-alyst", "anna analyst"),
        ("U.S.", "us"),
        ("  Théâtre\tnational ", "théâtre national"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation is dropped
        ("$3,000.50", "300050"),
        ("", ""),
    ],
)
def test_normalise(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


@pytest.mark.parametrize(
    ("predicted", "reference", "exact", "overlap"),
    [
        ("the Eiffel Tower", "Eiffel Tower.", 1.0, 1.0),
        ("Eiffel", "Eiffel Tower", 0.0, 2 / 3),
        ("in the tower of Paris", "Paris tower", 0.0, 2 * 0.5 * 1.0 / 1.5),
        ("to to to", "to be", 0.0, 2 * (1 / 3) * 0.5 / (1 / 3 + 0.5)),
        ("London", "Paris", 0.0, 0.0),
        ("", "Paris", 0.0, 0.0),
        ("the", "an", 1.0, 1.0),  # nothing is left of either
        ("ÉCOLE", "école", 1.0, 1.0),
    ],
)
def test_scores(predicted: str, reference: str, exact: float, overlap: float) -> None:
    assert exact_match(predicted, reference) == exact
    assert f1(predicted, reference) == pytest.approx(overlap)
    assert f1(reference, predicted) == pytest.approx(overlap)


def test_the_best_reference_counts_for_each_score() -> None:
    metrics = squad_metrics([["Paris", "the city of Paris"], ["1887"], []], ["city of Paris", "in 1887", ""])
    assert metrics["exact_match"] == pytest.approx((1 + 0 + 1) / 3)
    assert metrics["f1"] == pytest.approx((1 + 2 / 3 + 1) / 3)


def test_an_answer_where_there_is_none_is_wrong() -> None:
    assert squad_metrics([[]], ["Paris"]) == {"exact_match": 0.0, "f1": 0.0}


def test_no_rows_or_unequal_lengths_are_refused() -> None:
    for references, predicted in (([], []), ([["a"]], ["a", "b"])):
        with pytest.raises(ValueError, match="cannot compare"):
            squad_metrics(references, predicted)
