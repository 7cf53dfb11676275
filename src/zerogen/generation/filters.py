"""Parse what the PLM wrote, and decide whether it becomes a training row, or why it is rejected."""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace

from zerogen.config.schema import FilterConfig
from zerogen.config.task_schema import ParseConfig
from zerogen.data.records import PLM, Continuation, Example
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
_CACHE_KIB = 32 << 10  # of what was accepted, in memory: about half a million texts

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
        self.per_answer, self.memory = per_answer, Memory()
        for row in accepted:
            self._remember(row)

    def _key(self, row: Example) -> bytes:
        return _digest(key(row.context or "") if self.paired else "", key(row.text))

    def _meaning(self, row: Example) -> bytes:
        return _digest(row.label, *(answer.text for answer in row.answers))

    def _questions(self, row: Example) -> list[bytes]:
        """Return what is asked about each answer, if rules made the row."""
        return [] if row.way == PLM else [_digest(row.context, one.text, one.start) for one in row.answers]

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
        if not self.config.duplicates and (meaning := self.memory.meaning(self._key(row))) is not None:
            return "duplicate" if meaning == self._meaning(row) else "label_conflict"
        if any(self.memory.times(question) >= self.per_answer for question in self._questions(row)):
            return "asked_before"
        self._remember(row)
        return None

    def forget(self, row: Example) -> None:
        """Take back that a row was accepted: a later check has rejected it."""
        self.memory.forget(self._key(row))
        for question in self._questions(row):
            self.memory.count(question, -1)

    def _remember(self, row: Example) -> None:
        self.memory.remember(self._key(row), self._meaning(row))
        for question in self._questions(row):
            self.memory.count(question, 1)


class Memory:
    """What was accepted, as digests in a private database: SQLite keeps some of it in memory, the rest in a file.

    The file has no name and goes with the process. It lies in SQLITE_TMPDIR or TMPDIR, otherwise in /var/tmp.
    """

    def __init__(self) -> None:
        self.database = sqlite3.connect("")
        weakref.finalize(self, self.database.close)
        # Nothing is ever rolled back or read by another process.
        self.database.executescript(
            f"""
            PRAGMA journal_mode = OFF;
            PRAGMA synchronous = OFF;
            PRAGMA cache_size = -{_CACHE_KIB};
            CREATE TABLE texts (key BLOB PRIMARY KEY, meaning BLOB) WITHOUT ROWID;
            CREATE TABLE questions (key BLOB PRIMARY KEY, times INTEGER) WITHOUT ROWID;
            """
        )

    def meaning(self, text: bytes) -> bytes | None:
        """Return what an accepted text means; None where it was not accepted."""
        found = self._run("SELECT meaning FROM texts WHERE key = ?", text).fetchone()
        return found and found[0]

    def remember(self, text: bytes, meaning: bytes) -> None:
        """Remember an accepted text, and that it means this from now on."""
        self._run("REPLACE INTO texts VALUES (?, ?)", text, meaning)

    def forget(self, text: bytes) -> None:
        """Forget a text, if it was accepted."""
        self._run("DELETE FROM texts WHERE key = ?", text)

    def times(self, question: bytes) -> int:
        """Return how often a question was counted."""
        found = self._run("SELECT times FROM questions WHERE key = ?", question).fetchone()
        return found[0] if found else 0

    def count(self, question: bytes, times: int) -> None:
        """Add to how often a question was counted."""
        self._run(
            "INSERT INTO questions VALUES (?, ?) ON CONFLICT DO UPDATE SET times = times + excluded.times",
            question,
            times,
        )

    def _run(self, statement: str, *values: bytes | int) -> sqlite3.Cursor:
        """Run a statement. Raises `OSError` where the disk is full."""
        try:
            return self.database.execute(statement, values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "SQLite's temporary folder (TMPDIR)") from error


def _digest(*values: str | int | None) -> bytes:
    """Return 16 bytes that stand for some values: of a billion, two that differ agree with a chance below 1e-20."""
    return hashlib.blake2b(repr(values).encode(), digest_size=16).digest()


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
