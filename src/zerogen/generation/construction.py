"""Rows that rules make of given passages instead of a PLM: questions by template, and pairs of texts.

A construction turns a passage into a pair of the label that it stands for in `task.construction`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from random import Random

from zerogen.config.task import making
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import PLM, Example
from zerogen.errors import UserError
from zerogen.generation.answers import Labeller, rule_spans
from zerogen.generation.english import FUNCTION_WORDS, content_words, is_english, is_foreign, sentences
from zerogen.generation.hypotheses import premise_of
from zerogen.generation.questions import template_question, varied
from zerogen.support.doors import call, load

_SIMILAR = 40  # of so many sentences that share most words with a text one is drawn
_LOOKED_AT = 200  # passages by which their language is judged
_MOST_WORDS = 20_000  # whose neighbours are looked for: each is compared with all others
_MOST_POSTINGS = 2000  # sentences of a word that are compared with a text; more frequent words say little


Near = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]


class Passages:
    """All passages that rows are made of, with an index of their sentences.

    rewording: of questions, see `TaskConfig.rewording`, and not auto. near: returns, for words, those of them that are
    near each, by the word in lower case; for the rewording `similar`. Raises `UserError` for passages that are not in
    English, the language that the rules know.
    """

    def __init__(self, texts: Sequence[str], key: str, rewording: str = "random", near: Near | None = None) -> None:
        self.texts, self.rewording = texts, rewording
        self._near = near
        if not is_english(texts[:_LOOKED_AT]):
            raise UserError(
                f"{key}: takes sentences apart by rules for English, in which the contexts do not seem to be (the "
                f"first is {texts[0][:60]!r}); allowed is plm, whose prompts may be in any language"
            )

    @cached_property
    def foreign(self) -> int:
        """The number of passages that do not seem to be in English, of which no rows are made."""
        return sum(map(is_foreign, self.texts))

    @cached_property
    def sentences(self) -> list[str]:
        """All different sentences, in the order of the passages."""
        return list(dict.fromkeys(text[start:stop] for text in self.texts for start, stop in sentences(text)))

    @cached_property
    def words(self) -> list[str]:
        """All words of the passages that are no function words, as often as they come; for drawing one."""
        found = (word for text in self.texts for word in text.split())
        return [word for word in found if word.isalpha() and word.casefold() not in FUNCTION_WORDS]

    def reword(self, question: str, random: Random) -> str:
        """Return a question in other words, see `varied`; as it is with the rewording `none`."""
        if self.rewording == "none":
            return question
        return varied(question, self._other, random)

    def _other(self, word: str, random: Random) -> str:
        """Draw a word in place of one: of those near it, or, with the rewording `random`, of all."""
        if self.rewording == "random":
            return random.choice(self.words) if self.words else word
        near = self._neighbours.get(word)
        return random.choice(near) if near else word

    @cached_property
    def _neighbours(self) -> Mapping[str, Sequence[str]]:
        """The words near each of the 20,000 most frequent ones, by these in lower case."""
        if self._near is None:
            raise UserError("task.rewording=similar: needs a TAM that is an encoder; allowed are random and none")
        forms: dict[str, Counter[str]] = defaultdict(Counter)
        for word in self.words:
            forms[word.casefold()][word] += 1
        frequent = sorted(forms, key=lambda word: (-forms[word].total(), word))[:_MOST_WORDS]
        return self._near([forms[word].most_common(1)[0][0] for word in frequent])

    def similar(self, text: str, but: str, random: Random) -> str | None:
        """Draw one of the 40 sentences that share most with a text, rare words counting more; None if none does.

        but: holds the sentences that are not asked for.
        """
        shared: Counter[int] = Counter()
        for word in set(content_words(text)):
            places = self._places.get(word, ())
            if len(places) <= _MOST_POSTINGS:
                for place in places:
                    shared[place] += math.log(len(self.sentences) / len(places)) + 1e-6  # type: ignore[assignment]
        ranked = sorted(shared.items(), key=lambda item: (-item[1], item[0]))[: _SIMILAR + 5]
        others = [self.sentences[place] for place, _ in ranked if self.sentences[place] not in but][:_SIMILAR]
        return random.choice(others) if others else None

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        places: dict[str, list[int]] = defaultdict(list)
        for place, sentence in enumerate(self.sentences):
            for word in set(content_words(sentence)):
                places[word].append(place)
        return places


# A construction takes a passage, all passages, and what it may draw from; it returns (context, text), or None where the
# passage does not allow it. The constructions of all labels draw alike for the same passage, so that rows of several
# labels may share a text.
Construction = Callable[[str, Passages, Random], tuple[str, str] | None]

CONSTRUCTIONS = {name: f"zerogen.generation.construction.{name}" for name in ("question", "question_of_another")} | {
    name: f"zerogen.generation.hypotheses.{name}"
    for name in ("shortened", "apposition", "negated", "other_number", "other_name", "antonym", "similar")
}


def question(passage: str, passages: Passages, random: Random) -> tuple[str, str] | None:
    """Pair a sentence with a question that it answers."""
    made = _question(passage, passages, random)
    return None if made is None else made[:2]


def question_of_another(passage: str, passages: Passages, random: Random) -> tuple[str, str] | None:
    """Pair a question with another sentence that shares words with it, of the same passage if that has one.

    So QNLI is made of SQuAD. A sentence that holds the answer is not taken.
    """
    made = _question(passage, passages, random)
    if made is None:
        return None
    own, text, answer = made
    words = set(content_words(text))
    neighbours = [passage[start:stop] for start, stop in sentences(passage)]
    near = [one for one in neighbours if one != own and words & set(content_words(one)) and answer not in one]
    if near:
        return max(near, key=lambda one: len(words & set(content_words(one)))), text
    other = passages.similar(text, passage, random)
    return None if other is None or answer.casefold() in other.casefold() else (other, text)


def _question(passage: str, passages: Passages, random: Random) -> tuple[str, str, str] | None:
    """Return a sentence of a passage, a question that it answers, and the answer."""
    start, stop = random.choice(sentences(passage) or [(0, 0)])
    sentence = passage[start:stop]
    answers = rule_spans(sentence)
    if not answers:
        return None
    answer = random.choice(answers)
    asked = template_question(sentence, answer)
    return None if asked is None else (sentence, passages.reword(asked, random), answer.text)


def constructions_of(task: TaskConfig) -> dict[str, list[tuple[str, Construction | None]]]:
    """Return the ways in which the pairs of each label are made; None stands for the PLM.

    Raises `UserError` for a name that is none.
    """
    known = {**CONSTRUCTIONS, PLM: ""}
    return {
        label: [(name, None if name == PLM else load("task.construction", name, known)) for name in names]
        for label, names in task.construction.items()
    }


class Constructor:
    """Makes the rows of a task that its PLM does not write.

    near: see `Passages`; None where no encoder is at hand. label: see `AnsweredContexts`.
    """

    def __init__(
        self, task: TaskConfig, texts: Sequence[str], near: Near | None = None, label: Labeller | None = None
    ) -> None:
        self.task, self.label = task, label or (lambda passage, answer: "")
        rewording = task.rewording
        if rewording == "auto":
            rewording = "random" if near is None else "similar"
        self.passages = Passages(texts, making(task), rewording, near)
        self.constructions = constructions_of(task) if task.kind == "pair" else {}

    def fill(self, draft: Example, seed: int) -> Example:
        """Return a row with its text, and the way in which it was made; without a text where that fails.

        A row that the PLM is to write has no text yet, and a context as long as those of rows by rules. seed: of all
        draws, the same for the rows of all labels that are made of one passage.
        """
        random, context = Random(seed), draft.context or ""
        if is_foreign(context):
            return replace(draft, text="", way="not English")
        if self.task.kind == "qa":
            asked = template_question(context, draft.answers[0], self.label(context, draft.answers[0]))
            text = self.passages.reword(asked, random) if asked else ""
            return replace(draft, text=text, way="template")
        ways = self.constructions[draft.label]
        name, construct = ways[random.randrange(10**6) % len(ways)]  # one draw, however many ways a label has
        if construct is None:
            return replace(draft, context=self._read_by_plm(context, random))
        made = call("task.construction", name, construct, context, self.passages, random)
        if made is None:
            return replace(draft, text="", way=name)
        if not isinstance(made, tuple) or len(made) != 2 or not all(isinstance(text, str) for text in made):
            raise UserError(f"task.construction={name}: returned {made!r}; allowed is (context, text) or None")
        context, text = made
        return replace(draft, context=context, text=text, way=name)

    def _read_by_plm(self, passage: str, random: Random) -> str:
        """Return what the PLM reads of a passage: as much as rules do, so that the length of it tells no label."""
        by_rules = {name for ways in self.constructions.values() for name, _ in ways}
        if by_rules & {"question", "question_of_another"}:
            start, stop = random.choice(sentences(passage) or [(0, len(passage))])
            return passage[start:stop]
        drawn = premise_of(passage, random)
        return passage if drawn is None else drawn[0]
