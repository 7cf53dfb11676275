"""How synthetic texts differ from real ones: lengths, words, and embeddings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from zerogen.data.records import derive
from zerogen.data.words import bare_words, words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float64]

MOST = 1000  # texts of each side
_TELLING = 10  # words of each side that are shown
_PRIOR = 500  # words that the prior of the log-odds counts for
_SURE = 3.0  # standard deviations: of some thousand words, only a few are further off by chance
_FOLDS = 5
_Z = 1.959964  # of a 95 % interval


def samples(synthetic: Sequence[str], real: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Draw equally many texts of both sides, at most 1,000 of each, in their own order.

    Shares of words in common, which grow with the number of texts, could not be compared otherwise.
    """
    count = min(len(synthetic), len(real), MOST)
    drawn = []
    for name, texts in (("synthetic", synthetic), ("real", real)):
        places = sorted(Random(derive(seed, "match", name)).sample(range(len(texts)), count))
        drawn.append([texts[place] for place in places])
    return drawn[0], drawn[1]


def match_words(synthetic: Sequence[str], real: Sequence[str]) -> dict[str, Any]:
    """Compare the lengths and the words of texts, equally many of each side.

    Returns texts (how many of each side), words {side: mean, and least, quartiles and most}, shared {side: share of its
    words, each as often as it is used, that the other side uses, too; None where it has no words}, and telling {side:
    the words, at most 10, that give it away: word, how often either side uses it, and z, as `telling` has it}.
    """
    import numpy as np

    lengths = {"synthetic": [len(words(text)) for text in synthetic], "real": [len(words(text)) for text in real]}
    counts = {"synthetic": counted(synthetic), "real": counted(real)}
    return {
        "texts": len(real),
        "words": {
            side: {"mean": float(np.mean(its)), "quartiles": np.quantile(its, [0, 0.25, 0.5, 0.75, 1]).tolist()}
            for side, its in lengths.items()
        },
        "shared": {
            "synthetic": shared(counts["synthetic"], counts["real"]),
            "real": shared(counts["real"], counts["synthetic"]),
        },
        "telling": telling(counts["synthetic"], counts["real"]),
    }


def counted(texts: Sequence[str]) -> Counter[str]:
    """Count the words of texts, without case and punctuation."""
    return Counter(word for text in texts for word in bare_words(text))


def shared(own: Counter[str], other: Counter[str]) -> float | None:
    """Return the share of word tokens whose word the other side uses, too; None where there are none."""
    total = sum(own.values())
    return sum(count for word, count in own.items() if word in other) / total if total else None


def telling(synthetic: Counter[str], real: Counter[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the words that one side uses most beyond the other, at most 10 of each, those that tell most first.

    z: the log-odds ratio of a word, with an informative Dirichlet prior from both sides together, in standard
    deviations (Monroe et al. 2008, https://doi.org/10.1093/pan/mpn018, equations 16, 20 and 22); at least 3.
    """
    together = synthetic + real
    if len(together) < 2:  # a word has no odds against itself
        return {"synthetic": [], "real": []}
    total, sizes = together.total(), (synthetic.total() + _PRIOR, real.total() + _PRIOR)
    scores = list[tuple[float, str]]()
    for word, count in together.items():
        prior = _PRIOR * count / total
        ours, theirs = synthetic[word] + prior, real[word] + prior
        odds = math.log(ours / (sizes[0] - ours)) - math.log(theirs / (sizes[1] - theirs))
        scores.append((odds / math.sqrt(1 / ours + 1 / theirs), word))

    def most(sign: int) -> list[dict[str, Any]]:
        ranked = sorted((-sign * z, word) for z, word in scores if sign * z >= _SURE)
        return [
            {"word": word, "synthetic": synthetic[word], "real": real[word], "z": round(-z, 2)}
            for z, word in ranked[:_TELLING]
        ]

    return {"synthetic": most(1), "real": most(-1)}


def match_vectors(synthetic: Vectors, real: Vectors, seed: int) -> dict[str, Any]:
    """Compare embeddings [N, D], equally many of each side, at least five.

    Returns distance (see `energy_distance`), and auc {share, interval} of a head that tells them apart (`told_apart`).
    """
    auc = told_apart(synthetic, real, seed)
    return {"distance": energy_distance(synthetic, real), "auc": {"share": auc, "interval": _interval(auc, len(real))}}


def energy_distance(first: Vectors, second: Vectors) -> float:
    """Return how far two distributions are apart: 0 for the same one, 1 for two points.

    The energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'| of samples [N, D], without bias, over 2 E|X-Y|: the coefficient of
    inhomogeneity of Székely and Rizzo (2013, https://doi.org/10.1016/j.jspi.2013.03.018). What chance makes negative
    is 0.
    """
    from scipy.spatial.distance import cdist, pdist

    between = cdist(first, second).mean()
    if not between:
        return 0.0
    return max(0.0, float(1 - (pdist(first).mean() + pdist(second).mean()) / (2 * between)))


def told_apart(first: Vectors, second: Vectors, seed: int) -> float:
    """Return how well a linear head tells two sets of vectors [N, D] apart that it has not seen: its AUC.

    That is how often it ranks a random vector of the first set above one of the second: 0.5 is chance. The head is
    logistic regression, fitted five times, each time on four fifths of both sets; the mean of the areas is returned.
    """
    import numpy as np

    from zerogen.generation.weighting import fit_head, folds

    vectors = np.concatenate([first, second])
    sides = np.repeat([1, 0], [len(first), len(second)])
    fold_of = folds(sides, _FOLDS, derive(seed, "match"))
    areas = []
    for fold in range(_FOLDS):
        seen, unseen = fold_of != fold, fold_of == fold
        centre = vectors[seen].mean(axis=0)
        spread = np.sqrt(((vectors[seen] - centre) ** 2).sum(axis=1).mean()) or 1.0
        scaled = np.column_stack([(vectors - centre) / spread, np.ones(len(vectors))])
        head = fit_head(scaled[seen], sides[seen], 2, np.ones(int(seen.sum())))
        scores = scaled[unseen] @ (head[:, 1] - head[:, 0])
        areas.append(area(scores[sides[unseen] == 1], scores[sides[unseen] == 0]))
    return float(np.mean(areas))


def area(above: Vectors, below: Vectors) -> float:
    """Return how often a score of `above` exceeds one of `below`, ties counting half: the area under the ROC curve."""
    from scipy.stats import rankdata

    ranks = rankdata([*above, *below])[: len(above)]
    return float((ranks.sum() - len(above) * (len(above) + 1) / 2) / (len(above) * len(below)))


def _interval(auc: float, count: int) -> list[float]:
    """Return the 95 % interval of an area from `count` scores of each side (Hanley and McNeil 1982)."""
    further = (count - 1) * (auc / (2 - auc) + 2 * auc**2 / (1 + auc) - 2 * auc**2)
    half = _Z * math.sqrt(max(0.0, auc * (1 - auc) + further)) / count
    return [max(0.0, auc - half), min(1.0, auc + half)]
