"""Files that are there whole or not at all, and folders that one process writes at a time."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from zerogen.errors import UserError
from zerogen.progress import Progress

if TYPE_CHECKING:
    from filelock import FileLock

_LOCK = ".lock"
LONGEST_NAME = 96  # bytes, as on the Hub; a file name holds two names and more, and may have 255
_FULL = 1 << 20  # bytes left on a disk from which on it counts as full


def write_whole(text: str, path: Path) -> None:
    """Write a file completely or not at all."""
    write_bytes(text.encode("utf-8"), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file completely or not at all."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with writing(path.parent):
            scratch.write_bytes(content)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def append_line(text: str, path: Path) -> None:
    """Append a line to a file, which may end in a part of one, and put it on disk before returning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path.parent), path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            whole = file.read() == b"\n"
            file.write(b"" if whole else b"\n")
        file.write(text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise an `OSError` that says why files could not be written into a folder, whatever a library made of it.

    torch and safetensors raise errors of their own where the disk is full or the folder is gone.
    """
    try:
        yield
    except OSError as error:
        # A write does not say where it was; a copy names what it read.
        if error.errno is not None and not Path(str(error.filename)).is_relative_to(folder):
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise
    except Exception as error:
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder)) from error
        if shutil.disk_usage(folder).free < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def put_aside(path: Path) -> Path:
    """Rename a file that cannot be used to NAME.damaged, or the first NAME.damaged-2, -3, ... that is free."""
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    return path.rename(aside)


def expanded(path: str, key: str) -> str:
    """Return a path with `~` replaced by the home folder. Raises `UserError` for the home of a user who is not there.

    key: names where the path was given.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise UserError(
            f"{key}={path}: there is no such user; a file whose name begins with ~ is written ./{path}"
        ) from error


def file_name(text: str) -> str:
    """Return a text as part of a file name: what cannot stand there is replaced, and what is too long is cut."""
    name = re.sub(r"[^\w.-]", "-", text).lstrip(".")
    return name.encode()[:LONGEST_NAME].decode(errors="ignore")


@contextmanager
def exclusive(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock in a folder, which is made; wait while another process holds it, and say so.

    A folder that was made for it and holds nothing else in the end is removed again.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = _acquired(folder, progress)
    try:
        yield
    finally:
        # Before it is released: who waits begins with a folder of its own.
        if made and folder.is_dir() and {path.name for path in folder.iterdir()} <= {_LOCK}:
            with suppress(OSError):  # another process may be writing there already
                (folder / _LOCK).unlink(missing_ok=True)
                for place in made:
                    place.rmdir()
        lock.release()


def _acquired(folder: Path, progress: Progress) -> FileLock:
    from filelock import FileLock, Timeout

    lock, told = FileLock(folder / _LOCK), False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return lock.acquire(timeout=-1 if told else 0).lock
        except Timeout:
            progress.say(f"waiting for another run that writes {folder}")
            told = True
        except FileNotFoundError:  # the other one ended with nothing to leave, and removed the folder
            continue
