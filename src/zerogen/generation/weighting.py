"""Selections by a linear head on frozen embeddings of rows: labels that it disputes, weights that it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example, derive

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Embeddings = Mapping[str, NDArray[np.float32]]
"""The vector of each row, float32 [D], by its uid."""

_SEED = 0  # of the folds: another seed of a run has other rows, or the same in another order
_FOLDS = 5
_STEPS, _RATE = 100, 0.25  # of Adam, over the weights' logits
_DECAYS, _TINY = (0.9, 0.999), 1e-8  # of Adam
_ROUNDS = 5
_MOST_HELPFUL, _FEWEST = 50, 4
_FUSEGEN_ROUNDS = 30  # by which its formula divides the number of rows


def cross_fitted(rows: Sequence[Example], task: TaskConfig, embeddings: Embeddings) -> list[Example]:
    """Drop rows whose label heads that were not trained on them dispute; rank the others by their own label's share.

    Confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068), with five folds. A label of which all
    rows are disputed keeps them.
    """
    features, labels = _arrays(rows, task, embeddings)
    probabilities = out_of_fold(features, labels, len(task.labels), _SEED)
    doubtful = disputed(probabilities, labels)
    for label in range(len(task.labels)):
        doubtful[labels == label] &= not doubtful[labels == label].all()  # without any row it could not be learned
    return [rows[i] for i in np.argsort(-_own(probabilities, labels), kind="stable") if not doubtful[i]]


def sungen(rows: Sequence[Example], task: TaskConfig, embeddings: Embeddings) -> list[Example]:
    """Weigh rows by how much they help a head to be right about held-out rows; the heaviest come first.

    As in SunGen (Gao et al. 2023, https://arxiv.org/abs/2205.12679), see `bilevel_weights`: each half of the rows is
    held out while the other is weighed. Their weights are 1 on average, since only their proportions mean something.
    """
    features, labels = _arrays(rows, task, embeddings)
    weights = np.ones(len(rows))
    halves = folds(labels, 2, _SEED)
    for half in (halves == 0, halves == 1):
        found = bilevel_weights(features[half], labels[half], features[~half], labels[~half], len(task.labels))
        weights[half] = found / found.mean()
    return _weighed(rows, weights)


def fusegen(rows: Sequence[Example], task: TaskConfig, embeddings: Embeddings) -> list[Example]:
    """Weigh rows down that a head is wrong about; the heaviest come first. See `boosted_weights`."""
    features, labels = _arrays(rows, task, embeddings)
    return _weighed(rows, boosted_weights(features, labels, len(task.labels)))


def helpful(rows: Sequence[Example], task: TaskConfig, embeddings: Embeddings) -> list[Example]:
    """Return the 50 rows of each label that help a head most to be right about the other half of the rows, in order.

    A row helps by its influence, what its weight does to the loss of held-out rows (`outer_gradient`), where ProGen (Ye
    et al. 2022, https://arxiv.org/abs/2210.12329) approximates that of the whole model. All rows where a label has
    fewer than 4.
    """
    features, labels = _arrays(rows, task, embeddings)
    classes = len(task.labels)
    if np.bincount(labels, minlength=classes).min() < _FEWEST:
        return list(rows)
    harm = np.zeros(len(rows))
    halves = folds(labels, 2, _SEED)
    for half in (halves == 0, halves == 1):
        weights = np.ones(int(half.sum()))
        head = fit_head(features[half], labels[half], classes, weights)
        harm[half] = outer_gradient(features[half], labels[half], weights, head, features[~half], labels[~half])
    best: list[int] = []
    for label in range(classes):
        places = np.flatnonzero(labels == label)
        best += places[np.argsort(harm[places], kind="stable")][:_MOST_HELPFUL].tolist()
    return [rows[place] for place in sorted(best)]


for _selection in (cross_fitted, sungen, fusegen):
    _selection.needs = ("embedding",)  # type: ignore[attr-defined]


def fit_head(features: Floats, labels: Indices, classes: int, weights: Floats, start: Floats | None = None) -> Floats:
    """Return the linear head [D, C] that minimises sum(w l) / sum(w) + |head|^2 / 2N.

    l: cross-entropy of each of the N rows, w: weights [N]. features: [N, D], a constant one among them for a bias.
    start: where to begin, which changes only how long it takes.
    """
    from scipy.optimize import minimize

    shape = (features.shape[1], classes)
    shares, targets, ridge = weights / weights.sum(), np.eye(classes)[labels], 1 / len(labels)

    def loss(flat: Floats) -> tuple[float, Floats]:
        head = flat.reshape(shape)
        found = probabilities(features, head)
        own = np.log(np.maximum(_own(found, labels), 1e-300))
        gradient = features.T @ (shares[:, None] * (found - targets)) + ridge * head
        return float(ridge / 2 * flat @ flat - shares @ own), gradient.ravel()

    def hessian_product(flat: Floats, vector: Floats) -> Floats:
        return curvature(features, probabilities(features, flat.reshape(shape)), shares, vector.reshape(shape)).ravel()

    begin = np.zeros(shape) if start is None else start
    found = minimize(loss, begin.ravel(), jac=True, hessp=hessian_product, method="trust-ncg", options={"gtol": 1e-8})
    return found.x.reshape(shape)


def probabilities(features: Floats, head: Floats) -> Floats:
    """Return the probability of each class, [N, C], of a head [D, C] for features [N, D]."""
    logits = features @ head
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def curvature(features: Floats, probabilities: Floats, shares: Floats, vector: Floats) -> Floats:
    """Return the product of a vector, [D, C], with the Hessian of what `fit_head` minimises, [D, C].

    probabilities: the head's, [N, C]. shares: the weights divided by their sum, [N].
    """
    moved = features @ vector  # [N, C], how far the logits move
    moved = probabilities * (moved - (probabilities * moved).sum(1, keepdims=True))
    return features.T @ (shares[:, None] * moved) + vector / len(features)


def folds(labels: Indices, count: int, seed: int) -> Indices:
    """Return the number of the fold of each row, [N], drawn by a seed; each holds the labels in proportion."""
    found = np.empty(len(labels), dtype=np.int64)
    begin = 0  # so that labels with few rows do not all begin in the first fold
    for label in range(int(labels.max(initial=-1)) + 1):
        places = np.flatnonzero(labels == label).tolist()
        Random(derive(seed, "folds", label)).shuffle(places)
        found[places] = (begin + np.arange(len(places))) % count
        begin += len(places)
    return found


def out_of_fold(features: Floats, labels: Indices, classes: int, seed: int) -> Floats:
    """Return the probability of each class, [N, C], by a head that was trained on the other four folds."""
    found = np.full((len(labels), classes), 1 / classes)
    fold_of = folds(labels, _FOLDS, seed)
    for fold in range(_FOLDS):
        held = fold_of == fold
        if 0 < held.sum() < len(labels):
            head = fit_head(features[~held], labels[~held], classes, np.ones(int((~held).sum())))
            found[held] = probabilities(features[held], head)
    return found


def disputed(probabilities: Floats, labels: Indices) -> NDArray[np.bool_]:
    """Tell which rows, [N], confident learning counts as rows of another class; probabilities: out of fold, [N, C].

    A row may be of the classes whose probability reaches the mean that the class has in the rows labelled so; it counts
    as of the most probable one of them.
    """
    classes = probabilities.shape[1]
    own = _own(probabilities, labels)
    # A class without rows, whose threshold nothing reaches, disputes none.
    thresholds = [own[labels == label].mean() if (labels == label).any() else math.inf for label in range(classes)]
    possible = np.where(probabilities >= thresholds, probabilities, -1.0)
    return (possible.max(1) >= 0) & (possible.argmax(1) != labels)


def bilevel_weights(features: Floats, labels: Indices, held: Floats, held_labels: Indices, classes: int) -> Floats:
    """Return a weight from 0 to 1 for each row, [N], such that a head trained with them is right about held-out rows.

    Inner loss: weighted cross-entropy of the head (`fit_head`); outer loss: reverse cross-entropy on the held-out rows,
    which noise in their labels misleads less. The weights are sigmoids, moved by 100 steps of Adam at 0.25, decayed as
    a cosine.
    """
    logits, head = np.zeros(len(labels)), None
    mean, square = np.zeros(len(labels)), np.zeros(len(labels))
    for step in range(_STEPS):
        weights = 1 / (1 + np.exp(-logits))
        head = fit_head(features, labels, classes, weights, head)
        slope = outer_gradient(features, labels, weights, head, held, held_labels) * weights * (1 - weights)
        mean, square = (
            decay * old + (1 - decay) * new
            for decay, old, new in zip(_DECAYS, (mean, square), (slope, slope**2), strict=True)
        )
        unbiased = [value / (1 - decay ** (step + 1)) for decay, value in zip(_DECAYS, (mean, square), strict=True)]
        rate = _RATE * (1 + math.cos(math.pi * step / _STEPS)) / 2
        logits -= rate * unbiased[0] / (np.sqrt(unbiased[1]) + _TINY)
    return 1 / (1 + np.exp(-logits))


def outer_loss(head: Floats, held: Floats, held_labels: Indices) -> float:
    """Return the mean of 1 - p of the rows' own labels: reverse cross-entropy up to a factor."""
    return float(1 - _own(probabilities(held, head), held_labels).mean())


def outer_gradient(
    features: Floats, labels: Indices, weights: Floats, head: Floats, held: Floats, held_labels: Indices
) -> Floats:
    """Return the gradient of `outer_loss` of the head that `fit_head` finds, [N], by the weights of the rows.

    By the implicit function theorem: where the inner gradient is zero, moving a weight moves the head by minus the
    inverse Hessian times what that adds to the inner gradient. head: the one found with these weights.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    found, found_held = probabilities(features, head), probabilities(held, head)
    own = _own(found_held, held_labels)[:, None]
    outer = held.T @ (own * (found_held - np.eye(head.shape[1])[held_labels])) / len(held)
    shares = weights / weights.sum()

    def product(vector: Any) -> Floats:
        return curvature(features, found, shares, vector.reshape(head.shape)).ravel()

    hessian = LinearOperator((head.size, head.size), matvec=product, dtype=np.float64)
    solved, _ = cg(hessian, outer.ravel(), rtol=1e-8)
    # Each row's gradient is the outer product of its features with its errors; here is its product with the solution.
    each = ((features @ solved.reshape(head.shape)) * (found - np.eye(head.shape[1])[labels])).sum(1)
    return -(each - shares @ each) / weights.sum()  # the mean is weighted: a weight takes from the share of the others


def boosted_weights(features: Floats, labels: Indices, classes: int) -> Floats:
    """Return a weight for each row, [N], 1 on average: w b^-(1 - p) where a head is wrong, p its share of the label.

    FuseGen (Zou et al. 2024, https://arxiv.org/abs/2406.12527), with b = 1 + sqrt(max(1, 2 ln(N / 30))); five times, a
    head being trained with the weights so far.
    """
    weights, head = np.ones(len(labels)), None
    base = 1 + math.sqrt(max(1.0, 2 * math.log(len(labels) / _FUSEGEN_ROUNDS)))
    for _ in range(_ROUNDS):
        head = fit_head(features, labels, classes, weights, head)
        found = probabilities(features, head)
        weights = weights * np.where(found.argmax(1) == labels, 1.0, base ** (_own(found, labels) - 1))
        weights *= len(labels) / weights.sum()
    return weights


def _own(probabilities: Floats, labels: Indices) -> Floats:
    """Return the probability of each row's label, [N]."""
    return probabilities[np.arange(len(labels)), labels]


def _arrays(rows: Sequence[Example], task: TaskConfig, embeddings: Embeddings) -> tuple[Floats, Indices]:
    """Return centred features with a constant one, [N, D + 1], and labels [N]."""
    vectors = np.stack([embeddings[row.uid] for row in rows]).astype(np.float64)
    features = np.hstack([vectors - vectors.mean(0), np.ones((len(rows), 1))])
    return features, np.array([task.labels.index(row.label) for row in rows])


def _weighed(rows: Sequence[Example], weights: Floats) -> list[Example]:
    """Multiply the weights of rows, and put the heaviest first."""
    weighed = [replace(row, weight=row.weight * float(weight)) for row, weight in zip(rows, weights, strict=True)]
    return sorted(weighed, key=lambda row: -row.weight)
