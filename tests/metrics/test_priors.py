"""Predictions that are shifted to priors meet them; priors of texts are recovered from predictions."""

import numpy as np
import pytest

from zerogen.data.records import Prediction
from zerogen.metrics.priors import estimated_priors, log_scores, offsets, shifted


def predictions(count: int, labels: int, seed: int, bias: float = 2.0) -> list[Prediction]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, labels))
    logits[:, 0] += bias
    values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return [Prediction.of({f"l{i}": p for i, p in enumerate(row)}) for row in values.tolist()]


@pytest.mark.parametrize("priors", [[0.5, 0.5], [0.2, 0.8], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1], [1.0, 0.0]])
def test_each_label_wins_as_many_texts_as_its_prior_says(priors: list[float]) -> None:
    labels = [f"l{i}" for i in range(len(priors))]
    before = predictions(1000, len(priors), seed=1)
    shift = offsets(log_scores(before, labels), priors)
    after = shifted(before, dict(zip(labels, shift.tolist(), strict=True)))
    for label, prior in zip(labels, priors, strict=True):
        assert sum(one.label == label for one in after) == pytest.approx(1000 * prior, abs=1)
    assert all(sum(one.probabilities.values()) == pytest.approx(1) for one in after)


def test_two_labels_with_equal_priors_are_split_at_the_median() -> None:
    before = predictions(501, 2, seed=2)
    odds = log_scores(before, ["l0", "l1"]) @ [1, -1]
    first, second = offsets(log_scores(before, ["l0", "l1"]), [0.5, 0.5])
    assert second - first == pytest.approx(np.median(odds), abs=0.02)


def test_a_shift_keeps_the_order_of_texts() -> None:
    before = predictions(50, 2, seed=3)
    after = shifted(before, {"l0": -1.0, "l1": 1.0})
    order = sorted(range(50), key=lambda i: before[i].probabilities["l0"])
    assert order == sorted(range(50), key=lambda i: after[i].probabilities["l0"])
    same = shifted(before, {"l0": 0.0, "l1": 0.0})
    assert [one.probabilities for one in same] == [pytest.approx(one.probabilities) for one in before]


def test_priors_of_texts_are_recovered_from_a_calibrated_classifier() -> None:
    # Two unit normals two apart, trained on equal shares, then applied where one label is four times as frequent.
    random = np.random.default_rng(4)
    truth = random.random(20_000) < 0.8
    value = random.normal(size=20_000) + np.where(truth, 1.0, -1.0)
    second = 1 / (1 + np.exp(-2 * value))
    texts = [Prediction.of({"a": 1 - p, "b": p}) for p in second.tolist()]
    estimate, shift = estimated_priors(texts, ["a", "b"], [0.5, 0.5])
    assert estimate == pytest.approx([0.2, 0.8], abs=0.02)
    better = shifted(texts, dict(zip(["a", "b"], shift.tolist(), strict=True)))

    def accuracy(predicted: list[Prediction]) -> float:
        return float(np.mean([(one.label == "b") == is_b for one, is_b in zip(predicted, truth, strict=True)]))

    assert accuracy(better) > accuracy(texts) + 0.02
    assert second.mean() < 0.75  # which the mean of the probabilities does not tell


def test_a_probability_of_zero_is_finite() -> None:
    scores = log_scores([Prediction("a", {"a": 1.0, "b": 0.0})], ["a", "b"])
    assert np.isfinite(scores).all() and scores.sum() == pytest.approx(0)
