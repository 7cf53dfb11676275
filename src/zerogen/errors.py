"""Errors that a user can act on, and the nearest match that goes into their text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input: the command line prints the message on one line and exits with code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Unavailable(UserError):
    """A model or dataset is neither on this machine nor can it be fetched."""


class ChildFailed(Exception):
    """A process that worked for this one ended early; why has been said, unless a signal ended it.

    exitcode: its own, negative for a signal. what: names it in the message.
    """

    def __init__(self, exitcode: int, what: str) -> None:
        super().__init__(f"{what}: ended with exit code {exitcode}")
        self.exitcode, self.what = exitcode, what


def nearest(value: object, options: Iterable[object]) -> str:
    """Return ``; did you mean 'x'?`` for the closest of `options`, or nothing when none is close."""
    found = difflib.get_close_matches(str(value), [str(option) for option in options], n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


def unknown(what: str, value: object, options: Iterable[object]) -> UserError:
    """Build the error for a `value` that is none of `options`; `what` names the key or file."""
    names = [str(option) for option in options]
    return UserError(f"{what}: '{value}' is unknown; allowed: {', '.join(names)}{nearest(value, names)}")
