"""Demonstrations: what stands before a prompt, chosen by one function from earlier rows or unlabelled texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.data.words import bare_words
from zerogen.errors import UserError
from zerogen.support.doors import call, load

if TYPE_CHECKING:
    from zerogen.generation.weighting import Embeddings

# A chooser gets the row that is asked for (its text is empty), the rows that it may show, the task, and what it may
# draw from; it returns the text to put before the prompt, which may be empty. It may show the rows accepted so far, or,
# where its attribute `shows` is "unlabelled", the unlabelled texts. Its attribute `among`, if it has one, is asked once
# for every round which of the rows it gets: a function of the rows, the task and their embeddings.
Chooser = Callable[[Example, Sequence[Example], TaskConfig, Random], str]

DEMONSTRATIONS = {
    name: f"zerogen.generation.demonstrations.{attribute}"
    for name, attribute in {
        "none": "none",
        "random": "of_the_label",
        "influence": "of_the_helpful",
        "unlabelled": "of_real_texts",
    }.items()
}
ROUND = 4  # chunks that are shown the same rows, those of the chunks before: so many may be written side by side

_OF_THE_LABEL = 8  # as in ProGen (https://arxiv.org/abs/2210.12329)
_OF_REAL_TEXTS = 4
_LONGEST_WORDS, _LONGEST = 60, 400  # words and characters of a text that is shown, in any script
_SHARE = 0.9  # of the words of a copy
_FEWEST = 5  # words of a text: fewer stand in many another one


def none(draft: Example, rows: Sequence[Example], task: TaskConfig, random: Random) -> str:
    """Show nothing."""
    return ""


def of_the_label(draft: Example, rows: Sequence[Example], task: TaskConfig, random: Random) -> str:
    """Show up to 8 accepted texts of the label before half of its prompts, drawn at random."""
    of_label = [row for row in rows if row.label == draft.label]
    if not of_label or random.random() < 0.5:
        return ""
    return _lines(random.sample(of_label, min(_OF_THE_LABEL, len(of_label))))


def of_the_helpful(draft: Example, rows: Sequence[Example], task: TaskConfig, random: Random) -> str:
    """Show up to 8 of the 50 accepted texts of the label that help a model most, before half of its prompts.

    As in ProGen (Ye et al. 2022, https://arxiv.org/abs/2210.12329), with the influence of `weighting.helpful`.
    """
    return of_the_label(draft, rows, task, random)


def _helpful(rows: Sequence[Example], task: TaskConfig, embeddings: Embeddings) -> list[Example]:
    from zerogen.generation.weighting import helpful  # which loads numpy

    return helpful(rows, task, embeddings)


of_the_helpful.among = _helpful  # type: ignore[attr-defined]


def of_real_texts(draft: Example, rows: Sequence[Example], task: TaskConfig, random: Random) -> str:
    """Show 4 unlabelled texts, whose style is that of real ones."""
    return _lines(random.sample(rows, min(_OF_REAL_TEXTS, len(rows))))


of_real_texts.shows = "unlabelled"  # type: ignore[attr-defined]


def _lines(rows: Sequence[Example]) -> str:
    shown = [" ".join(row.text.split()[:_LONGEST_WORDS])[:_LONGEST] for row in rows]
    return "".join(f'Text: "{text}"\n' for text in shown)


@dataclass(frozen=True)
class Demonstrations:
    """The chooser of a name, checked when called.

    unlabelled: whether it shows unlabelled texts, not earlier rows. among: chooses the rows that it gets in a round.
    """

    name: str
    choose: Chooser
    unlabelled: bool
    among: Callable[[Sequence[Example], TaskConfig, Embeddings], Sequence[Example]] | None = None

    @classmethod
    def of(cls, name: str) -> Demonstrations:
        """Return those that a name stands for. Raises `UserError` if it stands for none."""
        choose: Any = load("demonstrations", name, DEMONSTRATIONS)
        if not callable(choose):
            raise UserError(f"demonstrations={name}: is no function")
        shows = getattr(choose, "shows", "earlier")
        if shows not in ("earlier", "unlabelled"):
            raise UserError(f"demonstrations={name}: shows={shows!r}: allowed is earlier or unlabelled")
        return cls(name, choose, shows == "unlabelled", getattr(choose, "among", None))

    def require(self, texts: object) -> None:
        """Raise `UserError` where unlabelled texts are to be shown and there are none."""
        if self.unlabelled and not texts:
            raise UserError(f"demonstrations={self.name}: shows texts without labels; set unlabelled=FILE, or gold")

    def eligible(
        self, rows: Sequence[Example], task: TaskConfig, embed: Callable[[Sequence[Example]], Embeddings] | None
    ) -> Sequence[Example]:
        """Return the rows that are shown in a round, of those accepted before it. Raises `UserError`."""
        if self.among is None or not rows:
            return rows
        if embed is None:
            raise UserError(f"demonstrations={self.name}: needs embeddings of rows, and nothing embeds them")
        chosen = call("demonstrations", self.name, self.among, rows, task, embed(rows))
        if not isinstance(chosen, Sequence) or not all(isinstance(row, Example) for row in chosen):
            raise UserError(f"demonstrations={self.name}: among returned {type(chosen).__name__}; allowed is rows")
        return chosen

    def before(self, draft: Example, rows: Sequence[Example], task: TaskConfig, random: Random) -> str:
        """Return the text before the prompt of a row. Raises `UserError` where the chooser fails or returns none."""
        text = call("demonstrations", self.name, self.choose, draft, rows, task, random)
        if not isinstance(text, str):
            raise UserError(f"demonstrations={self.name}: returned {type(text).__name__}; allowed is a text")
        return text


def copied(text: str, before: str) -> bool:
    """Tell whether at least 90 % of the words of a text stand in runs of three that one line before its prompt has.

    A text of fewer than five words is a copy where it is in that line as it is, and half of the line or more.
    """
    if not before:
        return False
    own = bare_words(text)
    lines = [bare_words(line) for line in before.splitlines()]
    if len(own) < _FEWEST:
        within = (line for line in lines if len(line) <= 2 * len(own))
        return any(f" {' '.join(own)} " in f" {' '.join(line)} " for line in within)
    return any(_in_runs(own, line) >= _SHARE * len(own) for line in lines)


def _in_runs(own: Sequence[str], line: Sequence[str]) -> int:
    """Return how many words stand in runs of three words that are in a line, too."""
    there = set(_runs(line))
    return len({place + i for place, run in enumerate(_runs(own)) if run in there for i in range(3)})


def _runs(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all runs of three words."""
    return list(zip(words, words[1:], words[2:], strict=False))


def end_of_round(index: int) -> int:
    """Return the number of the first chunk after the round of chunk `index`."""
    return (index // ROUND + 1) * ROUND
