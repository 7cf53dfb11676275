"""Constructions of natural language inference: a hypothesis that a premise entails, contradicts or leaves open.

All start from a shorter form of one sentence of the premise, so that no label can be told by its length.
"""

from __future__ import annotations

import re
from functools import cache
from random import Random
from typing import TYPE_CHECKING

from zerogen.generation.answers import answer_kind, rule_spans
from zerogen.generation.english import AUXILIARIES, base_form, is_past, sentences

if TYPE_CHECKING:
    from zerogen.data.records import Answer
    from zerogen.generation.construction import Passages

_MOST_SENTENCES = 3  # of a premise; of longer passages a sentence and the one after it are taken
_FEWEST_WORDS = 5  # of a hypothesis
_aside = re.compile(r" ?\([^()]*\)| ?\[[^\[\]]*\]|, (?:which|who|whose|where|an?|the) [^,;.]+,(?= )")
_lead = re.compile(r"^(?:In|On|At|After|Before|During|For|Since|By|With|As|According to|Despite)(?: [^\s,]+){1,6}, ")
_subordinate = re.compile(r"(?:If|When|While|Although|Though|Because|Since|As|After|Before|Once|Until|Whether) ")
_tail = re.compile(r"(?:, | (?:because|although|while|when|after|before|since|where|including|such as) )[^,;]+$")
_apposition = re.compile(r"((?:[A-Z][\w.’'-]+ ){0,3}[A-Z][\w.’'-]+), ((?:the|an?) [^,;.]{8,80})(?=[,.])")
_ANTONYM_PAIRS = (
    "more/less first/last before/after above/below increase/decrease increased/decreased rise/fall rose/fell"
    " high/low higher/lower highest/lowest large/small larger/smaller largest/smallest big/little long/short"
    " old/new older/younger oldest/youngest early/late earlier/later good/bad better/worse best/worst"
    " strong/weak win/lose won/lost begin/end began/ended open/close opened/closed start/stop started/stopped"
    " accept/reject accepted/rejected agree/disagree allow/forbid allowed/forbade support/oppose"
    " supported/opposed north/south northern/southern east/west eastern/western male/female men/women"
    " public/private rich/poor safe/dangerous success/failure successful/unsuccessful always/never many/few"
    " most/few all/none alive/dead born/died buy/sell bought/sold true/false legal/illegal possible/impossible"
    " majority/minority maximum/minimum major/minor inside/outside peace/war friend/enemy found/lost"
    " failed/succeeded"
)
_ANTONYMS = dict(pair.split("/") for pair in _ANTONYM_PAIRS.split())
_ANTONYMS |= {second: first for first, second in _ANTONYMS.items() if second not in _ANTONYMS}


def shortened(passage: str, passages: Passages, random: Random) -> tuple[str, str] | None:
    """Pair a premise with one of its sentences, without what it can do without."""
    return _draw(passage, random)


def apposition(passage: str, passages: Passages, random: Random) -> tuple[str, str] | None:
    """Pair a premise with what it says in passing: of `Ann, the head of it, left` that Ann is the head of it."""
    drawn = _draw(passage, random)
    if drawn is None:
        return None
    found = list(_apposition.finditer(drawn[0]))
    if not found:
        return drawn
    name, what = random.choice(found).groups()
    return drawn[0], f"{name.strip()} is {what}."


def negated(passage: str, passages: Passages, random: Random) -> tuple[str, str] | None:
    """Pair a premise with the contrary of one of its sentences: with `not` after its first auxiliary or verb."""
    drawn = _draw(passage, random)
    if drawn is None:
        return None
    words = drawn[1].split()
    for place, word in enumerate(words[1:], 1):
        if word in AUXILIARIES - {"be", "been", "being", "having"}:
            return drawn[0], " ".join([*words[: place + 1], "not", *words[place + 1 :]])
        if is_past(word) and words[place - 1] not in ("to", "the", "a", "an", "by"):
            return drawn[0], " ".join([*words[:place], "did not", base_form(word), *words[place + 1 :]])
    return None


def other_number(passage: str, passages: Passages, random: Random) -> tuple[str, str] | None:
    """Pair a premise with one of its sentences in which a number or date is another one."""
    drawn = _draw(passage, random)
    places = list(re.finditer(r"(?<![\w.,])\d+(?:[.,]\d+)*", drawn[1])) if drawn else []
    if drawn is None or not places:
        return None
    number = random.choice(places)
    digits = list(number[0])
    place = random.choice([i for i, digit in enumerate(digits) if digit.isdigit()])
    digits[place] = random.choice([digit for digit in "123456789" if digit != digits[place]])
    return drawn[0], drawn[1][: number.start()] + "".join(digits) + drawn[1][number.end() :]


def other_name(passage: str, passages: Passages, random: Random) -> tuple[str, str] | None:
    """Pair a premise with one of its sentences in which a name is another one, of the premise if it has more."""
    drawn = _draw(passage, random)
    if drawn is None:
        return None
    premise, text = drawn
    names = _names(text)
    if not names:
        return None
    name = random.choice(names)
    others = [other.text for other in _names(premise) if other.text not in text]
    if not others:
        similar = passages.similar(text, passage, random)
        others = [other.text for other in _names(similar or "") if other.text not in premise]
    if not others:
        return None
    return premise, text[: name.start] + random.choice(others) + text[name.start + len(name.text) :]


def antonym(passage: str, passages: Passages, random: Random) -> tuple[str, str] | None:
    """Pair a premise with one of its sentences in which a word gives way to its contrary."""
    drawn = _draw(passage, random)
    if drawn is None:
        return None
    premise, text = drawn
    places = [word for word in re.finditer(r"(?<![\w’'-])[a-z]+(?![\w’'-])", text) if antonym_of(word[0])]
    if not places:
        return None
    word = random.choice(places)
    return premise, text[: word.start()] + (antonym_of(word[0]) or "") + text[word.end() :]


def similar(passage: str, passages: Passages, random: Random) -> tuple[str, str] | None:
    """Pair a premise with a sentence of another passage that shares words with it, shortened."""
    drawn = _draw(passage, random)
    other = passages.similar(drawn[1], passage, random) if drawn else None
    if drawn is None or other is None:
        return None
    text = _shorter(other, random)
    return None if text is None else (drawn[0], text)


def antonym_of(word: str) -> str | None:
    """Return the contrary of a word by a list of 70 pairs, or by WordNet if NLTK has it; None without any."""
    if word in _ANTONYMS:
        return _ANTONYMS[word]
    if not wordnet_version() or not word.islower() or len(word) < 4:
        return None
    from nltk.corpus import wordnet

    for synset in wordnet.synsets(word):
        for lemma in synset.lemmas():
            if lemma.name() == word and lemma.antonyms():
                name: str = lemma.antonyms()[0].name()
                return name.replace("_", " ")
    return None


@cache
def wordnet_version() -> str | None:
    """Return the version of the WordNet that NLTK finds (`python -m nltk.downloader wordnet` installs it), or None."""
    from nltk.corpus import wordnet

    try:
        return str(wordnet.get_version())
    except LookupError:
        return None


def premise_of(passage: str, random: Random) -> tuple[str, str] | None:
    """Draw a sentence of a passage; return a premise that holds it, and the sentence; None where there is none."""
    spans = sentences(passage)
    if not spans:
        return None
    place = random.randrange(len(spans))
    start, stop = spans[place]
    premise = passage
    if len(spans) > _MOST_SENTENCES:
        premise = passage[start : spans[min(place + 1, len(spans) - 1)][1]]
    return premise, passage[start:stop]


def _draw(passage: str, random: Random) -> tuple[str, str] | None:
    """Return a premise, and a shorter form of one of its sentences."""
    drawn = premise_of(passage, random)
    text = None if drawn is None else _shorter(drawn[1], random)
    return None if drawn is None or text is None else (drawn[0], text)


def _shorter(sentence: str, random: Random) -> str | None:
    """Return a sentence without asides, and without its beginning or end where it stands without them."""
    text = re.sub(_aside, "", sentence)
    for pattern in (_lead,) if _subordinate.match(text) else random.sample((_lead, _tail), 2):
        less = pattern.sub("", text.rstrip(".!? "))
        if len(less.split()) >= _FEWEST_WORDS and random.random() < 0.8:
            text = less
    text = text.rstrip(".!?;:, ")
    if len(text.split()) < _FEWEST_WORDS:
        return None
    return text[0].upper() + text[1:] + "."


def _names(text: str) -> list[Answer]:
    return [answer for answer in rule_spans(text) if answer_kind(text, answer) == "name"]
