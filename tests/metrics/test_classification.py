import tracemalloc
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example, Prediction
from zerogen.metrics import evaluate
from zerogen.metrics.classification import accuracy, confusion_matrix, macro_f1, macro_f1_interval, majority

LABELS = ["a", "b", "c"]


def records(gold: Sequence[str], predicted: Sequence[str]) -> tuple[list[Example], list[Prediction]]:
    return [Example("", "", label) for label in gold], [Prediction(label, {}) for label in predicted]


def classification_metrics(gold: Sequence[str], predicted: Sequence[str], labels: list[str]) -> dict[str, Any]:
    return evaluate(TaskConfig(labels=labels), *records(gold, predicted))


def test_numbers_by_hand() -> None:
    found = classification_metrics(["a", "a", "a", "b"], ["a", "a", "b", "b"], ["a", "b"])
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found["confusion"] == {"a": {"a": 2, "b": 1}, "b": {"a": 0, "b": 1}}


@pytest.mark.parametrize("seed", range(5))
def test_the_same_as_torchmetrics(seed: int) -> None:
    random = Random(seed)
    gold, predicted = random.choices(range(3), k=200), random.choices(range(3), weights=[3, 1, 1], k=200)
    found = classification_metrics([LABELS[i] for i in gold], [LABELS[i] for i in predicted], LABELS)
    tensors = torch.tensor(predicted), torch.tensor(gold)
    assert found["accuracy"] == pytest.approx(float(multiclass_accuracy(*tensors, 3, average="micro")), abs=1e-6)
    assert found["macro_f1"] == pytest.approx(float(multiclass_f1_score(*tensors, 3, average="macro")), abs=1e-6)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 gold labels"):
        classification_metrics([], [], LABELS)


def test_the_interval_is_that_of_resampled_rows() -> None:
    random = Random(3)
    gold = random.choices(LABELS, weights=[6, 3, 1], k=300)
    predicted = [label if random.random() < 0.7 else random.choice(LABELS) for label in gold]
    metrics = classification_metrics(gold, predicted, LABELS)
    rows, values = list(zip(gold, predicted, strict=True)), []
    for _ in range(2000):
        drawn = random.choices(rows, k=len(rows))
        drawn_gold, drawn_predicted = zip(*drawn, strict=True)
        values.append(classification_metrics(drawn_gold, drawn_predicted, LABELS)["macro_f1"])
    values.sort()
    interval = macro_f1_interval(*records(gold, predicted), LABELS)
    assert interval is not None
    low, high = interval
    assert low < metrics["macro_f1"] < high
    assert low == pytest.approx(values[50], abs=0.01)
    assert high == pytest.approx(values[-50], abs=0.01)


def test_predictions_that_are_all_right_have_no_interval() -> None:
    assert macro_f1_interval(*records("a" * 9, "a" * 9), ["a", "b"]) is None


def test_the_most_frequent_label_is_a_baseline() -> None:
    rows = [Example(str(i), "", "abc"[min(i // 5, 2)]) for i in range(30)]  # c has 20 of 30
    always = [Prediction("c", {}) for _ in rows]
    confusion = confusion_matrix(rows, [Prediction("a", {}) for _ in rows], ["a", "b", "c"])
    assert majority(confusion)["accuracy"] == pytest.approx(accuracy(rows, always, ["a", "b", "c"]))
    assert majority(confusion)["macro_f1"] == pytest.approx(macro_f1(rows, always, ["a", "b", "c"]))


def test_an_interval_over_hundreds_of_labels_takes_little_memory() -> None:
    labels = [str(place) for place in range(500)]
    rows = [Example(str(place), "", str(place % 500)) for place in range(1000)]
    predictions = [Prediction(str(place % 490), {}) for place in range(1000)]
    tracemalloc.start()
    try:
        interval = macro_f1_interval(rows, predictions, labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert interval is not None and 0.2 < interval[0] < interval[1] < 1
    assert peak < 500 << 20  # all cells of all draws would be 4 GB
