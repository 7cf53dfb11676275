"""What a generated text must be like to become a training row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from zerogen.config import FilterConfig, ParseConfig
from zerogen.doors import load
from zerogen.errors import UserError
from zerogen.records import Continuation, Example
from zerogen.words import holds_words, words


def parse(continuation: Continuation, rule: ParseConfig) -> tuple[str, str | None]:
    """Return (text, reject reason or None) of what the PLM wrote.

    A row without its stop string is `unfinished`; with `fallback=sentence` it is cut at its first newline or else
    after its last full stop. One that does not end in `must_end` has a `wrong_end`.
    """
    text, reason = continuation.text, None
    if continuation.finish_reason != "stop":
        reason = "unfinished"
        if rule.fallback == "sentence":
            line = text.lstrip("\n")
            cut = line.find("\n") if "\n" in line else line.rfind(".") + 1
            if cut > 0:
                text, reason = line[:cut], None
    text = " ".join(text.split())
    if not text:
        return text, "empty"
    if reason is None and not text.endswith(rule.must_end):
        reason = "wrong_end"
    return text, reason


def key(text: str) -> str:
    """Return what two texts share when they count as the same: case and white space aside."""
    return " ".join(text.casefold().split())


def length(row: Example, config: FilterConfig) -> str | None:
    """Reject a text with fewer words than `min_words` or more than `max_words`."""
    count = len(words(row.text))
    if config.min_words is not None and count < config.min_words:
        return "too_short"
    if config.max_words is not None and count > config.max_words:
        return "too_long"
    return None


def copies_context(row: Example, config: FilterConfig) -> str | None:
    """Reject a text that is its context."""
    return "copies_context" if row.context is not None and key(row.text) == key(row.context) else None


def holds_answer(row: Example, config: FilterConfig) -> str | None:
    """Reject a question that gives its answer away."""
    return "holds_answer" if any(holds(row.text, answer.text) for answer in row.answers) else None


# A filter gets a row with its text, and the limits; it returns the reason to reject the row, None to accept it.
RowFilter = Callable[[Example, FilterConfig], str | None]

FILTERS = {
    "length": "zerogen.filters.length",
    "copies_context": "zerogen.filters.copies_context",
    "holds_answer": "zerogen.filters.holds_answer",
}


class Filter:
    """Accepts or rejects texts in order: all of `FILTERS`, then those of `filter.functions`, then repeated texts.

    Accepted texts are remembered, so that of equal ones the first stays.
    min_words: where `config` has none. paired: texts are equal only under the same context, on which depends what the
        texts of pairs, and questions, mean.
    """

    def __init__(
        self, config: FilterConfig, accepted: Iterable[Example] = (), min_words: int = 1, paired: bool = False
    ) -> None:
        self.min_words = min_words if config.min_words is None else config.min_words
        self.config, self.paired = replace(config, min_words=self.min_words), paired
        names = [*FILTERS, *(name for name in config.functions if name not in FILTERS)]
        self.filters: list[tuple[str, RowFilter]] = [(name, load("filter.functions", name, FILTERS)) for name in names]
        self.labels = {self._key(row): self._meaning(row) for row in accepted}

    def _key(self, row: Example) -> tuple[str, str]:
        return key(row.context or "") if self.paired else "", key(row.text)

    def _meaning(self, row: Example) -> tuple[str, ...]:
        return row.label, *(answer.text for answer in row.answers)

    def reason(self, row: Example) -> str | None:
        """Return why a row is rejected, None for one that is accepted (and remembered).

        The reasons of repeated texts are duplicate and label_conflict. Raises `UserError` for a filter of the user's
        that returns something else than a reason.
        """
        for name, reject in self.filters:
            reason = reject(row, self.config)
            if reason is not None:
                if not isinstance(reason, str) or not reason:
                    raise UserError(f"filter.functions={name}: returned {reason!r}; allowed is a reason or None")
                return reason
        same, meaning = self._key(row), self._meaning(row)
        if not self.config.duplicates and same in self.labels:
            return "duplicate" if self.labels[same] == meaning else "label_conflict"
        self.labels[same] = meaning
        return None


def holds(text: str, answer: str) -> bool:
    """Tell whether a text holds an answer as whole words, whatever their case."""
    return holds_words(key(text), key(answer))


def parse_and_filter(
    row: Example, continuation: Continuation, rule: ParseConfig, filters: Filter
) -> tuple[Example, str | None]:
    """Parse a continuation into `row` and filter it: return the row with its text, and the reject reason or None."""
    text, reason = parse(continuation, rule)
    counters = {label: round(value, 5) for label, value in continuation.counter_logprob.items()}
    row = replace(row, text=text, logprob=round(continuation.logprob, 5), counter_logprob=counters)
    return row, reason or filters.reason(row)
