"""How diverse texts are: Self-BLEU, distinct n-grams, near-duplicates, copies of the context, lengths."""

from __future__ import annotations

import statistics
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from random import Random
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt

from zerogen.config.schema import DiversityConfig
from zerogen.data.records import Example, derive
from zerogen.data.words import bare_words, script, words
from zerogen.errors import Unavailable
from zerogen.metrics.composition import composition

Ids = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]  # half as large, where there is one for every token of every text

NEAR = 0.7  # Jaccard similarity of shingles from which two texts are near-duplicates
_SENTENCE = 20  # characters from which on a text is hardly a single word
_EPSILON = 0.1  # what smoothing method 1 puts in the place of no match
_TEXTS = 10_000  # looked at together
_COUNTED = 8_000_000  # n-grams whose keys are in memory at a time
_MULTIPLIERS = np.random.default_rng(0).integers(1 << 63, dtype=np.uint64, size=4) * 2 + 1  # odd
_BANDS, _WIDTH = 32, 4  # many narrow bands: rather a candidate too many than a pair that is missed


def diversity(rows: Sequence[Example], config: DiversityConfig, seed: int) -> dict[str, Any]:
    """Measure synthetic rows.

    Returns rows, labels {label: rows}, words (mean and quantiles of the texts' lengths), tokenizer (the one that was
    used), self_bleu (of orders 1 to 5, None for fewer than two texts), self_bleu_texts (how many were sampled),
    distinct (of orders 1 to 4), shingle (how many words one has), near_duplicates and copies_context as shares of 1,
    the latter None where there are no contexts, and composition (see there). What would be a figure about nothing is
    None, which `unsaid` explains: n-grams longer than every text, and all of these where texts hold no word or seem not
    to be split into any. Raises
    `Unavailable` for a tokenizer that is not there, ValueError for no rows.
    """
    if not rows:
        raise ValueError("no rows to measure")
    texts = [row.text for row in rows]
    name = tokenizer_of(config.tokenizer, texts)
    tokenize = tokenizer(name)
    tokens = numbered(map(tokenize, texts))
    sample = tokens
    if len(texts) > config.self_bleu_texts:
        drawn = Random(derive(seed, "self-bleu")).sample(texts, config.self_bleu_texts)
        sample = numbered(map(tokenize, drawn))
    lengths = [len(words(text)) for text in texts]
    quantiles = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1])
    about = [row for row in rows if row.context]
    labels = Counter(row.label for row in rows)
    said = any(map(bare_words, texts))
    # A script without spaces that nobody here knows: whole texts pass for words.
    unsplit = float(quantiles[2]) <= 1 and statistics.median(map(len, texts)) >= _SENTENCE
    split = said and (not unsplit or name not in ("13a", "spacy"))
    apart = said and not unsplit
    return {
        "rows": len(rows),
        "labels": {label: labels[label] for label in sorted(labels) if label},
        "words": {"mean": float(np.mean(lengths)), "quartiles": [float(value) for value in quantiles]},
        "tokenizer": name,
        "self_bleu": self_bleu(sample) if split and len(sample.lengths) > 1 else None,
        "self_bleu_texts": len(sample.lengths),
        "distinct": distinct(tokens) if split else [None] * 4,
        "shingle": shingle(texts),
        "near_duplicates": sum(near_duplicates(texts)) / len(rows) if apart else None,
        "copies_context": sum(copies(row.text, row.context or "") for row in about) / len(about)
        if apart and about
        else None,
        "composition": composition(rows),
    }


def unsaid(found: dict[str, Any]) -> Iterator[str]:
    """Say which figures of `diversity` are None because they would be about nothing, and why."""
    if found["near_duplicates"] is None:
        yield (
            "hardly a text holds words that stand apart: it is punctuation, or a script without spaces that is not "
            "known here, so that figures about words would mean nothing"
        )
        return
    if found["self_bleu"] is None:
        yield "Self-BLEU compares texts with each other, and there is only one"
    for key, name in (("self_bleu", "Self-BLEU"), ("distinct", "the share of distinct n-grams")):
        missing = [order for order, value in enumerate(found[key] or [], 1) if value is None]
        if missing:
            yield f"no text has {missing[0]} tokens, so that {name} says nothing from n = {missing[0]} on"


def tokenizer_of(name: str, texts: Sequence[str]) -> str:
    """Return the name of a tokenizer, instead of `auto` that of the one for the script of the texts."""
    if name != "auto":
        return name
    japanese = "ja-mecab" if find_spec("MeCab") and find_spec("ipadic") else "char"
    return {"spaced": "13a", "han": "zh", "kana": japanese, "other": "char"}[script(texts)]


def tokenizer(name: str) -> Callable[[str], list[str]]:
    """Return what splits a text into tokens: `13a`, `zh`, `ja-mecab`, `char` or `spacy`.

    `auto`, which nobody can resolve before there are texts, gives 13a: it is asked for to find out what is missing.
    The first four are sacrebleu's; spaCy's is that of a blank English model, as in the paper. Raises `Unavailable`
    where the package that it needs is not installed.
    """
    if name == "spacy":
        try:
            import spacy
        except ImportError as error:
            raise Unavailable("diversity.tokenizer=spacy: needs `pip install spacy`; 13a needs nothing") from error
        blank = spacy.blank("en").tokenizer
        return lambda text: [token.text for token in blank(text)]
    from sacrebleu.metrics.bleu import BLEU

    try:
        split = BLEU(tokenize="13a" if name == "auto" else name).tokenizer
    except RuntimeError as error:
        raise Unavailable(
            f"diversity.tokenizer={name}: needs `pip install 'sacrebleu[ja]'`; char needs nothing"
        ) from error
    return lambda text: split(text).split()


@dataclass(frozen=True)
class Numbered:
    """Texts as numbers of their tokens, which stay small however many there are.

    vocabulary: [V], the token of each number. tokens: [T], of all texts in a row. lengths: [N].
    """

    vocabulary: Sequence[str]
    tokens: Numbers
    lengths: Ids

    @cached_property
    def owner(self) -> Numbers:
        """The text of each token. [T]"""
        return np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths)

    def grams(self, orders: int) -> Iterator[tuple[Numbers, Ids]]:
        """Yield for each order from 1 the n-grams inside texts: their numbers, below T, and where each begins.

        A number means the same n-gram wherever it stands. [G], [G]
        """
        found = self.tokens  # [T - n + 1], the n-gram that begins at each token
        for order in range(1, orders + 1):
            if order > 1:
                longer = found[:-1].astype(np.int64) * len(self.vocabulary)
                longer += self.tokens[order - 1 :]
                found = _numbers(longer)
            inside = self.owner[: len(found)] == self.owner[len(self.owner) - len(found) :]
            places = np.flatnonzero(inside)
            yield found[places], places


def _numbers(keys: Ids) -> Numbers:
    """Return for each key how many different ones are smaller: `np.unique`'s inverse, in half its memory. [T]"""
    order = np.argsort(keys)
    keys = keys[order]
    found = np.empty(len(keys), dtype=np.int32)
    found[order] = np.cumsum(np.r_[False, keys[1:] != keys[:-1]], dtype=np.int32)
    return found


def numbered(texts: Iterable[Sequence[str]]) -> Numbered:
    """Give each token a number, by when it first stands in the texts."""
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    tokens, lengths = array("i"), array("q")
    for text in texts:
        tokens.extend(map(numbers.__getitem__, text))
        lengths.append(len(text))
    return Numbered(list(numbers), np.frombuffer(tokens, dtype=np.int32), np.frombuffer(lengths, dtype=np.int64))


def self_bleu(texts: Numbered, orders: int = 5) -> list[float | None]:
    """Return the mean BLEU of each text with all others as its references, for BLEU-1 to BLEU-`orders`.

    None from the order on that no text is long enough for: what remains there is smoothing.

    Self-BLEU: Zhu et al. (2018), Texygen; the lower, the more diverse. The same as NLTK's `sentence_bleu` with uniform
    weights and smoothing method 1 (Chen & Cherry, 2014), but not in quadratic time. What clips the count of an n-gram
    is the largest count in any other text, which is one of the two largest of all texts. Raises ValueError for fewer
    than two texts.
    """
    lengths, count = texts.lengths, len(texts.lengths)
    if count < 2:
        raise ValueError("Self-BLEU compares texts with each other; there are fewer than two")
    log_precision = np.zeros(count)  # summed over the orders so far
    scores: list[float | None] = []
    for order, (grams, places) in enumerate(texts.grams(orders), 1):
        matches = _clipped(grams, texts.owner[places], count)
        if order == 1:
            none = matches == 0
        possible = np.maximum(1, lengths - order + 1)
        log_precision += np.log(np.where(matches == 0, _EPSILON, matches) / possible)
        score = np.where(none, 0.0, _brevity(lengths) * np.exp(log_precision / order)).mean()
        scores.append(float(score) if len(grams) else None)
    return scores


def _clipped(grams: Numbers, owner: Numbers, count: int) -> Ids:
    """Return for each text how many of its n-grams others hold, each as often as the one that holds it most. [N]"""
    if not len(grams):
        return np.zeros(count, dtype=np.int64)
    pairs, held = np.unique(grams.astype(np.int64) * count + owner, return_counts=True)
    gram, text = pairs // count, pairs % count
    order = np.lexsort((-held, gram))  # by n-gram, the text that holds it most often first
    gram, text, held = gram[order], text[order], held[order]
    first = np.r_[True, gram[1:] != gram[:-1]]
    most = held[first]
    # The second largest count stands after the largest, if it is of the same n-gram.
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


def distinct(texts: Numbered, orders: int = 4) -> list[float | None]:
    """Return the share of different n-grams among all of them (Li et al., 2016) by order, None where there are none.

    An n-gram is told by 64 bits, and those of a part of their values are counted at a time.
    """
    lengths = texts.lengths
    parts = 1 + len(texts.tokens) // _COUNTED
    found: list[float | None] = []
    for order in range(1, orders + 1):
        every = int(np.maximum(0, lengths - order + 1).sum())
        different = sum(_different(texts, order, part, parts) for part in range(parts)) if every else 0
        found.append(different / every if every else None)
    return found


def _different(texts: Numbered, order: int, part: int, parts: int) -> int:
    """Count the different n-grams of an order whose keys are in a part of all."""
    keys = np.concatenate([block[block % parts == part] if parts > 1 else block for block in _keys(texts, order)])
    keys.sort()
    return int(np.count_nonzero(keys[1:] != keys[:-1])) + bool(len(keys))


def _keys(texts: Numbered, order: int) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield a number for each n-gram inside texts, of a block of texts at a time."""
    ends = np.cumsum(texts.lengths)
    for first in range(0, len(ends), _TEXTS):
        lengths = texts.lengths[first : first + _TEXTS]
        tokens = texts.tokens[ends[first] - lengths[0] : ends[first + len(lengths) - 1]]
        count = len(tokens) - order + 1
        if count <= 0:
            continue
        owner = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        keys = np.zeros(count, dtype=np.uint64)
        for place in range(order):
            keys += tokens[place : place + count].astype(np.uint64) * _MULTIPLIERS[place]  # modulo 2 to the 64
        yield keys[owner[:count] == owner[order - 1 :]]


def shingle(texts: Sequence[str]) -> int:
    """Return how many words a shingle of these texts has: 3, or 2 where the script has characters for words."""
    return 3 if script(texts) == "spaced" else 2


def near_duplicates(texts: Sequence[str], threshold: float = NEAR) -> list[bool]:
    """Tell of each text whether an earlier one, itself not told so, has nearly the same shingles.

    Shingles are word trigrams, or pairs of characters, case and punctuation aside.

    MinHash (Broder, 1997) finds the pairs that may be alike; their exact Jaccard similarity decides.
    """
    size = shingle(texts)
    texts_of_buckets, buckets = _shared(texts, size)  # [S], sorted by text
    members, begins = np.unique(texts_of_buckets, return_index=True)
    own_buckets = dict(zip(members.tolist(), np.split(buckets, begins[1:]), strict=True)) if len(members) else {}
    own = numbered(_padded(texts[member], size) for member in own_buckets)
    grams, _ = next(islice(own.grams(size), size - 1, None))
    ends = np.cumsum(own.lengths - size + 1)
    found = np.zeros(len(texts), dtype=bool)
    index = defaultdict[int, list[int]](list)  # bucket to texts, as places among the members

    def shingles(place: int) -> set[int]:
        return set(grams[ends[place - 1] if place else 0 : ends[place]].tolist())

    for place, (member, its_buckets) in enumerate(own_buckets.items()):
        mine, shared = shingles(place), its_buckets.tolist()
        others = map(shingles, {other for bucket in shared for other in index.get(bucket, ())})
        found[member] = any(len(mine & other) >= threshold * len(mine | other) for other in others)
        if not found[member]:  # what is like this one is like the first of them, or not counted
            for bucket in shared:
                index[bucket].append(place)
    return found.tolist()


def _signatures(texts: Sequence[str], size: int) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield for blocks of texts a number for each band of the MinHash sketches of their shingles. [B, bands]"""
    from datasketch import MinHash

    sketch = MinHash(num_perm=_BANDS * _WIDTH)
    for first in range(0, len(texts), _TEXTS):
        block = texts[first : first + _TEXTS]
        found = np.empty((len(block), _BANDS, _WIDTH), dtype=np.uint64)
        for place, text in enumerate(block):
            sketch.clear()
            sketch.update_batch(one.encode() for one in _shingles(text, size))
            found[place] = sketch.hashvalues.reshape(_BANDS, _WIDTH)
        yield (found * _MULTIPLIERS[:_WIDTH]).sum(axis=-1, dtype=np.uint64)  # modulo 2 to the 64


def _shared(texts: Sequence[str], size: int) -> tuple[Ids, Ids]:
    """Return pairs of a text and a number that it shares with those whose sketches agree with its in a band. [S], [S]

    The pairs are sorted by text. The sketches are kept in files: in memory, they would take more than the texts.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(TemporaryFile()) for _ in range(_BANDS)]
        for block in _signatures(texts, size):
            for file, keys in zip(files, block.T, strict=True):
                file.write(keys.tobytes())
        pairs = []
        for band, file in enumerate(files):
            file.seek(0)
            keys = np.frombuffer(file.read(), dtype=np.uint64)
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            group = np.cumsum(np.r_[False, keys[1:] != keys[:-1]])[: len(texts)]
            shared = np.bincount(group)[group] > 1  # what no other text shares tells nothing
            pairs.append((order[shared], band * len(texts) + group[shared]))
    owners, buckets = (np.concatenate(column) for column in zip(*pairs, strict=True))
    by_text = np.argsort(owners, kind="stable")
    return owners[by_text], buckets[by_text]


def copies(text: str, context: str) -> bool:
    """Tell whether at least half of a text's shingles stand in its context, case and punctuation aside."""
    size = shingle([text])
    ours = _shingles(text, size)
    return 2 * len(ours & _shingles(context, size)) >= len(ours)


def _shingles(text: str, size: int) -> set[str]:
    """Return the runs of `size` words of a text; one of fewer words is a single shingle."""
    found = bare_words(text)
    return {" ".join(found[i : i + size]) for i in range(len(found) - size + 1)} or {" ".join(found)}


def _padded(text: str, size: int) -> list[str]:
    """Return the words of a text, and empty ones where they do not make a shingle."""
    found = bare_words(text)
    return found + [""] * (size - len(found))
