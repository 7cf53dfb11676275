"""The console that runs write to, and how exceptions become error lines and exit codes."""

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

from zerogen.errors import ChildFailed, ServerFailed, UserError
from zerogen.support.process import Stopped, stop_no_longer

if TYPE_CHECKING:
    from rich.console import Console


# Failures of the machine or its files, and the advice for each.
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
    """An argument parser that reports errors in one line, like the rest of the program."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def make_console() -> Console:
    """Return the console that a run writes to."""
    from rich.console import Console

    return Console(soft_wrap=False)


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Turn exceptions into exit codes.

    Exit with 2 and one line if the user's input is wrong, with 1 and one line if a file, the disk or a server fails,
    and with 128 + signal if a signal stopped the run. Any other exception keeps its traceback and exit code 1.
    """
    replace_unknown_characters()
    try:
        yield
        signal_number = stop_no_longer()
        if signal_number is not None:
            sys.exit(128 + signal_number)
    except (UserError, ServerFailed) as error:
        print(f"zerogen: error: {describe(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except ChildFailed as failure:
        if failure.exitcode <= 0:  # so it could not report this itself
            print(f"zerogen: {describe(failure)}", file=sys.stderr)
        sys.exit(max(1, failure.exitcode))
    except Stopped as stop:
        sys.exit(128 + stop.number)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        drop_output()
        sys.exit(1)
    except OSError as error:
        if error.errno not in _OUTSIDE:
            raise
        print(f"zerogen: error: {describe(error)}", file=sys.stderr)
        sys.exit(1)
    finally:
        stop_no_longer()


def describe(error: Exception) -> str:
    """Say in one line why something failed, and what can be done about it where that is known."""
    if isinstance(error, ChildFailed):
        said = f"{error.what}: {error.reason}"
    elif isinstance(error, OSError) and error.errno in _OUTSIDE:
        where = "" if error.filename is None else f"{error.filename}: "
        said = f"{where}{error.strerror}; {_OUTSIDE[error.errno]}"
    elif isinstance(error, (UserError, ServerFailed)):
        said = str(error)
    else:
        said = f"{type(error).__name__}: {error}"
    return str(UserError(said))  # which escapes control characters that the terminal would obey


@contextmanager
def ending_with_the_reader() -> Iterator[None]:
    """Exit without an error if the reader of standard output stops early, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        drop_output()  # otherwise the interpreter tries to write it on exit


def replace_unknown_characters() -> None:
    """Print a replacement mark for characters that the console's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def drop_output() -> None:
    """Discard output that is still buffered for standard output, which nobody reads any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
