"""Metrics beside those of a kind of task: what is named is computed, and what cannot be computed is refused."""

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest

from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Answer, Example, Prediction
from zerogen.errors import UserError
from zerogen.metrics import METRICS, OF_KIND, Metric, evaluate, further_metrics, metric_of, rehearse, scalars

TASK = TaskConfig(name="toy", labels=["a", "b"])
ROWS = [Example("", "", label) for label in "aabb"]
GUESSES = [Prediction(label, {"a": 0.5, "b": 0.5}) for label in "abab"]
SURE = Metric("sure", "sureness", lambda rows, predictions, labels: predictions[0].probabilities[rows[0].label])
TWICE = Metric("sure", "sureness, again", SURE.compute)
NO_METRIC = 3


def named(attribute: str) -> str:
    return f"{__name__}:{attribute}"


def metric(compute: Callable[..., Any], **keys: Any) -> dict[str, Metric]:
    return {"own:m": Metric("m", "m", compute, **keys)}


def test_every_line_of_the_table_is_a_metric_of_that_name() -> None:
    assert {name: metric_of(name).name for name in METRICS} == {name: name for name in METRICS}
    for kind, names in OF_KIND.items():
        assert all(kind in metric_of(name).kinds for name in names)


def test_a_further_metric_comes_after_those_of_the_kind() -> None:
    further = further_metrics([named("SURE"), "accuracy", named("SURE")], "classification")
    assert list(further.values()) == [SURE]
    metrics = evaluate(TASK, ROWS, GUESSES, further)
    assert list(metrics) == ["accuracy", "macro_f1", "sure", "confusion"]
    assert scalars(metrics) == {"accuracy": 0.5, "macro_f1": 0.5, "sure": 0.5}
    assert {name: metrics[name] for name in metrics if name != "sure"} == evaluate(TASK, ROWS, GUESSES)


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        (["recall"], "pair", "metrics: 'recall' is unknown; allowed: accuracy, "),
        (["exact_match"], "pair", "metrics=exact_match: is for qa; this task is pair"),
        ([named("SURE")], "qa", "is for classification, pair; this task is qa"),
        ([named("NO_METRIC")], "pair", "NO_METRIC: is of type int; allowed is a zerogen.metrics.Metric"),
        ([named("SURE"), named("TWICE")], "pair", "TWICE: its name is 'sure'; allowed are letters"),
    ],
)
def test_what_cannot_be_computed_is_refused(names: list[str], kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        further_metrics(names, kind)


@pytest.mark.parametrize("value", [nan, inf])
def test_what_is_not_defined_is_none(value: float) -> None:
    metrics = evaluate(TASK, ROWS, GUESSES, metric(lambda *_: value))
    assert metrics["m"] is None
    assert "m" not in scalars(metrics)


def test_a_mistake_shows_before_any_training() -> None:
    rehearse(TASK, ROWS, metric(lambda rows, predictions, labels: predictions[0].probabilities["b"]))
    rehearse(TASK, [], metric(lambda rows, predictions, labels: rows[0]))  # nothing is evaluated
    with pytest.raises(UserError, match="metrics=own:m: failed with KeyError: 'c'"):
        rehearse(TASK, ROWS, metric(lambda rows, predictions, labels: predictions[0].probabilities["c"]))
    with pytest.raises(UserError, match="metrics=own:m: returned a value of type list; allowed is a number"):
        rehearse(TASK, ROWS, metric(lambda rows, predictions, labels: [1]))
    with pytest.raises(UserError, match="metrics=own:m: failed with TypeError"):
        rehearse(TASK, ROWS, metric(lambda *_: 1, interval=lambda rows: [0, 1]))
    asked = TaskConfig(name="ask", kind="qa", labels=["question"])
    question = Example("", "Who?", "question", "Ann.", answers=(Answer("Ann", 0),))
    length = metric(lambda rows, predictions, labels: float(len(predictions[0].text)))
    rehearse(asked, [question, Example("", "When?", "question", "Ann.")], length)


def test_a_metric_whose_code_is_not_here_still_has_a_name() -> None:
    assert metric_of("gone").title == "gone"
    with pytest.raises(LookupError):
        metric_of("gone").compute([], [], [])
