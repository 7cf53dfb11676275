"""Parse what the PLM wrote, and decide whether it becomes a training row, or why it is rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from zerogen.config.schema import FilterConfig
from zerogen.config.task_schema import ParseConfig
from zerogen.data.records import PLM, Answer, Continuation, Example
from zerogen.data.words import holds_words, words
from zerogen.errors import UserError
from zerogen.generation.demonstrations import copied
from zerogen.support.doors import call, load


def parse(continuation: Continuation, rule: ParseConfig) -> tuple[str, str | None]:
    """Return (text, reject reason or None) for what the PLM wrote.

    A request that a server did not answer as it should has `failed`. A text without its stop string is `unfinished`,
    unless `fallback=sentence` cuts it at its first newline or else after its last full stop. A text that does not end
    in `must_end` has a `wrong_end`; a blank text is `empty`.
    """
    text, reason = continuation.text, None
    if continuation.finish_reason == "failed":
        return text, "failed"
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
    """Return the form in which two texts are compared: without differences of case and white space."""
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
    """Reject a text that equals its context."""
    return "copies_context" if row.context is not None and key(row.text) == key(row.context) else None


def holds_answer(row: Example, config: FilterConfig) -> str | None:
    """Reject a question that gives its answer away."""
    return "holds_answer" if any(holds(row.text, answer.text) for answer in row.answers) else None


# A filter takes a row and the filter settings, and returns the reason to reject the row, or None to accept it.
RowFilter = Callable[[Example, FilterConfig], str | None]

_FEWEST_WORDS = 4  # of a text that rules made

FILTERS = {
    "length": "zerogen.generation.filters.length",
    "copies_context": "zerogen.generation.filters.copies_context",
    "holds_answer": "zerogen.generation.filters.holds_answer",
}


class Filter:
    """Accepts or rejects rows by all of `FILTERS`, then those of `filter.functions`, then a check for repeated texts.

    It remembers accepted texts, so that only the first of equal texts is accepted.
    accepted: rows accepted earlier.
    min_words: the minimum if `config` has none.
    paired: whether texts are equal only under the same context, since the meaning of questions and of the texts of
        pairs depends on it.
    per_answer: how many questions that rules made are accepted per answer of a passage.
    """

    def __init__(
        self,
        config: FilterConfig,
        accepted: Iterable[Example] = (),
        min_words: int = 1,
        paired: bool = False,
        per_answer: int = 1,
    ) -> None:
        self.min_words = min_words if config.min_words is None else config.min_words
        self.config, self.paired = replace(config, min_words=self.min_words), paired
        # The task's minimum keeps what a PLM writes from being a stump; rules leave none.
        self.config_of_rules = self.config if config.min_words is not None else replace(config, min_words=_FEWEST_WORDS)
        names = [*FILTERS, *(name for name in config.functions if name not in FILTERS)]
        self.filters: list[tuple[str, RowFilter]] = [(name, load("filter.functions", name, FILTERS)) for name in names]
        for name, reject in self.filters:
            if not callable(reject):
                raise UserError(f"filter.functions={name}: is no function")
        self.labels: dict[tuple[str, str], tuple[str, ...]] = {}
        self.per_answer, self.asked = per_answer, Counter[tuple[str | None, Answer]]()
        for row in accepted:
            self._remember(row)

    def _key(self, row: Example) -> tuple[str, str]:
        return key(row.context or "") if self.paired else "", key(row.text)

    def _meaning(self, row: Example) -> tuple[str, ...]:
        return row.label, *(answer.text for answer in row.answers)

    def reason(self, row: Example) -> str | None:
        """Return the reason to reject a row, or None if it is accepted (and remembered).

        The reasons for repeated texts are duplicate and label_conflict. Raises `UserError` for a filter of the user's
        that returns anything but a reason or None.
        """
        config = self.config if row.way == PLM else self.config_of_rules
        for name, reject in self.filters:
            reason = call("filter.functions", name, reject, row, config)
            if reason is not None:
                if not isinstance(reason, str) or not reason:
                    raise UserError(f"filter.functions={name}: returned {reason!r}; allowed is a reason or None")
                return reason
        same, meaning = self._key(row), self._meaning(row)
        if not self.config.duplicates and same in self.labels:
            return "duplicate" if self.labels[same] == meaning else "label_conflict"
        if row.way != PLM and any(self.asked[row.context, answer] >= self.per_answer for answer in row.answers):
            return "asked_before"
        self._remember(row)
        return None

    def forget(self, row: Example) -> None:
        """Take back that a row was accepted: a later check has rejected it."""
        self.labels.pop(self._key(row), None)
        if row.way != PLM:
            self.asked.subtract((row.context, answer) for answer in row.answers)

    def _remember(self, row: Example) -> None:
        self.labels[self._key(row)] = self._meaning(row)
        if row.way != PLM:
            self.asked.update((row.context, answer) for answer in row.answers)


def holds(text: str, answer: str) -> bool:
    """Return whether a text contains an answer as whole words, ignoring case."""
    return holds_words(key(text), key(answer))


def parse_and_filter(
    row: Example, continuation: Continuation, rule: ParseConfig, filters: Filter, before: str = ""
) -> tuple[Example, str | None]:
    """Parse a continuation into `row` and filter it; return the row with its text, and the reject reason or None.

    before: the demonstrations, of which a text must be no copy.
    """
    text, reason = parse(continuation, rule)
    counters = {label: round(value, 5) for label, value in continuation.counter_logprob.items()}
    logprob = None if continuation.logprob is None else round(continuation.logprob, 5)
    row = replace(row, text=text, logprob=logprob, counter_logprob=counters, model=continuation.model)
    if reason is None and copied(text, before):
        reason = "copied"
    return row, reason or filters.reason(row)
