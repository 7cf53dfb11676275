"""What a generated text must be like to become a training row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from zerogen.config import FilterConfig, ParseConfig
from zerogen.records import Continuation, Example


def parse(continuation: Continuation, rule: ParseConfig) -> tuple[str, str | None]:
    """Return (text, reject reason or None) of what the PLM wrote.

    A row without its stop string is `unfinished`; with `fallback=sentence` it is cut at its first newline or else
    behind its last full stop.
    """
    text, reason = continuation.text, None
    if continuation.finish != "stop":
        reason = "unfinished"
        if rule.fallback == "sentence":
            line = text.lstrip("\n")
            cut = line.find("\n") if "\n" in line else line.rfind(".") + 1
            if cut > 0:
                text, reason = line[:cut], None
    text = " ".join(text.split())
    return text, reason if text else "empty"


def key(text: str) -> str:
    """Return what two texts share when they count as the same: case and white space aside."""
    return " ".join(text.casefold().split())


class Filter:
    """Accepts or rejects texts in order; remembers accepted ones, so that of equal texts the first one stays."""

    def __init__(self, config: FilterConfig, accepted: Iterable[Example] = ()) -> None:
        self.config = config
        self.labels = {key(row.text): row.label for row in accepted}

    def reason(self, row: Example) -> str | None:
        """Return why a row is rejected, None for one that is accepted (and remembered).

        Reasons: too_short, too_long, copies_context, duplicate, label_conflict.
        """
        words = len(row.text.split())
        if words < self.config.min_words:
            return "too_short"
        if self.config.max_words is not None and words > self.config.max_words:
            return "too_long"
        same = key(row.text)
        if row.context is not None and same == key(row.context):
            return "copies_context"
        if not self.config.duplicates and same in self.labels:
            return "duplicate" if self.labels[same] == row.label else "label_conflict"
        self.labels[same] = row.label
        return None


def judge(row: Example, continuation: Continuation, rule: ParseConfig, filters: Filter) -> tuple[Example, str | None]:
    """Parse a continuation into `row` and filter it: return the row with its text, and the reject reason or None."""
    text, reason = parse(continuation, rule)
    counters = {label: round(value, 5) for label, value in continuation.counter_logprob.items()}
    row = replace(row, text=text, logprob=round(continuation.logprob, 5), counter_logprob=counters)
    return row, reason or filters.reason(row)
