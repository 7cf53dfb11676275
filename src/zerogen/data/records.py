"""The frozen records that steps pass on (`Request`, `Continuation`, `Example`, ...), and how seeds are derived."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

PLM = "plm"  # who wrote a row


@dataclass(frozen=True, slots=True)
class Stop:
    """A string that ends a text; `keep` says whether it stays in the text."""

    text: str
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one text from the PLM.

    counters: label to counter-prompt, for self-debiasing.
    """

    uid: str
    prompt: str
    counters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Continuation:
    """The text that the PLM wrote after a prompt.

    text: up to the stop string, which is included only if its `Stop` keeps it.
    finish_reason: "stop" (a stop string), "eos" (end of text), "length" (the token limit), or "failed" (a server has
        not answered as it should).
    tokens: number of sampled tokens, including the last one.
    logprob: mean natural-log probability of those tokens under the PLM itself (temperature 1, no truncation); None
        where a server does not tell it.
    counter_logprob: label to the same mean after the request's counter-prompts.
    model: what a server calls the PLM, and its fingerprint of it; empty for one in this process.
    """

    text: str
    finish_reason: str
    tokens: int
    logprob: float | None
    counter_logprob: dict[str, float] = field(default_factory=dict)
    model: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A span of a context: `context[start : start + len(text)] == text`."""

    text: str
    start: int


class _Nothing(dict[str, float]):
    """An empty dictionary that rows share, since one of its own is a third of a row; it cannot be filled."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("records do not change; use dataclasses.replace(row, ...)")

    __setitem__ = setdefault = update = __ior__ = _refuse


NOTHING: dict[str, float] = _Nothing()


def _nothing() -> dict[str, float]:
    return NOTHING


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled text: a gold row (`logprob` None) or a synthetic one. A missing label is the empty string.

    context: the subject of the text; the other text of a pair; or the passage that answers a question.
    answers: reference answers of a question, spans of the context; empty if the context does not answer it.
    weight: weight of the row in the training loss.
    way: who made the row: `plm`, `template`, or the name of a construction.
    model: what a server calls the PLM that wrote the text, and its fingerprint of it; empty for one in this process.
    reply: what the PLM answers when it is asked the question of a synthetic row; None where it was not asked.
    scores: name of a score to its value for the row.
    target: label to probability, what a TAM learns where it is not the label alone; empty otherwise.
    """

    uid: str
    text: str
    label: str
    context: str | None = None
    logprob: float | None = None
    counter_logprob: dict[str, float] = field(default_factory=_nothing)
    answers: tuple[Answer, ...] = ()
    weight: float = 1.0
    way: str = PLM
    model: str = ""
    reply: str | None = None
    scores: dict[str, float] = field(default_factory=_nothing)
    target: dict[str, float] = field(default_factory=_nothing)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Example:
        """Rebuild an example from the fields that `dataclasses.asdict` and JSON turned it into."""
        values = {**fields, "answers": tuple(Answer(**answer) for answer in fields.get("answers", ()))}
        if not values.get("counter_logprob"):
            values["counter_logprob"] = NOTHING
        for name in ("label", "way", "model"):  # which are the same in many rows
            if name in values:
                values[name] = sys.intern(values[name])
        return cls(**values)

    @property
    def content(self) -> tuple[str, str]:
        """(context, text), equal for rows that say the same."""
        return self.context or "", self.text


def is_target(row: Example, labels: Sequence[str]) -> bool:
    """Tell whether a row's target is empty or a distribution over labels."""
    if not row.target:
        return True
    shares = row.target.values()
    return set(row.target) == set(labels) and min(shares) >= 0 and math.isclose(sum(shares), 1, abs_tol=1e-6)


Input = str | tuple[str, str]  # the input of a TAM: a text, or (text, context)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable label of a text, and every label's probability (they sum to 1)."""

    label: str
    probabilities: dict[str, float]

    @classmethod
    def of(cls, probabilities: dict[str, float]) -> Prediction:
        """Predict the most probable label; the first of equally probable ones."""
        return cls(max(probabilities, key=probabilities.__getitem__), probabilities)


@dataclass(frozen=True, slots=True)
class AnswerPrediction:
    """A predicted answer, its start in the context (-1 if not in it), and its probability among the best answers."""

    text: str
    start: int
    probability: float


def derive(seed: int, *path: int | str) -> int:
    """Derive an independent 63-bit seed from the run's `seed` and the path of the draw (stage, index, ...)."""
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
