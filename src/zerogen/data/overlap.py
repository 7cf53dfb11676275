"""How well two answers agree, as SQuAD defines it (Rajpurkar et al. 2016): exact match and F1 over words."""

from __future__ import annotations

import re
import string
from collections import Counter

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
