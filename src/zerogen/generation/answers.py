"""Find answer spans in passages by rules, and draw those about which questions are asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from random import Random

from zerogen.data.records import Answer, derive
from zerogen.errors import UserError
from zerogen.generation.contexts import cycle_indices
from zerogen.generation.english import ARTICLES, FUNCTION_WORDS, POSSESSIVES, PREPOSITIONS
from zerogen.support.progress import Progress

Extractor = Callable[[str], list[Answer]]
Labeller = Callable[[str, Answer], str]

# How often people ask for each kind, in SQuAD's own terms (Rajpurkar et al. 2016): dates 9 %, other numbers 11 %, names
# 33 %, the rest phrases and clauses. Dates and numbers a little more: a model learns little from few of them.
SHARES = {"phrase": 38.0, "name": 28.0, "number": 16.0, "date": 14.0, "quoted": 2.0, "clause": 2.0}
ANSWER_KINDS = tuple(SHARES)
RULES_VERSION = 3  # raise it when the rules find other spans
_LOOKED_AT = 20  # passages in a row for an answer of a kind
_LONGEST_CLAUSE = 6  # words of a phrase; more are a clause

_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_UNIT = (
    "percent|per cent|million|billion|trillion|thousand|hundred|years?|months?|weeks?|days?|hours?|minutes?|seconds?"
    "|century|centuries|people|times|miles|km|kilomet(?:re|er)s|met(?:re|er)s|feet|acres|tons|tonnes|dollars|euros|pounds"
)
_NAME = r"(?:[A-Z]\w*(?:(?!['’]s\b)[.'’-]\w+)*)"
_SMALL = "of the|of|the|de|la|von|van|and|for|&"
# If two spans overlap, the earlier kind wins.
_KINDS = {
    "date": rf"\b(?:\d{{1,2}} )?{_MONTH}(?: \d{{1,2}}(?:st|nd|rd|th)?)?(?:,? \d{{4}})?\b",
    "quoted": r"(?<![\w.,;:!?])[\"“]([^\"“”\n]{2,60})[\"”](?!\w)",
    "number": rf"(?<![\w.,\[])(?<![A-Za-z]-)[$€£¥]?\d+(?:[.,]\d+)*(?:st|nd|rd|th|s)?\b(?:%|(?:[ -](?:{_UNIT})\b)+)?",
    "name": rf"\b{_NAME}(?: (?:(?:{_SMALL}) )?{_NAME})*",
}
# Words that are usually capitalised only because a sentence begins with them.
_COMMON = FUNCTION_WORDS | {"first", "second", "later", "today", "two", "three"}
_BEFORE_PHRASE = (
    ARTICLES | POSSESSIVES | PREPOSITIONS | {"and", "or"} | {"some", "any", "each", "every", "many", "several"}
)
_LONGEST_PHRASE = 4  # words
_word_runs = re.compile(r"\w[\w’'-]*(?: \w[\w’'-]*)*")
_no_noun = re.compile(r"\w+(?:ed|ly)$", re.IGNORECASE)
_year = re.compile(r"(?:1\d|20)\d\ds?")


def rule_spans(passage: str) -> list[Answer]:
    """Find spans that questions may ask for, without a model: dates, quoted titles, numbers, names and phrases.

    A phrase is a run of up to four words between function words or punctuation, after an article, a preposition or the
    like, as in `the [Reformed church] of`. The spans do not overlap, are in order of position, and no text comes twice.
    """
    spans: list[tuple[int, int]] = []

    def add(start: int, end: int) -> None:
        if start < end and all(end <= first or start >= last for first, last in spans):
            spans.append((start, end))

    for kind, pattern in _KINDS.items():
        for match in re.finditer(pattern, passage):
            start, end = match.span(match.lastindex or 0)
            if kind == "name":
                start = _skip_common_words(passage, start, end)
                if end - start < 2 or _only_begins_a_sentence(passage, start, end):
                    continue
            add(start, end)
    for start, end in _phrases(passage):
        add(start, end)
    return unique(Answer(passage[start:end], start) for start, end in sorted(spans))


def _phrases(passage: str) -> Iterator[tuple[int, int]]:
    for run in _word_runs.finditer(passage):
        before, phrase = "", list[re.Match[str]]()
        for word in (*re.finditer(r"\S+", run[0]), None):
            text = word[0].casefold() if word else ""
            if word and text not in FUNCTION_WORDS:
                phrase.append(word)
                continue
            if phrase and before in _BEFORE_PHRASE and len(phrase) <= _LONGEST_PHRASE:
                last = phrase[-1][0]
                verb = before in ("to", "and", "or") and text in ARTICLES | POSSESSIVES  # to cross the
                alone = len(phrase) == 1 and (last.endswith("ing") or len(last) < 4)
                if not (verb or alone or _no_noun.match(last)):
                    yield run.start() + phrase[0].start(), run.start() + phrase[-1].end()
            before, phrase = text, []


def answer_kind(passage: str, answer: Answer) -> str:
    """Return what an answer is, by its form: one of `ANSWER_KINDS`."""
    text, start = answer.text, answer.start
    if (re.search(rf"\b{_MONTH}\b", text) and re.search(r"\d", text)) or _year.fullmatch(text):
        return "date"
    if re.match(r"[$€£¥]?\d", text):
        return "number"
    if start and passage[start - 1] in '"“' and passage[start + len(text) : start + len(text) + 1] in ('"', "”"):
        return "quoted"
    own = [word for word in re.findall(r"[^\W\d_][\w’'-]*", text) if word.casefold() not in FUNCTION_WORDS]
    if own and own[0][0].isupper() and own[-1][0].isupper():
        return "name"
    return "phrase" if len(text.split()) <= _LONGEST_CLAUSE else "clause"


def _skip_common_words(passage: str, start: int, end: int) -> int:
    """Return where a run of capitalised words begins after articles and the like; `end` if nothing is left."""
    while start < end:
        word = re.match(r"[\w'’.-]+", passage[start:end])
        if word is None or word[0].rstrip(".").casefold() not in _COMMON:
            return start
        start += len(word[0])
        start += len(passage[start:end]) - len(passage[start:end].lstrip())
    return start


def _only_begins_a_sentence(passage: str, start: int, end: int) -> bool:
    """Return whether a word seems capitalised only as the first of its sentence: it comes once in the passage."""
    word = passage[start:end]
    first = not passage[:start].strip() or passage[:start].rstrip()[-1] in ".!?"
    return first and " " not in word and len(re.findall(rf"\b{re.escape(word)}\b", passage)) == 1


def unique(answers: Iterable[Answer]) -> list[Answer]:
    """Drop answers whose text an earlier answer has, ignoring case."""
    first: dict[str, Answer] = {}
    for answer in answers:
        first.setdefault(answer.text.casefold(), answer)
    return list(first.values())


class AnsweredContexts:
    """An endless stream of (passage, answer) pairs.

    In each round, every passage yields one new answer, in a seeded order, so that even few rows see many passages. When
    all answers are used up, they repeat in new orders. A passage is searched for answers only when its turn comes.

    shares: how often answers of a kind are drawn, by `answer_kind`, as long as any passage has more of it; each kind
        then has rounds of its own. By default, kinds come as often as the passages have them.
    label: says which of spaCy's entities an answer is, if any; None where nothing knows.
    """

    def __init__(
        self,
        passages: Sequence[str],
        find: Extractor,
        seed: int,
        shares: Mapping[str, float] | None = None,
        label: Labeller | None = None,
    ) -> None:
        self.texts, self.find, self.seed, self.label = list(dict.fromkeys(passages)), find, seed, label
        self.pairs: list[tuple[str, Answer]] = []
        self._new = self._rounds() if shares is None else self._by_kind(shares)

    def take(self, start: int, stop: int, progress: Progress) -> list[tuple[str, Answer]]:
        """Return pairs number `start` to `stop` (exclusive). Raises `UserError` if no passage has an answer."""
        with progress.wait("finding answers"):
            self.pairs += islice(self._new, max(0, stop - len(self.pairs)))
        if not self.pairs:
            raise UserError(f"answers: none was found in {len(self.texts):,} contexts")
        return [self.pairs[place] for place in cycle_indices(start, stop, len(self.pairs), self.seed, shuffled_from=1)]

    def check(self) -> None:
        """Raise `UserError` if no passage has an answer."""
        self.take(0, 1, Progress())

    def _rounds(self) -> Iterator[tuple[str, Answer]]:
        order = list(range(len(self.texts)))
        remaining: dict[int, list[Answer]] = {}
        for number in count():
            if not order:
                return
            Random(derive(self.seed, "answers", number)).shuffle(order)
            for place in order:
                if place not in remaining:
                    remaining[place] = self._shuffled(place)
                if remaining[place]:
                    yield self.texts[place], remaining[place].pop()
            order = sorted(place for place in order if remaining[place])

    def _by_kind(self, shares: Mapping[str, float]) -> Iterator[tuple[str, Answer]]:
        found: dict[int, dict[str, list[Answer]]] = {}
        random, streams = Random(derive(self.seed, "kinds")), {kind: self._of_kind(kind, found) for kind in shares}
        while streams:
            kinds = list(streams)
            (kind,) = random.choices(kinds, [shares[kind] for kind in kinds])
            try:
                pair = next(streams[kind])
            except StopIteration:
                del streams[kind]
                continue
            if pair is not None:
                yield pair

    def _of_kind(self, kind: str, found: dict[int, dict[str, list[Answer]]]) -> Iterator[tuple[str, Answer] | None]:
        """Yield the answers of a kind, one of each passage in a round; found: those of passages, by kind.

        After twenty passages in a row without any it yields None, so that a rare kind does not have all searched.
        """
        order, without = list(range(len(self.texts))), 0
        for number in count():
            Random(derive(self.seed, "answers", kind, number)).shuffle(order)
            for place in order:
                if place not in found:
                    found[place] = {}
                    for answer in self._shuffled(place):
                        found[place].setdefault(answer_kind(self.texts[place], answer), []).append(answer)
                answers = found[place].get(kind, ())
                if len(answers) > number:
                    without = 0
                    yield self.texts[place], answers[number]
                else:
                    without += 1
                    if without % _LOOKED_AT == 0:
                        yield None
            order = sorted(place for place in order if len(found[place].get(kind, ())) > number + 1)
            if not order:
                return

    def _shuffled(self, place: int) -> list[Answer]:
        """Return the answers of a passage, in a seeded order."""
        answers = self.find(self.texts[place])
        Random(derive(self.seed, "answers of", place)).shuffle(answers)
        return answers
