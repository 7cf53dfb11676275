"""Find answer spans in passages (by rules, spaCy or gold rows), about which the PLM then writes questions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import count, islice
from random import Random
from typing import Any

from zerogen.data.records import Answer, Example, derive
from zerogen.errors import UserError
from zerogen.generation.contexts import cycle_indices
from zerogen.support.progress import Progress

Extractor = Callable[[str], list[Answer]]

SPACY_MODEL = "en_core_web_sm"
GET_SPACY = f"pip install spacy && python -m spacy download {SPACY_MODEL}"

_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_UNIT = (
    "percent|per cent|million|billion|trillion|thousand|hundred|years?|months?|weeks?|days?|hours?|minutes?|seconds?"
    "|century|centuries|people|times|miles|km|kilomet(?:re|er)s|met(?:re|er)s|feet|acres|tons|tonnes|dollars|euros|pounds"
)
_NAME = r"(?:[A-Z]\w*(?:(?!['’]s\b)[.'’-]\w+)*)"
_SMALL = "of the|of|the|de|la|von|van|and|for|&"
_ARTICLE = "the|a|an|his|her|its|their|our|some|any|each|every|many|several"
_AFTER_NOUN = "of|in|on|at|to|for|by|from|and|or|with|is|are|was|were|has|had|that|which|who|as"
# If two spans overlap, the earlier kind wins.
_KINDS = {
    "date": rf"\b(?:\d{{1,2}} )?{_MONTH}(?: \d{{1,2}}(?:st|nd|rd|th)?)?(?:,? \d{{4}})?\b",
    "quoted": r"[\"“]([^\"“”\n]{2,60})[\"”]",
    "number": rf"(?<![\w.,])[$€£¥]?\d+(?:[.,]\d+)*(?:st|nd|rd|th|s)?\b(?:%|(?:[ -](?:{_UNIT})\b)+)?",
    "name": rf"\b{_NAME}(?: (?:(?:{_SMALL}) )?{_NAME})*",
    "noun": rf"\b(?i:{_ARTICLE}) ((?:[a-z][\w-]{{2,}} ){{0,2}}[a-z][\w-]{{3,}})(?=[.,;:)]| (?:{_AFTER_NOUN})\b)",
}
# Words that are usually capitalised only because a sentence begins with them.
_COMMON = re.compile(
    "(?:a|an|the|this|that|these|those|it|its|he|she|they|we|i|you|his|her|their|our|your|my|in|on|at|by|for|from|to|of"
    "|with|as|and|or|but|if|when|while|where|after|before|since|during|although|however|many|most|some|all|both|each"
    "|one|two|three|there|here|not|no|also|then|thus|so|such|what|which|who|how|why|because|once|until|under|over"
    "|between|among|through|despite|unlike|like|other|another|several|few|more|much|first|second|later|today)",
    re.IGNORECASE,
)


def rule_spans(passage: str) -> list[Answer]:
    """Find spans that questions may ask for, without a model: dates, quoted titles, numbers, names and noun phrases.

    The spans do not overlap, are in order of position, and no text comes twice.
    """
    spans: list[tuple[int, int]] = []
    for kind, pattern in _KINDS.items():
        for match in re.finditer(pattern, passage):
            start, end = match.span(match.lastindex or 0)
            if kind == "name":
                start = _skip_common_words(passage, start, end)
                if end - start < 2 or _only_begins_a_sentence(passage, start, end):
                    continue
            if start < end and all(end <= first or start >= last for first, last in spans):
                spans.append((start, end))
    return unique(Answer(passage[start:end], start) for start, end in sorted(spans))


def _skip_common_words(passage: str, start: int, end: int) -> int:
    """Return where a run of capitalised words begins after articles and the like; `end` if nothing is left."""
    while start < end:
        word = re.match(r"[\w'’.-]+", passage[start:end])
        if word is None or not _COMMON.fullmatch(word[0].rstrip(".")):
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


def spacy_spans() -> Extractor:
    """Return an extractor of named entities by spaCy. Raises `UserError` if spaCy or its model is not installed."""
    try:
        import spacy  # type: ignore[import-not-found, unused-ignore]

        model: Any = spacy.load(SPACY_MODEL, disable=["tagger", "parser", "attribute_ruler", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise UserError(
            f"answers=spacy: {SPACY_MODEL} is not installed ({str(error).splitlines()[0][:80]}); get it with: "
            f"{GET_SPACY}; answers=rules needs nothing"
        ) from error
    return lambda passage: unique(Answer(entity.text, entity.start_char) for entity in model(passage).ents)


def chosen(source: str) -> str:
    """Resolve `auto` to `spacy` if spaCy and its model are installed, else to `rules`; return other sources as is."""
    if source != "auto":
        return source
    return "spacy" if find_spec("spacy") and find_spec(SPACY_MODEL) else "rules"


def provenance(source: str) -> str:
    """Return the source of answers for hashes and reports: gold, rules, or spaCy's model with its version."""
    source = chosen(source)
    if source != "spacy":
        return source
    try:
        return f"spacy {SPACY_MODEL} {version(SPACY_MODEL)}"
    except PackageNotFoundError:  # raised as an error only when answers are needed
        return source


def extractor(source: str, gold: Iterable[Example]) -> Extractor:
    """Return the function that finds the answers of a passage.

    source: spacy, rules, gold or auto. gold: rows whose first answers are used for source `gold`. Raises `UserError`
    for spaCy if it is not installed.
    """
    source = chosen(source)
    if source == "spacy":
        return spacy_spans()
    if source == "rules":
        return rule_spans
    answers: dict[str, list[Answer]] = {}
    for row in gold:
        answers.setdefault(row.context or "", []).extend(row.answers[:1])
    return lambda passage: unique(answers.get(passage, ()))


class AnsweredContexts:
    """An endless stream of (passage, answer) pairs.

    In each round, every passage yields one new answer, in a seeded order, so that even few rows see many passages. When
    all answers are used up, they repeat in new orders. A passage is searched for answers only when its turn comes.
    """

    def __init__(self, passages: Sequence[str], find: Extractor, seed: int) -> None:
        self.passages, self.find, self.seed = list(dict.fromkeys(passages)), find, seed
        self.pairs: list[tuple[str, Answer]] = []
        self._new = self._rounds()

    def take(self, start: int, stop: int, progress: Progress) -> list[tuple[str, Answer]]:
        """Return pairs number `start` to `stop` (exclusive). Raises `UserError` if no passage has an answer."""
        with progress.wait("finding answers"):
            self.pairs += islice(self._new, max(0, stop - len(self.pairs)))
        if not self.pairs:
            raise UserError(f"answers: none was found in {len(self.passages):,} contexts")
        return [self.pairs[place] for place in cycle_indices(start, stop, len(self.pairs), self.seed, shuffled_from=1)]

    def check(self) -> None:
        """Raise `UserError` if no passage has an answer."""
        self.take(0, 1, Progress())

    def _rounds(self) -> Iterator[tuple[str, Answer]]:
        order = list(range(len(self.passages)))
        remaining: dict[int, list[Answer]] = {}
        for number in count():
            if not order:
                return
            Random(derive(self.seed, "answers", number)).shuffle(order)
            for place in order:
                if place not in remaining:
                    remaining[place] = self.find(self.passages[place])
                    Random(derive(self.seed, "answers of", place)).shuffle(remaining[place])
                if remaining[place]:
                    yield self.passages[place], remaining[place].pop()
            order = sorted(place for place in order if remaining[place])
