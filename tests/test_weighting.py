"""A linear head on frozen features finds the rows whose labels were flipped, and its gradients are what they claim."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import toy_rows
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.generation.select import needs, select
from zerogen.generation.weighting import (
    Floats,
    Indices,
    bilevel_weights,
    boosted_weights,
    curvature,
    disputed,
    fit_head,
    folds,
    helpful,
    out_of_fold,
    outer_gradient,
    outer_loss,
    probabilities,
)

TASK = TaskConfig(name="toy", labels=["bad", "good", "fair"])
NAMES = ["cross_fitted", "sungen", "fusegen"]


def clusters(count: int, seed: int, classes: int = 2, flipped: float = 0.3) -> tuple[Floats, Indices, Indices]:
    """Features [N, D + 1] of clusters, one for each class, their labels (some wrong), and the true ones."""
    random = np.random.default_rng(seed)
    true = np.arange(count) % classes
    features = random.normal(size=(count, 6))
    features[:, :classes] += 2.5 * np.eye(classes)[true]
    wrong = random.random(count) < flipped
    labels = np.where(wrong, (true + random.integers(1, classes, count)) % classes, true)
    return np.hstack([features - features.mean(0), np.ones((count, 1))]), labels, true


def weights_of(name: str, classes: int) -> tuple[Floats, Indices, Indices]:
    features, labels, true = clusters(300, 1, classes)
    if name == "fusegen":
        return boosted_weights(features, labels, classes), labels, true
    half = np.arange(300) < 150
    held = features[~half], labels[~half]
    return bilevel_weights(features[half], labels[half], *held, classes), labels[half], true[half]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["sungen", "fusegen"])
def test_clean_rows_weigh_more_than_flipped_ones(name: str, classes: int) -> None:
    weights, labels, true = weights_of(name, classes)
    assert weights[labels == true].mean() > 2 * weights[labels != true].mean()
    again, *_ = weights_of(name, classes)
    assert (weights == again).all()


def test_what_the_head_agrees_with_keeps_its_weight_relative_to_others() -> None:
    features, labels, _ = clusters(300, 1)
    weights = boosted_weights(features, labels, 2)
    assert weights.mean() == pytest.approx(1) and weights.min() > 0
    heaviest = np.isclose(weights, weights.max())
    assert 0.5 < heaviest.mean() < 1  # never found wrong
    # One round by hand: b^-(1 - p) where the head is wrong.
    found = probabilities(features, fit_head(features, labels, 2, np.ones(300)))
    own, base = found[np.arange(300), labels], 1 + np.sqrt(2 * np.log(300 / 30))
    first = np.where(found.argmax(1) == labels, 1.0, base ** -(1 - own))
    assert weights[first == 1].mean() > 1 > weights[first < 1].mean()


@pytest.mark.parametrize("classes", [2, 3])
def test_flipped_rows_are_disputed(classes: int) -> None:
    features, labels, true = clusters(300, 2, classes)
    found = disputed(out_of_fold(features, labels, classes, 0), labels)
    assert found[labels != true].mean() > 0.7 and found[labels == true].mean() < 0.2


def test_confident_learning_compares_with_the_mean_of_each_class() -> None:
    # The thresholds are 0.5 (mean of 0.9 and 0.1) and 0.7 (of 0.6 and 0.8).
    found = np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6], [0.2, 0.8]])
    assert disputed(found, np.array([0, 0, 1, 1])).tolist() == [False, True, False, False]
    assert not disputed(np.array([[0.4, 0.6], [0.3, 0.7]]), np.array([0, 0])).any()  # no row says what 1 looks like


def test_a_row_is_predicted_without_its_own_label() -> None:
    features, labels, _ = clusters(60, 3)
    before = out_of_fold(features, labels, 2, 0)
    fold_of = folds(labels, 5, 0)
    swapped = labels.copy()
    first = np.flatnonzero(fold_of == 0)
    swapped[first] = labels[first[::-1]]
    assert sorted(swapped) == sorted(labels) and (fold_of[labels == 0][:, None] == np.arange(5)).any(0).all()
    # With folds that stay as they were, those rows' own labels decide nothing about them.
    head = fit_head(features[fold_of != 0], labels[fold_of != 0], 2, np.ones(int((fold_of != 0).sum())))
    assert before[first] == pytest.approx(probabilities(features[first], head))


def test_the_head_is_where_its_loss_is_flat() -> None:
    features, labels, _ = clusters(80, 4, 3)
    weights = np.random.default_rng(5).random(80)
    head = fit_head(features, labels, 3, weights)

    def loss(at: Floats) -> float:
        own = probabilities(features, at)[np.arange(80), labels]
        return float(-(weights * np.log(own)).sum() / weights.sum() + (at**2).sum() / 160)

    direction = np.random.default_rng(6).normal(size=head.shape)
    assert (loss(head + 1e-4 * direction) - loss(head - 1e-4 * direction)) / 2e-4 == pytest.approx(0, abs=1e-6)
    bend = (loss(head + 1e-3 * direction) - 2 * loss(head) + loss(head - 1e-3 * direction)) / 1e-6
    product = curvature(features, probabilities(features, head), weights / weights.sum(), direction)
    assert (direction * product).sum() == pytest.approx(bend, rel=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_gradient_of_the_weights_is_a_finite_difference(classes: int) -> None:
    features, labels, _ = clusters(40, 7, classes)
    held, held_labels, _ = clusters(30, 8, classes)
    weights = np.random.default_rng(9).uniform(0.2, 1.0, 40)
    head = fit_head(features, labels, classes, weights)
    found = outer_gradient(features, labels, weights, head, held, held_labels)

    def outer(row: int, step: float) -> float:
        moved = weights.copy()
        moved[row] += step
        return outer_loss(fit_head(features, labels, classes, moved), held, held_labels)

    expected = [(outer(row, 1e-3) - outer(row, -1e-3)) / 2e-3 for row in range(40)]
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-6) and np.abs(found).max() > 1e-4


def noisy_rows(
    classes: int = 3,
) -> tuple[list[Example], dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]], set[str]]:
    features, labels, true = clusters(180, 10, classes)
    rows = [replace(row, label=TASK.labels[label]) for row, label in zip(toy_rows(180), labels.tolist(), strict=True)]
    vectors = {row.uid: vector for row, vector in zip(rows, features.astype(np.float32), strict=True)}
    return rows, vectors, {row.uid for row, right in zip(rows, labels == true, strict=True) if right}


@pytest.mark.parametrize("name", NAMES)
def test_by_name_the_best_rows_come_first(name: str) -> None:
    rows, vectors, right = noisy_rows()
    assert needs([name]) == {"embedding"}
    chosen = select([name], rows, TASK, vectors)
    for label in TASK.labels:
        own = [row.uid in right for row in chosen if row.label == label]
        assert np.mean(own[: len(own) // 2]) > 0.85  # of all rows 0.7 are right
    if name == "cross_fitted":
        assert len(chosen) < len(rows) and all(row.weight == 1 for row in chosen)
    else:
        assert len(chosen) == len(rows) and [row.weight for row in chosen] == sorted(r.weight for r in chosen)[::-1]
        halved = select([name], [replace(row, weight=0.5) for row in rows], TASK, vectors)
        assert [row.weight for row in halved] == pytest.approx([row.weight / 2 for row in chosen])


@pytest.mark.parametrize("name", NAMES)
def test_few_rows_of_a_label_are_no_obstacle(name: str) -> None:
    rows = [replace(row, label="fair") if i == 0 else row for i, row in enumerate(toy_rows(6))]
    vectors = {row.uid: np.eye(6, dtype=np.float32)[i] for i, row in enumerate(rows)}
    assert {row.label for row in select([name], rows, TASK, vectors)} == set(TASK.labels)


def nearest(rows: Sequence[Example], task: TaskConfig, embeddings: dict[str, Floats]) -> list[Example]:
    return sorted(rows, key=lambda row: float(embeddings[row.uid][0]))


nearest.needs = ("embedding",)  # type: ignore[attr-defined]


def test_a_function_of_ones_own_gets_the_vectors_that_it_needs() -> None:
    rows = toy_rows(4)
    task, vectors = (
        replace(TASK, labels=["bad", "good"]),
        {f"row-{i}": np.array([-i], dtype=np.float32) for i in range(4)},
    )
    name = ["tests.test_weighting:nearest"]
    assert [row.uid for row in select(name, rows, task, vectors)] == ["row-3", "row-2", "row-1", "row-0"]
    for lacking, uid in ((None, "row-0"), ({"row-0": vectors["row-0"]}, "row-1")):
        with pytest.raises(UserError, match=f"needs the score 'embedding', which row {uid} does not have"):
            select(name, rows, task, lacking)


def test_the_helpful_rows_of_a_label_are_seldom_wrong() -> None:
    features, labels, true = clusters(600, 4)
    task = TaskConfig(name="toy", labels=["bad", "good"])
    rows = [Example(str(i), "text", task.labels[label]) for i, label in enumerate(labels)]
    embeddings = {row.uid: vector[:-1].astype(np.float32) for row, vector in zip(rows, features, strict=True)}
    found = helpful(rows, task, embeddings)
    assert [row for row in rows if row in found] == found and len(found) == 100
    assert [row.label for row in found].count("bad") == 50
    wrong = [labels[int(row.uid)] != true[int(row.uid)] for row in found]
    assert (labels != true).mean() > 0.25 and np.mean(wrong) < 0.05
    few = [row for row in rows if row.label == "bad"][:9] + [row for row in rows if row.label == "good"][:3]
    assert helpful(few, task, embeddings) == few
