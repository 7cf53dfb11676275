"""Files that are there whole or not at all, and folders that one process writes at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zerogen.progress import Quiet


def write_whole(text: str, path: Path) -> None:
    """Write a file completely or not at all."""
    write_bytes(text.encode("utf-8"), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file completely or not at all."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def file_name(text: str) -> str:
    """Replace what cannot stand in a file name."""
    return re.sub(r"[^\w.-]", "-", text)


@contextmanager
def exclusive(folder: Path, progress: Quiet, name: str = ".lock") -> Iterator[None]:
    """Hold a lock in a folder, which is made; wait while another process holds it, and say so."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"waiting for another run that writes {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
