"""Atomic file writes, file names, and locks that let one process at a time write to a folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from zerogen.errors import UserError
from zerogen.support.progress import Progress

if TYPE_CHECKING:
    from filelock import FileLock

LOCK = ".lock"
WORKS = "works"  # the folder in that of a pool by which processes, on other machines too, exchange chunks
LONGEST_NAME = 96  # bytes, as on the Hub; a file name may have 255 and combines two or more names
_MIN_FREE = 1 << 20  # bytes; a disk with less free space counts as full


def write_whole(text: str, path: Path) -> None:
    """Write a text to a file in UTF-8, completely or not at all."""
    write_bytes(text.encode("utf-8"), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Write bytes to a file, completely or not at all."""
    with whole(path) as file:
        file.write(content)


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write; what is written takes the place of the file of that name after the block, or never."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with writing(path.parent), scratch.open("wb") as file:
            yield file
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def append_line(text: str, path: Path) -> None:
    """Append a line to a file, which may end in an incomplete line, and flush it to disk before returning."""
    path.parent.mkdir(exist_ok=True)  # but not what it lies in: that was deleted meanwhile
    with writing(path.parent), path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            whole = file.read() == b"\n"
            file.write(b"" if whole else b"\n")
        file.write(text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def require_folder(folder: Path) -> None:
    """Raise `FileNotFoundError` for a folder that is gone: what is in it would be half of what it held."""
    if not folder.is_dir():
        raise _gone(folder)


def _gone(folder: Path) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def remove_scratch(folder: Path) -> None:
    """Remove what processes that are no more were writing in a folder and those below, but for the chunks in `WORKS`.

    Of processes elsewhere nobody can tell here whether they run.
    """
    for path in folder.rglob("*.part"):
        match = re.search(r"\.(\d+)\.part$", path.name)
        if match and path.parent.name != WORKS and not is_running(int(match[1])):
            path.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Tell whether a process of this machine, given by its number, has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise an `OSError` that says why writing to a folder failed, whatever error a library raises instead.

    torch and safetensors raise their own errors when the disk is full or the folder is gone.
    """
    try:
        yield
    except OSError as error:
        # The error of a write names no file; that of a copy names its source.
        if error.errno is not None and not Path(str(error.filename)).is_relative_to(folder):
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise
    except Exception as error:
        if not folder.is_dir():
            raise _gone(folder) from error
        if shutil.disk_usage(folder).free < _MIN_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def put_aside(path: Path) -> Path:
    """Rename an unusable file to `name_aside`."""
    return path.rename(name_aside(path))


def name_aside(path: Path) -> Path:
    """Return NAME.damaged for an unusable file, or else the first free name of NAME.damaged-2, -3, ..."""
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    return aside


def expanded(path: str, key: str) -> str:
    """Return a path with `~` replaced by the home folder. Raises `UserError` for a user who does not exist.

    key: the configuration key or option that holds the path, for errors.
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
    """Return a text as part of a file name: replace characters that are not allowed, and cut it to `LONGEST_NAME`."""
    name = re.sub(r"[^\w.-]", "-", text).lstrip(".")
    return name.encode()[:LONGEST_NAME].decode(errors="ignore")


@contextmanager
def exclusive(folder: Path, progress: Progress) -> Iterator[None]:
    """Create a folder and hold a lock in it; if another process holds the lock, say so and wait.

    Remove a folder that was created for the lock if it holds nothing else at the end. Raises `FileNotFoundError` if it
    was deleted meanwhile, and with it what the block has written before.
    """
    lock, new_folders = _acquire(folder, progress)
    try:
        remove_scratch(folder)
        held = _inode(folder / LOCK)
        try:
            yield
        except OSError:
            raise
        except Exception as error:  # of a file that cannot be read, say
            if _inode(folder / LOCK) != held:
                raise _gone(folder) from error
            raise
        if _inode(folder / LOCK) != held:
            raise _gone(folder)
    finally:
        # Remove it before the release: a waiting process creates its own folder.
        if new_folders and folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}:
            with suppress(OSError):  # another process may be writing there already
                (folder / LOCK).unlink(missing_ok=True)
                for place in new_folders:
                    place.rmdir()
        lock.release()


def _inode(path: Path) -> int | None:
    """Return what identifies a file, None where there is none."""
    return path.stat().st_ino if path.exists() else None


def _acquire(folder: Path, progress: Progress) -> tuple[FileLock, list[Path]]:
    """Return the lock, and the folders that were created for it."""
    from filelock import FileLock, Timeout

    lock, waiting = FileLock(folder / LOCK), False
    while True:
        new_folders = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return lock.acquire(timeout=-1 if waiting else 0).lock, new_folders
        except Timeout:
            progress.say(f"waiting for another run that writes {folder}")
            waiting = True
        except FileNotFoundError:  # the other process left nothing, and removed the folder
            continue
