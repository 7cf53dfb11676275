"""How diverse texts are: Self-BLEU, distinct n-grams, near-duplicates, copies of the context, lengths."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from zerogen.config import DiversityConfig
from zerogen.errors import Unavailable
from zerogen.records import Example, derive

Tokens = Sequence[str]
Ids = npt.NDArray[np.int64]

NEAR = 0.7  # Jaccard similarity of word trigrams from which two texts are near-duplicates
_EPSILON = 0.1  # what smoothing method 1 puts in the place of no match


def diversity(rows: Sequence[Example], config: DiversityConfig, seed: int) -> dict[str, Any]:
    """Measure synthetic rows.

    Returns rows, labels {label: rows}, words (mean and quantiles of the texts' lengths), self_bleu (of orders 1 to 5,
    None for fewer than two texts), self_bleu_texts (how many were sampled), distinct (of orders 1 to 4),
    near_duplicates and copies_context as shares of 1, the latter None where there are no contexts. Raises
    `Unavailable` for a tokenizer that is not there, ValueError for no rows.
    """
    if not rows:
        raise ValueError("no rows to measure")
    tokenize = tokenizer(config.tokenizer)
    tokens = [tokenize(row.text) for row in rows]
    sample = tokens
    if len(tokens) > config.self_bleu_texts:
        sample = Random(derive(seed, "self-bleu")).sample(tokens, config.self_bleu_texts)
    lengths = [len(row.text.split()) for row in rows]
    quantiles = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1])
    about = [row for row in rows if row.context]
    labels = list(dict.fromkeys(row.label for row in rows))
    return {
        "rows": len(rows),
        "labels": {label: sum(row.label == label for row in rows) for label in sorted(labels) if label},
        "words": {"mean": float(np.mean(lengths)), "quartiles": [float(value) for value in quantiles]},
        "tokenizer": config.tokenizer,
        "self_bleu": self_bleu(sample) if len(sample) > 1 else None,
        "self_bleu_texts": len(sample),
        "distinct": [distinct(tokens, order) for order in range(1, 5)],
        "near_duplicates": sum(near_duplicates([row.text for row in rows])) / len(rows),
        "copies_context": sum(copies(row.text, row.context or "") for row in about) / len(about) if about else None,
    }


def tokenizer(name: str) -> Callable[[str], list[str]]:
    """Return what splits a text into tokens: `13a` (sacrebleu's, of WMT) or `spacy` (blank English, as in the paper).

    Raises `Unavailable` where spaCy is not installed.
    """
    if name == "13a":
        from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

        split = Tokenizer13a()
        return lambda text: split(text).split()
    try:
        import spacy
    except ImportError as error:
        raise Unavailable("diversity.tokenizer=spacy: needs `pip install spacy`; 13a needs nothing") from error
    blank = spacy.blank("en").tokenizer
    return lambda text: [token.text for token in blank(text)]


def self_bleu(texts: Sequence[Tokens], orders: int = 5) -> list[float]:
    """Return the mean BLEU of each text with all others as its references, for BLEU-1 to BLEU-`orders`.

    Self-BLEU: Zhu et al. (2018), Texygen; the lower, the more diverse. The same as NLTK's `sentence_bleu` with uniform
    weights and smoothing method 1 (Chen & Cherry, 2014), but not in quadratic time. What clips the count of an n-gram
    is the largest count in any other text, which is one of the two largest of all texts. Raises ValueError for fewer
    than two texts.
    """
    if len(texts) < 2:
        raise ValueError("Self-BLEU compares texts with each other; there are fewer than two")
    count = len(texts)
    lengths = np.array([len(text) for text in texts])  # [N]
    owner = np.repeat(np.arange(count), lengths)  # [T], the text of each token
    words: dict[str, int] = {}
    tokens = np.array([words.setdefault(word, len(words)) for word in chain.from_iterable(texts)], dtype=np.int64)
    grams = tokens  # [T - n + 1], the n-gram that begins at each token
    log_precision = np.zeros(count)  # summed over the orders so far
    scores = []
    for order in range(1, orders + 1):
        if order > 1:
            grams = grams[:-1] * len(words) + tokens[order - 1 :]
            grams = np.unique(grams, return_inverse=True)[1]
        inside = owner[: len(grams)] == owner[len(owner) - len(grams) :]  # begins and ends in the same text
        matches = _clipped(grams[inside], owner[: len(grams)][inside], count)
        if order == 1:
            none = matches == 0
        possible = np.maximum(1, lengths - order + 1)
        log_precision += np.log(np.where(matches == 0, _EPSILON, matches) / possible)
        scores.append(np.where(none, 0.0, _brevity(lengths) * np.exp(log_precision / order)).mean())
    return [float(score) for score in scores]


def _clipped(grams: Ids, owner: Ids, count: int) -> Ids:
    """Return for each text how many of its n-grams others hold, each as often as the one that holds it most. [N]"""
    if not len(grams):
        return np.zeros(count, dtype=np.int64)
    pairs, held = np.unique(grams * count + owner, return_counts=True)
    gram, text = pairs // count, pairs % count
    order = np.lexsort((-held, gram))  # by n-gram, the text that holds it most often first
    gram, text, held = gram[order], text[order], held[order]
    first = np.r_[True, gram[1:] != gram[:-1]]
    most = held[first]
    # The second largest count stands behind the largest, if it is of the same n-gram.
    second = np.where(np.r_[first[1:], True], 0, np.r_[held[1:], 0])[first]
    group = np.cumsum(first) - 1
    elsewhere = np.where(first, second[group], most[group])
    matches: Ids = np.bincount(text, np.minimum(held, elsewhere), minlength=count).astype(np.int64)
    return matches


def _brevity(lengths: Ids) -> npt.NDArray[np.float64]:
    """Return BLEU's brevity penalty of each text: its reference is the other one closest in length, or the shorter."""
    known, place, many = np.unique(lengths, return_inverse=True, return_counts=True)
    if len(known) == 1:
        return np.where(lengths == 0, 0.0, 1.0)
    shorter, longer = known[np.maximum(place - 1, 0)], known[np.minimum(place + 1, len(known) - 1)]
    take_longer = (place == 0) | ((place < len(known) - 1) & (longer - lengths < lengths - shorter))
    closest = np.where(many[place] > 1, lengths, np.where(take_longer, longer, shorter))
    penalty = np.exp(1 - closest / np.maximum(lengths, 1))
    return np.where(lengths == 0, 0.0, np.where(lengths > closest, 1.0, penalty))


def distinct(texts: Sequence[Tokens], order: int) -> float:
    """Return the share of different n-grams among all of them (Li et al., 2016), 0 where there are none."""
    from nltk.util import ngrams

    grams = [gram for text in texts for gram in ngrams(text, order)]
    return len(set(grams)) / len(grams) if grams else 0.0


def near_duplicates(texts: Sequence[str], threshold: float = NEAR) -> list[bool]:
    """Tell of each text whether an earlier one, itself not told so, has nearly the same word trigrams.

    Case and punctuation aside.

    MinHash (Broder, 1997) finds the pairs that may be alike; their exact Jaccard similarity decides.
    """
    from datasketch import MinHash, MinHashLSH

    shingles = [_shingles(text) for text in texts]
    # Many narrow bands: rather a candidate too many than a pair that is missed.
    index = MinHashLSH(params=(32, 4), num_perm=128)
    found = []
    for place, sketch in enumerate(
        MinHash.generator(({shingle.encode() for shingle in one} for one in shingles), num_perm=128)
    ):
        mine = shingles[place]
        found.append(
            any(len(mine & shingles[other]) >= threshold * len(mine | shingles[other]) for other in index.query(sketch))
        )
        if not found[-1]:  # what is like this one is like the first of them, or not counted
            index.insert(place, sketch)
    return found


def copies(text: str, context: str) -> bool:
    """Tell whether at least half of a text's word trigrams stand in its context, case and punctuation aside."""
    ours = _shingles(text)
    return 2 * len(ours & _shingles(context)) >= len(ours)


def _shingles(text: str) -> set[str]:
    """Return the word trigrams of a text, case and punctuation aside; one of fewer words is a single shingle."""
    words = re.findall(r"\w+", text.casefold())
    return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)} or {" ".join(words)}
