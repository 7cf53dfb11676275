"""What the rules that take sentences apart know of English: function words, and where a sentence ends."""

from __future__ import annotations

import re
from collections.abc import Iterable

from zerogen.data.words import bare_words


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


ARTICLES = _words("a an the")
POSSESSIVES = _words("my your his her its our their")
QUANTIFIERS = _words(
    "some any all both each every either neither no another other such several few many much more most less"
    " least this that these those same own"
)
PREPOSITIONS = _words(
    "in on at by for from to of with as into onto upon about against without within along across toward"
    " towards via per through between among under over during after before since until than like including"
    " despite around near throughout beyond above below behind beside besides inside outside off up down out"
)
CONJUNCTIONS = _words(
    "and or but nor if when while where whereas although though because so whether unless once that which who"
    " whom whose how why what"
)
PRONOUNS = _words(
    "i you he she it we they me him us them myself yourself himself herself itself ourselves themselves one there here"
)
AUXILIARIES = _words(
    "is are was were am be been being has have had having do does did can could will would may might must shall should"
)
ADVERBS = _words(
    "not also then thus only very too just even still yet often always never usually later especially"
    " particularly however therefore again ever already almost"
)
FUNCTION_WORDS = ARTICLES.union(
    POSSESSIVES, QUANTIFIERS, PREPOSITIONS, CONJUNCTIONS, PRONOUNS, AUXILIARIES, ADVERBS, {"according", "due"}
)
"""Words that say little alone; two texts that share only these say nothing of the same."""

_ENOUGH = 10  # words by which the language of a text can be told
# Frequent words that German, Dutch, French, Spanish, Italian and Portuguese do not write alike.
_ONLY_ENGLISH = _words(
    "the and to with for by from that which are were has their its his than into who when after some this have been but"
    " it at be or not these they would could"
)
_ENGLISH = 0.2  # share of function words: about 0.4 of English words, 0.1 of those of related languages
_ABBREVIATIONS = (
    "Mr|Mrs|Ms|Dr|St|Sr|Jr|Prof|Gen|Col|Lt|Sgt|Capt|Rev|Gov|Sen|Rep|Hon|vs|etc|e\\.g|i\\.e|c|ca|cf|approx|No|Vol|Inc|Ltd"
    "|Co|Corp|[A-Z](?:\\.[A-Z])*"
)
_ends_in_abbreviation = re.compile(rf"(?:^|[\s(\[\"'“‘])(?:{_ABBREVIATIONS})$")
_boundary = re.compile(r"[.!?]+[\"'”’)\]]*(?:\[\d+\])*\s+(?=[\"'“‘(\[]*[A-Z0-9])|\n+")


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each sentence of a text, without white space around it.

    A sentence ends in a full stop, question mark or exclamation mark before a capital letter or a digit, unless an
    abbreviation or an initial stands before the full stop; and at the end of a line.
    """
    spans, start = [], 0
    for match in _boundary.finditer(text):
        if match[0].startswith(".") and _ends_in_abbreviation.search(text[start : match.start()]):
            continue
        spans.append((start, match.end()))
        start = match.end()
    spans.append((start, len(text)))
    stripped = []
    for start, end in spans:
        sentence = text[start:end]
        if sentence.strip():
            start += len(sentence) - len(sentence.lstrip())
            stripped.append((start, start + len(sentence.strip())))
    return stripped


def content_words(text: str) -> list[str]:
    """Return the words of a text, casefolded and without punctuation, that are no function words."""
    return [word for word in bare_words(text) if word not in FUNCTION_WORDS]


def is_english(texts: Iterable[str]) -> bool:
    """Return whether texts as a whole seem to be in English, by the share of function words among their words."""
    found = [word for text in texts for word in bare_words(text)]
    return bool(found) and sum(word in FUNCTION_WORDS for word in found) / len(found) >= _ENGLISH


def is_foreign(text: str) -> bool:
    """Return whether a text of ten words or more has none of the words that hardly any English text does without."""
    found = bare_words(text)
    return len(found) >= _ENOUGH and _ONLY_ENGLISH.isdisjoint(found)


_IRREGULAR_FORMS = (
    "became/become began/begin bound/bind bought/buy broke/break brought/bring built/build came/come"
    " caught/catch chose/choose cost/cost"
    " dealt/deal did/do died/die drank/drink drew/draw drove/drive ate/eat fell/fall"
    " felt/feel fled/flee flew/fly forbade/forbid forgot/forget fought/fight found/find froze/freeze gave/give"
    " got/get grew/grow went/go had/have heard/hear held/hold hid/hide kept/keep knew/know laid/lay lay/lie"
    " led/lead left/leave lent/lend lied/lie lost/lose made/make meant/mean met/meet paid/pay ran/run rode/ride"
    " rose/rise said/say sang/sing sank/sink sat/sit saw/see sent/send shot/shoot showed/show shrank/shrink"
    " slept/sleep sold/sell sought/seek spent/spend spoke/speak spread/spread stole/steal stood/stand"
    " struck/strike swore/swear taught/teach thought/think threw/throw tied/tie told/tell took/take"
    " understood/understand withdrew/withdraw woke/wake won/win wore/wear wrote/write"
)
_IRREGULAR = dict(pair.split("/") for pair in _IRREGULAR_FORMS.split())
# Of two or more syllables, the second not stressed in writing: travelled and controlled, but called and installed.
_travelled = re.compile(r"[aeiouy][^aeiouy]+[eiou]ll$")
_regular_past = re.compile(r"[a-z]{2,}ed")
# Stems to which the past adds no more than a d: moved, named, settled, changed, defined, described, included, used.
_silent_e = re.compile(
    r"(?:[cuvz]|[^s]s|[^eo]at|[^aeiou][aeiou][gkm]|[ae]ng|dg|rg|[^aeioul]l|[^a]il|ul|[iu]r|[^aeiou][ao]r|[^aeo]in|[^o]ot|ut"
    r"|[^oa]id|ud|[^eo]ad|[^o]od|ib|[^e]ap)$"
)


def is_past(word: str) -> bool:
    """Return whether a word has the form of a past tense or past participle: `moved`, `wrote`."""
    return word in _IRREGULAR or _regular_past.fullmatch(word) is not None


def base_form(past: str) -> str:
    """Return the infinitive of a past form, by a list of irregular ones and rules that mostly hold for the others."""
    if past in _IRREGULAR:
        return _IRREGULAR[past]
    stem = past.removesuffix("ed")
    if stem.endswith("i"):
        return stem[:-1] + "y"
    if len(stem) > 3 and stem[-1] == stem[-2] and (stem[-1] not in "lsfz" or _travelled.search(stem)):
        return stem[:-1]
    return stem + "e" if stem == "creat" or _silent_e.search(stem) else stem
