"""Class priors: shift the scores of texts so that predictions meet them, or estimate them from predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zerogen.data.records import Prediction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]

_SWEEPS = 100
_ITERATIONS = 1000
_SMALLEST = 1e-300  # a probability whose logarithm is finite


def log_scores(predictions: Sequence[Prediction], labels: Sequence[str]) -> Scores:
    """Return log-probabilities [N, L], less the mean of each row."""
    import numpy as np

    values = np.array([[one.probabilities[label] for label in labels] for one in predictions])
    scores = np.log(np.maximum(values, _SMALLEST)).reshape(len(predictions), len(labels))
    centred: Scores = scores - scores.mean(axis=1, keepdims=True)
    return centred


def offsets(scores: Scores, priors: Sequence[float]) -> Scores:
    """Return what to add to the scores [N, L] of each label, [L], so that the share of texts it wins is its prior.

    For two labels and equal priors that is a threshold at the median. Ties aside, shares are met exactly for two
    labels; for more, labels take turns until no share is off by more than a text, for at most 100 turns.
    """
    import numpy as np

    shift = np.zeros(scores.shape[1])
    counts = np.asarray(priors) * len(scores)
    for _ in range(_SWEEPS):
        for label in range(len(shift)):
            others = np.delete(scores + shift, label, axis=1).max(axis=1)
            gaps = np.sort(others - scores[:, label])  # the label wins a text where its offset exceeds the gap
            wins = round(counts[label])
            lower = gaps[wins - 1] if wins else gaps[0] - 1
            upper = gaps[wins] if wins < len(gaps) else gaps[-1] + 1
            shift[label] = (lower + upper) / 2
        shift -= shift.mean()
        won = np.bincount((scores + shift).argmax(axis=1), minlength=len(shift))
        if np.abs(won - counts).max() <= 1:
            break
    return shift


def estimated_priors(
    predictions: Sequence[Prediction], labels: Sequence[str], priors: Sequence[float]
) -> tuple[list[float], Scores]:
    """Estimate how frequent labels are among texts; return the shares, and what to add to log-probabilities for them.

    priors: the shares of labels that the probabilities stand for. Expectation maximisation as in Saerens et al. (2002,
    https://doi.org/10.1162/089976602753284446): probabilities are reweighted by estimated over trained priors, and
    their mean is the next estimate, until it changes by less than 1e-6.
    """
    import numpy as np

    probabilities = np.array([[one.probabilities[label] for label in labels] for one in predictions])
    trained, estimate = np.asarray(priors, dtype=float), np.asarray(priors, dtype=float)
    for _ in range(_ITERATIONS):
        weighted = probabilities * (estimate / trained)
        update = (weighted / weighted.sum(axis=1, keepdims=True)).mean(axis=0)
        change = np.abs(update - estimate).max()
        estimate = update
        if change < 1e-6:
            break
    return estimate.tolist(), np.log(np.maximum(estimate / trained, _SMALLEST))


def predictions_of(scores: Scores, labels: Sequence[str]) -> list[Prediction]:
    """Return predictions whose probabilities are the softmax of scores [N, L]."""
    import numpy as np

    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return [
        Prediction.of(dict(zip(labels, row, strict=True)))
        for row in (weights / weights.sum(axis=1, keepdims=True)).tolist()
    ]


def averaged(sets: Sequence[Sequence[Prediction]], labels: Sequence[str]) -> list[Prediction]:
    """Return the geometric mean of several predictions of the same texts; a single one is itself."""
    if len(sets) == 1:
        return list(sets[0])
    import numpy as np

    return predictions_of(np.mean([log_scores(predictions, labels) for predictions in sets], axis=0), labels)


def shifted(predictions: Sequence[Prediction], shift: Mapping[str, float]) -> list[Prediction]:
    """Return predictions with each label's log-probability shifted; probabilities sum to 1 again."""
    import numpy as np

    labels = list(shift)
    return predictions_of(log_scores(predictions, labels) + np.array([shift[label] for label in labels]), labels)
