"""Exact match and F1 of extractive question answering, as SQuAD defines them (Rajpurkar et al., 2016)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> str:
    """Lower-case an answer and drop ASCII punctuation, then the articles a, an and the, then spare white space."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(predicted: str, reference: str) -> float:
    """Return 1 where two answers are equal when normalised, else 0."""
    return float(normalise(predicted) == normalise(reference))


def f1(predicted: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over the words of two normalised answers.

    Where one of them has no words, 1 if the other has none either, else 0.
    """
    ours, theirs = normalise(predicted).split(), normalise(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def squad_metrics(references: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, Any]:
    """Compare predicted answers with the references of each question; the best reference counts.

    A question without references has none to find: an empty prediction is right. Returns exact_match and f1 as shares
    of 1. Raises ValueError for no rows or unequal lengths.
    """
    if not references or len(references) != len(predicted):
        raise ValueError(f"cannot compare {len(references)} gold rows with {len(predicted)} predictions")

    def mean(score: Callable[[str, str], float]) -> float:
        best = [
            max(score(answer, one) for one in found or [""])
            for found, answer in zip(references, predicted, strict=True)
        ]
        return sum(best) / len(best)

    return {"exact_match": mean(exact_match), "f1": mean(f1)}
