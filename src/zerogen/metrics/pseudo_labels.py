"""Label texts by several teachers together, and choose those that they are surest of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zerogen.metrics.priors import offsets

if TYPE_CHECKING:
    from zerogen.metrics.priors import Scores


@dataclass(frozen=True)
class Combination:
    """How teachers are brought to one scale: what is added to the scores of each, [L], and what they are divided by.

    last: what is added to the mean of all, so that it meets the priors, too.
    """

    shifts: list[Scores]
    spreads: list[float]
    last: Scores

    @classmethod
    def fit(cls, teachers: Sequence[Scores], priors: Sequence[float]) -> Combination:
        """Shift each teacher's scores [N, L] to the priors and scale them to a root mean square of 1."""
        import numpy as np

        shifts = [offsets(scores, priors) for scores in teachers]
        spreads = []
        for scores, shift in zip(teachers, shifts, strict=True):
            moved = scores + shift
            spread = float(np.sqrt(((moved - moved.mean(axis=1, keepdims=True)) ** 2).mean()))
            spreads.append(spread or 1.0)  # a teacher that says the same of all texts
        mean = cls(shifts, spreads, np.zeros(len(priors))).apply(teachers)
        return cls(shifts, spreads, offsets(mean, priors))

    def apply(self, teachers: Sequence[Scores]) -> Scores:
        """Return the mean of teachers' scores [N, L], which may be of other texts."""
        import numpy as np

        total = np.zeros_like(teachers[0])
        for scores, shift, spread in zip(teachers, self.shifts, self.spreads, strict=True):
            moved = scores + shift
            total += (moved - moved.mean(axis=1, keepdims=True)) / spread
        mean: Scores = total / len(teachers) + self.last
        return mean


def combined(teachers: Sequence[Scores], priors: Sequence[float]) -> Scores:
    """Return the mean of teachers' scores [N, L] on one scale, shifted to the priors."""
    return Combination.fit(teachers, priors).apply(teachers)


def agreement(scores: Scores, teacher: Scores, priors: Sequence[float]) -> float:
    """Return the share of texts of which scores [N, L] and those of a teacher, shifted to the priors, favour one label.

    Where they differ, one is wrong at least, so that the mean of both accuracies is at most (1 + agreement) / 2.
    Nothing here tells how often both are wrong: estimates that take errors for independent, such as that of Dawid and
    Skene (1979, https://doi.org/10.2307/2346806), are too high, also where a test of that finds nothing amiss.
    """
    return float((scores.argmax(axis=1) == (teacher + offsets(teacher, priors)).argmax(axis=1)).mean())


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
