"""Errors that a user can act on, and the nearest match that goes into their text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input: the command line prints the message on one line and exits with code 2."""

    def __init__(self, message: str) -> None:
        # What nobody sees, and what a terminal obeys, is shown as an escape.
        visible = "".join(sign if sign.isprintable() or sign in "\t\r\n" else _escaped(sign) for sign in message)
        super().__init__(" ".join(visible.split()))


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


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
    names = {str(option).casefold(): str(option) for option in options}
    found = difflib.get_close_matches(str(value).casefold(), names, n=1, cutoff=0.5)
    return f"; did you mean '{names[found[0]]}'?" if found else ""


def unknown(what: str, value: object, options: Iterable[object], hint: str = "") -> UserError:
    """Build the error for a `value` that is none of `options`; `what` names the key or file.

    hint: said instead of the nearest match.
    """
    names = [str(option) for option in options]
    return UserError(f"{what}: '{value}' is unknown; allowed: {', '.join(names)}{hint or nearest(value, names)}")
