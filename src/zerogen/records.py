"""The records that flow from prompt to training row, and the seeds that belong to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from zerogen.errors import UserError


@dataclass(frozen=True, slots=True)
class Stop:
    """A string that ends a row; `keep` says whether it stays in the text."""

    text: str
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One text to be written by the PLM.

    counters: label to counter-prompt, for self-debiasing.
    """

    uid: str
    prompt: str
    counters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Continuation:
    """What the PLM wrote behind a prompt.

    text: up to the stop string, which is part of it only where its `Stop` keeps it.
    finish: "stop" (a stop string), "eos" (end of text) or "length" (the token limit).
    tokens: number of sampled tokens, the last one included.
    logprob: mean natural-log probability of those tokens under the PLM itself (temperature 1, no truncation).
    counter_logprob: label to the same behind the request's counter-prompts.
    """

    text: str
    finish_reason: str
    tokens: int
    logprob: float
    counter_logprob: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A span of a context: `context[start : start + len(text)] == text`."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled text: a gold row (`logprob` None) or a synthetic one. A missing label is the empty string.

    context: what the text was written about; the other text of a pair; the passage that answers a question.
    answers: references of a question, spans of the context; a question that it does not answer has none.
    weight: of the row in the training loss. scores: what was found out about the row, by the name of the score.
    """

    uid: str
    text: str
    label: str
    context: str | None = None
    logprob: float | None = None
    counter_logprob: dict[str, float] = field(default_factory=dict)
    answers: tuple[Answer, ...] = ()
    weight: float = 1.0
    scores: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Example:
        """Rebuild one from what `dataclasses.asdict` and JSON have made of it."""
        return cls(**{**fields, "answers": tuple(Answer(**answer) for answer in fields.get("answers", ()))})

    @property
    def content(self) -> tuple[str, str]:
        """What two rows share that say the same."""
        return self.context or "", self.text


Input = str | tuple[str, str]  # what a TAM reads: a text, or a text and its context


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable label of a text, and every label's probability (they sum to 1)."""

    label: str
    probabilities: dict[str, float]

    @classmethod
    def of(cls, probabilities: dict[str, float]) -> Prediction:
        """Predict the most probable label; of equal ones the first."""
        return cls(max(probabilities, key=probabilities.__getitem__), probabilities)


@dataclass(frozen=True, slots=True)
class AnswerPrediction:
    """A predicted answer, its place in the context (-1 where it is none of it), and its probability among the best."""

    text: str
    start: int
    probability: float


def refuse_surrogates(text: str, where: str) -> None:
    """Raise `UserError` for a text with half a surrogate pair, which no tokenizer and no file in UTF-8 takes.

    where: names the text's place. Such halves come from JSON's `\\ud83d` escapes and from bytes that were not decoded.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        if 0xDC80 <= half <= 0xDCFF:  # how Python hands on a byte that it could not decode
            raise UserError(f"{where}: not UTF-8 text (it holds the byte 0x{half - 0xDC00:02X})") from None
        raise UserError(f"{where}: holds U+{half:04X}, half of a surrogate pair, which is no character") from None


def derive(seed: int, *path: int | str) -> int:
    """Derive an independent 63-bit seed from the run's `seed` and the place that draws (stage, index, ...)."""
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
