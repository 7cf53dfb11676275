"""The console, and how errors leave the program."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from zerogen.errors import ChildFailed, UserError
from zerogen.process import Stopped

if TYPE_CHECKING:
    from rich.console import Console


class ArgumentParser(argparse.ArgumentParser):
    """Refuses arguments like the rest of the program: in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def make_console() -> Console:
    """Return the console that a run writes to."""
    from rich.console import Console

    return Console(soft_wrap=False)


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Turn exceptions into exit codes.

    2 and one line where the user's input is wrong, 128 + signal for a stop; anything else keeps its traceback and 1.
    """
    try:
        yield
    except UserError as error:
        print(f"zerogen: error: {error}", file=sys.stderr)
        sys.exit(2)
    except ChildFailed as failed:
        if failed.exitcode < 0:  # killed: it could not say so itself
            guess = "; was memory short?" if -failed.exitcode == signal.SIGKILL else ""
            name = signal.Signals(-failed.exitcode).name
            print(f"zerogen: {failed.what}: stopped by {name}{guess}", file=sys.stderr)
        elif not failed.exitcode:
            print(f"zerogen: {failed.what}: ended too early", file=sys.stderr)
        sys.exit(max(1, failed.exitcode))
    except Stopped as stopped:
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        sys.exit(1)
