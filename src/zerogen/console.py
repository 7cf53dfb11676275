"""The console, and how errors leave the program."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from zerogen.errors import ChildFailed, UserError
from zerogen.process import Stopped, stop_no_longer

if TYPE_CHECKING:
    from rich.console import Console


# What the machine or its files do to a run, and what to do then.
_OUTSIDE = {
    errno.ENOSPC: "free some space and run the same command again; what was finished is kept",
    errno.EDQUOT: "free some space and run the same command again; what was finished is kept",
    errno.EFBIG: "files of that size are not allowed here; raise the limit and run the same command again",
    errno.EROFS: "name another folder, such as output_dir=FOLDER",
    errno.EACCES: "name a file that can be read, or a folder that can be written to",
    errno.EPERM: "name a file that can be read, or a folder that can be written to",
    errno.ENOENT: "it may have been deleted meanwhile; run the same command again",
    errno.ESTALE: "it may have been deleted meanwhile; run the same command again",
    errno.ENOTDIR: "name another folder",
    errno.EISDIR: "name a file",
    errno.EEXIST: "move it away and run the same command again",
    errno.ENAMETOOLONG: "choose shorter names",
    errno.EIO: "the disk has failed; run the same command again, or name another folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n) and run the same command again",
}


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

    2 and one line where the user's input is wrong, 1 and one line where a file or the disk fails, 128 + signal for a
    stop; anything else keeps its traceback and 1.
    """
    replace_unknown_characters()
    try:
        yield
        lost = stop_no_longer()
        if lost is not None:
            sys.exit(128 + lost)
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
        drop_output()
        sys.exit(1)
    except OSError as error:
        if error.errno not in _OUTSIDE:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        # As the line of a UserError, which shows what a terminal would obey.
        print(f"zerogen: error: {UserError(f'{where}{error.strerror}; {_OUTSIDE[error.errno]}')}", file=sys.stderr)
        sys.exit(1)
    finally:
        stop_no_longer()


@contextmanager
def ending_with_the_reader() -> Iterator[None]:
    """End without an error where the reader of standard output has enough, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        drop_output()  # else the interpreter tries to write it at its end


def replace_unknown_characters() -> None:
    """Let the console show a mark for a character that its encoding does not have, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def drop_output() -> None:
    """Throw away what is still to be written to standard output, which nobody reads any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
