"""Choose what finds the answers of questions in passages: spaCy, rules or gold rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from zerogen.data.records import Answer, Example
from zerogen.errors import UserError
from zerogen.generation.answers import RULES_VERSION, Extractor, rule_spans, unique

SPACY_MODEL = "en_core_web_sm"
GET_SPACY = f"pip install spacy && python -m spacy download {SPACY_MODEL}"

_LONGEST_PHRASE = 12  # tokens of a noun phrase with all that modifies it
_AROUND = " \"“”‘’'()[]"
_article = re.compile(r"(?:the|an?) ", re.IGNORECASE)


class SpacySpans:
    """Finds answers by spaCy: named entities, and with `phrases` also noun phrases, short and with what modifies them.

    Raises `UserError` if spaCy or its model is not installed.
    """

    def __init__(self, phrases: bool) -> None:
        self.phrases = phrases
        unused = ["lemmatizer", *(() if phrases else ("tagger", "parser", "attribute_ruler"))]
        try:
            import spacy  # type: ignore[import-not-found, unused-ignore]

            self._model: Any = spacy.load(SPACY_MODEL, disable=unused)
        except (ImportError, OSError) as error:
            raise UserError(
                f"answers=spacy: {SPACY_MODEL} is not installed ({str(error).splitlines()[0][:80]}); get it with: "
                f"{GET_SPACY}; answers=rules needs nothing"
            ) from error
        self._labels: dict[str, dict[Answer, str]] = {}

    def __call__(self, passage: str) -> list[Answer]:
        """Return the answers of a passage, in order of position; no text comes twice."""
        document = self._model(passage)
        if not self.phrases:
            return unique(Answer(entity.text, entity.start_char) for entity in document.ents)
        labels = {_bare(passage, entity.start_char, entity.end_char): entity.label_ for entity in document.ents}
        self._labels[passage] = labels
        phrases = set(labels)
        for chunk in document.noun_chunks:
            if chunk.root.pos_ == "PRON":
                continue
            phrases.add(_bare(passage, chunk.start_char, chunk.end_char))
            modified = list(chunk.root.subtree)
            if len(modified) <= _LONGEST_PHRASE:
                last = modified[-1]
                phrases.add(_bare(passage, modified[0].idx, last.idx + len(last)))
        found = [answer for answer in phrases if any(map(str.isalnum, answer.text))]
        return unique(sorted(found, key=lambda answer: (answer.start, len(answer.text))))

    def label(self, passage: str, answer: Answer) -> str:
        """Return which entity an answer of a passage is that was searched before, such as `PERSON`, or nothing."""
        return self._labels.get(passage, {}).get(answer, "")


def _bare(passage: str, start: int, stop: int) -> Answer:
    """Return a span without an article before it, a possessive after it, or quotation marks and brackets around it."""
    article = _article.match(passage, start, stop)
    start = article.end() if article else start
    while start < stop and passage[start] in _AROUND:
        start += 1
    text = passage[start:stop].rstrip(_AROUND + ",;:")
    for possessive in ("'s", "’s"):
        text = text.removesuffix(possessive).rstrip(_AROUND)
    if text.endswith(".") and "." not in text[:-1]:  # not of an abbreviation
        text = text[:-1]
    return Answer(text, start)


def chosen(source: str) -> str:
    """Resolve `auto` to `spacy` if spaCy and its model are installed, else to `rules`; return other sources as is."""
    if source != "auto":
        return source
    return "spacy" if find_spec("spacy") and find_spec(SPACY_MODEL) else "rules"


def provenance(source: str) -> str:
    """Return the source of answers for hashes and reports: gold, rules, or spaCy's model with both versions."""
    source = chosen(source)
    if source == "rules":
        return f"rules {RULES_VERSION}"
    if source != "spacy":
        return source
    try:
        return f"spacy {version('spacy')} {SPACY_MODEL} {version(SPACY_MODEL)}"
    except PackageNotFoundError:  # raised as an error only when answers are needed
        return source


def extractor(source: str, gold: Iterable[Example], phrases: bool = False) -> Extractor:
    """Return the function that finds the answers of a passage.

    source: spacy, rules, gold or auto. gold: rows whose first answers are used for source `gold`. phrases: whether
    spaCy also finds noun phrases. Raises `UserError` for spaCy if it is not installed.
    """
    source = chosen(source)
    if source == "spacy":
        return SpacySpans(phrases)
    if source == "rules":
        return rule_spans
    answers: dict[str, list[Answer]] = {}
    for row in gold:
        answers.setdefault(row.context or "", []).extend(row.answers[:1])
    return lambda passage: unique(answers.get(passage, ()))
