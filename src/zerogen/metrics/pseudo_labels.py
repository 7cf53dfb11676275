"""Label texts by several teachers together, and choose those that they are surest of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zerogen.metrics.priors import offsets

if TYPE_CHECKING:
    from zerogen.metrics.priors import Scores


def combined(teachers: Sequence[Scores], priors: Sequence[float]) -> Scores:
    """Return the mean of teachers' scores [N, L], each shifted to the priors and scaled to a root mean square of 1.

    Shifting the mean to the priors again changes no order of texts for two labels; it makes up for ties.
    """
    import numpy as np

    total = np.zeros_like(teachers[0])
    for scores in teachers:
        shifted = scores + offsets(scores, priors)
        shifted = shifted - shifted.mean(axis=1, keepdims=True)
        spread = float(np.sqrt((shifted**2).mean()))
        total += shifted / spread if spread else shifted
    total /= len(teachers)
    return total + offsets(total, priors)


def surest(scores: Scores, priors: Sequence[float], share: float) -> list[tuple[int, int]]:
    """Return (text, label) for about a share of the texts: of each label as many as its prior says.

    A label gets the texts of which it has the best score, those first where it leads the second best by most.
    """
    import numpy as np

    winners = scores.argmax(axis=1)
    ordered = np.sort(scores, axis=1)
    leads = ordered[:, -1] - ordered[:, -2]
    chosen = []
    for label, prior in enumerate(priors):
        texts = np.flatnonzero(winners == label)
        best = texts[np.argsort(-leads[texts], kind="stable")][: round(prior * share * len(scores))]
        chosen += [(int(text), label) for text in best]
    return sorted(chosen)
