"""Questions by template: turn the clause that holds an answer into a question for it, without a PLM.

After cloze translation (Lewis et al. 2019, https://arxiv.org/abs/1906.04980) and its templates (Fabbri et al. 2020,
https://arxiv.org/abs/2004.11892): the answer gives way to a question word that fits its kind, at the front.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

from zerogen.data.records import Answer
from zerogen.generation.answers import answer_kind
from zerogen.generation.english import (
    AUXILIARIES,
    FUNCTION_WORDS,
    PREPOSITIONS,
    base_form,
    is_past,
    sentences,
)

_LONGEST_SENTENCE = 12  # words; of longer ones a clause is taken
_FEWEST_AROUND = 6  # words of a clause beside the answer
_FEWEST_WORDS = 3  # of a question
_LONGEST_QUESTION = 25  # words
_FEWEST_CONTENT_WORDS, _FEWEST_OWN_WORDS = 3, 2  # that are left after the first two words, and that are not replaced
_MOST_DROPPED, _MOST_REPLACED = 0.5, 0.7  # shares of the words of a question, at most

_aside = re.compile(r" ?\([^()]*\)| ?\[[^\[\]]*\]")
_clause_begins = re.compile(r"; | [–—] |, | (?:and|but|while|because|although|which|that) (?=\S+ \S+ \S+ \S+)")
_conjunction = re.compile(r"[\s,;–—]*(?:(?:and|but|while|although|though|whereas|because|so|or|which|who|that|as) )?")
_honorific = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|King|Queen|President|Prince|Princess|Emperor|Empress|General|Lord|Lady|Saint|Professor|Captain"
    r"|Sir|Pope|Senator|Governor|Bishop|Judge|Chief|Minister|Khan)\b"
)
_acts_as_person = re.compile(
    r",? (?:who|himself|herself|said|says|wrote|argued|was born|died|married|believed|claimed|stated|proposed|thought"
    r"|invented|discovered|told|became king|and (?:his|her))\b"
)
_to_place = re.compile(r"\b(?:in|at|near|from|to|into|across|throughout|outside|around|through)$")
_of_time = re.compile(
    r"\b(?:in|on|at|by|since|until|during|around|from|of|to|before|after)(?: the| about| late| early)?$"
)
_amount = re.compile(
    r"\W?[\d.,]+ (?:(?:million|billion|trillion|thousand|hundred) )?"
    r"((?:years?|months?|weeks?|days?|hours?|minutes?)|people|feet|times|km|[a-z][\w-]*s)$"
)
_duration = re.compile(
    r"(?:about |nearly |over )?(?:\d[\d.,]*|an?|one|two|three|four|five|six|seven|eight|nine|ten|several|many|few)"
    r"(?: \w+)?[ -](?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|decades?|century|centuries)\b",
    re.IGNORECASE,
)
_era = re.compile(r"(?:BCE?|AD|CE)\b")
_owned = re.compile(r"['’]s? (?=([a-z][\w-]*))")


def sentence_of(passage: str, answer: Answer) -> tuple[int, int] | None:
    """Return the span of the sentence that holds a whole answer, None where there is none."""
    stop = answer.start + len(answer.text)
    return next((span for span in sentences(passage) if span[0] <= answer.start and stop <= span[1]), None)


def template_question(passage: str, answer: Answer, label: str = "") -> str | None:
    """Return a question for an answer, made from the clause of the passage that holds it; None where that fails.

    It fails where a sentence ends within the answer, and where nothing but function words is left to ask with. label:
    which of spaCy's entities the answer is, where that is known.
    """
    span = sentence_of(passage, answer)
    if span is None:
        return None
    before, after = _clause(passage[span[0] : answer.start], passage[answer.start + len(answer.text) : span[1]], answer)
    kind = answer_kind(passage, answer)
    asked, before, after = _question_word(answer.text, kind, label, before, after)
    words = [word for word in _ordered(asked, before.split(), after.split()) if any(map(str.isalnum, word))]
    if len(words) > _LONGEST_QUESTION or not _content(words[2:]):
        return None
    question = _without_half_of_pairs(" ".join(words)).strip(" ,;:–—-.")
    if len(question.split()) < _FEWEST_WORDS:
        return None
    return question[0].upper() + question[1:] + "?"


def varied(question: str, other: Callable[[str, Random], str], random: Random) -> str:
    """Return a question with some words left out, up to half, and up to 70 % of its content words replaced.

    People ask in other words than a passage answers: a model must not rely on every single word. The first two words,
    which say what is asked for, stay, or three: `In what year`. other: draws a word in place of one.
    """
    own = question.removesuffix("?").split()
    asked = 3 if own[:2] == ["In", "what"] or own[:3] == ["How", "much", "money"] else 2
    lead, rest = own[:asked], own[asked:]
    dropped, replaced = random.uniform(0, _MOST_DROPPED), random.uniform(0, _MOST_REPLACED)
    kept = [word for word in rest if random.random() >= dropped]
    if _content(kept) < _FEWEST_CONTENT_WORDS:
        kept = rest
    drawn = []
    for word in kept:
        bare = _bare(word)
        new = other(bare, random) if bare not in FUNCTION_WORDS and random.random() < replaced else bare
        drawn.append(word if new == bare else new)
    same = [word for word, one in zip(kept, drawn, strict=True) if word == one]
    return " ".join([*lead, *(kept if _content(same) < _FEWEST_OWN_WORDS else drawn)]) + "?"


def _content(words: Sequence[str]) -> int:
    """Return how many of some words are no function words."""
    return sum(_bare(word) not in FUNCTION_WORDS and any(map(str.isalnum, word)) for word in words)


def _bare(word: str) -> str:
    return word.strip(".,;:'\"’”“()").casefold()


def _without_half_of_pairs(question: str) -> str:
    """Return a question without brackets and quotation marks of which the other half is not in it."""
    opened: list[int] = []
    single: list[int] = []
    for place, character in enumerate(question):
        if character in "([“":
            opened.append(place)
        elif character in ")]”":
            if opened and question[opened[-1]] + character in ("()", "[]", "“”"):
                opened.pop()
            else:
                single.append(place)
    dropped = {*opened, *single}
    question = "".join(character for place, character in enumerate(question) if place not in dropped)
    return question.replace('"', "") if question.count('"') % 2 else question


def _clause(before: str, after: str, answer: Answer) -> tuple[str, str]:
    """Return what stands before and after an answer in its clause, without asides in brackets."""
    before, after = _aside.sub("", before), _aside.sub("", after)
    if len(before.split()) + len(after.split()) > _LONGEST_SENTENCE:
        starts = [0, *(match.start() for match in _clause_begins.finditer(before))]
        stops = [*(match.start() for match in _clause_begins.finditer(after)), len(after)]
        start, stop = starts.pop(), stops.pop(0)
        while len(before[start:].split()) + len(after[:stop].split()) < _FEWEST_AROUND and (starts or stops):
            if starts:
                start = starts.pop()
            else:
                stop = stops.pop(0)
        before, after = before[start:], after[:stop]
    begin = _conjunction.match(before)
    return before[begin.end() if begin else 0 :].strip(), after.strip(".!?;:, ")


def _question_word(answer: str, kind: str, label: str, before: str, after: str) -> tuple[str, str, str]:
    """Return the question words for an answer, and what stands before and after it without what they replace."""
    bare = re.sub(r"\b(?:the|a|an)$", "", before, flags=re.IGNORECASE).strip()
    if kind not in ("date", "number") and (owned := _owned.match(after)) and _is_noun(owned[1]):
        return "Whose", bare, after[owned.end() :]
    noun = re.match(r"[a-z][\w-]+", after)
    # `Keller lives`: after a name without an article, a word in s is more often a verb.
    attribute = noun and _is_noun(noun[0]) and (bare != before or not re.search(r"[^s]s$", noun[0]))
    lasts = _duration.match(answer)
    if label in ("PERSON", "NORP"):
        return "Which" if attribute else "Who", bare, after
    if label in ("GPE", "LOC", "FAC") and not attribute and _to_place.search(bare):
        return "Where", _to_place.sub("", bare).strip(), after
    if label in ("DATE", "TIME") and kind != "date" and not lasts:
        return "When", _of_time.sub("", bare).strip(), after
    if label == "CARDINAL" and kind != "number":
        return "How many", bare, after
    if label and kind not in ("date", "number"):
        return "Which" if attribute else "What", bare, after
    if kind == "number" and (_era.match(after) or _era.search(answer)):
        return "In what year", _of_time.sub("", bare).strip(), after
    if kind == "date":
        if re.fullmatch(r"\d{4}", answer) and bare.endswith(" in"):
            return "In what year", bare[:-3], after
        return "When", _of_time.sub("", bare).strip(), after
    if kind == "number":
        if answer[0] in "$€£¥":
            return "How much money", bare, after
        if "%" in answer or "percent" in answer or "per cent" in answer:
            return "What percentage", bare, after
        if lasts and bare.endswith(" for"):
            return "How long", bare[:-4], after
        if amount := _amount.match(answer):
            unit = amount[1]
            return (
                f"How many {unit if unit.endswith('s') or unit in ('people', 'feet', 'km') else unit + 's'}",
                bare,
                after,
            )
        if re.search(r"\d(?:st|nd|rd|th|s)$", answer):
            return "Which", bare, after
        return "How many", bare, after
    if kind == "name":
        if _honorific.search(answer) or _honorific.search(bare[-14:]) or _acts_as_person.match(" " + after):
            return "Who", bare, after
        if bare.endswith(" by") and len(answer.split()) in (2, 3):
            return "Who", bare, after
        if attribute:
            return "Which", bare, after
        if _to_place.search(bare):
            return "Where", _to_place.sub("", bare).strip(), after
        return "What", bare, after
    if bare.endswith("because of"):
        return "Why", bare.removesuffix("because of").strip(), after
    return "What", bare, after


def _ordered(asked: str, before: list[str], after: list[str]) -> list[str]:
    """Return the words of a question, question words first: `What did the army defeat in 1204`.

    Which noun follows `Which`, `Whose` or `How many` stays with it. Where no verb is known before the answer, which
    then is the subject or a part of it, the words that stand before it come last.
    """
    lead: list[str] = []
    if asked in ("Which", "Whose", "How many", "What percentage"):
        while after and len(lead) < 2 and _bare(after[0]) not in FUNCTION_WORDS and not is_past(_bare(after[0])):
            lead.append(after.pop(0))
            if lead[-1].endswith(","):
                break
    late: list[str] = []  # `In 1204, ` at the beginning
    if before and _bare(before[0]) in PREPOSITIONS and (comma := _first_comma(before)):
        late, before = before[:comma], before[comma:]
    if before and _bare(before[0]) in FUNCTION_WORDS:
        before = [before[0].lower(), *before[1:]]
    if late:
        late = [late[0].lower(), *late[1:-1], late[-1].rstrip(",")]
    front = [*asked.split(), *lead]
    verb = next((place for place, word in enumerate(before) if _is_verb(word) and place), None)
    if verb is None:
        return [*front, *after, *before, *late]
    subject, word, rest = before[:verb], before[verb], before[verb + 1 :]
    if _bare(word) in AUXILIARIES:
        return [*front, word, *subject, *rest, *after, *late]
    return [*front, "did", *subject, base_form(word), *rest, *after, *late]


def _first_comma(words: list[str]) -> int | None:
    """Return the number of words up to the first comma, None where there is none before the last word."""
    return next((place for place, word in enumerate(words[:-1], 1) if word.endswith(",")), None)


def _is_noun(word: str) -> bool:
    """Return whether a word in lower case may be a noun: it is no function word, and has no past form."""
    return word not in FUNCTION_WORDS and not is_past(word)


def _is_verb(word: str) -> bool:
    return _bare(word) in AUXILIARIES - {"be", "been", "being", "having"} or is_past(word)
