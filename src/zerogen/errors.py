"""Errors that a user can act on, and the nearest allowed value for their messages."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

_LONGEST = 2000  # characters of a line; a value in it may have millions


class UserError(Exception):
    """Wrong input: the command line prints the message on one line and exits with code 2."""

    def __init__(self, message: str) -> None:
        # Show invisible characters, and those that control a terminal, as escapes.
        visible = "".join(sign if sign.isprintable() or sign in "\t\r\n" else _escaped(sign) for sign in message)
        line = " ".join(visible.split())
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
        super().__init__(line)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


class Unavailable(UserError):
    """A model or dataset is not on this machine and cannot be fetched."""


class ChildFailed(Exception):
    """A child process ended early; it has reported why, unless a signal ended it.

    exitcode: that of the child, negative for a signal. what: the name of the child in the message. reason: what it has
    reported, in one line.
    """

    def __init__(self, exitcode: int, what: str, reason: str = "") -> None:
        super().__init__(f"{what}: ended with exit code {exitcode}")
        self.exitcode, self.what = exitcode, what
        self.reason = reason or self._guess()

    def _guess(self) -> str:
        if self.exitcode < 0:  # killed, so it could not report this itself
            guess = "; was memory short?" if -self.exitcode == signal.SIGKILL else ""
            names = {one.value: one.name for one in signal.Signals}
            return f"stopped by {names.get(-self.exitcode, f'signal {-self.exitcode}')}{guess}"
        return "ended too early"


class ServerFailed(Exception):
    """A server or a cluster no longer answers, or does not do what it is asked; what was finished is kept."""


def nearest(value: object, options: Iterable[object]) -> str:
    """Return ``; did you mean 'x'?`` for the closest of `options`, or nothing when none is close."""
    names = {str(option).casefold(): str(option) for option in options}
    matches = difflib.get_close_matches(str(value).casefold(), names, n=1, cutoff=0.5)
    return f"; did you mean '{names[matches[0]]}'?" if matches else ""


def unknown(what: str, value: object, options: Iterable[object], hint: str = "") -> UserError:
    """Return the error for a `value` that is none of `options`; `what` names the key or file.

    hint: shown instead of the nearest match.
    """
    names = [str(option) for option in options]
    return UserError(f"{what}: '{value}' is unknown; allowed: {', '.join(names)}{hint or nearest(value, names)}")
