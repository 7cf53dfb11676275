"""Write a file block by block, so that the same work goes on after the last whole block if it was stopped."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from zerogen.errors import UserError
from zerogen.support.files import write_whole, writing
from zerogen.support.process import Stopped

Say = Callable[[str], None]


@dataclass(frozen=True)
class Output:
    """Where rows are written, a block at a time.

    file: takes the text of a block. rows: how many rows earlier work has written, which are not to be written again.
    keep: called after each block with the number of all rows so far; what it was called for is not lost.
    """

    file: TextIO
    rows: int
    keep: Callable[[int], None]


def is_finished(path: Path, key: dict[str, Any], what: str) -> bool:
    """Tell whether a file is there and whole, as the work of `key` has written it.

    what: the option that names the file, for errors. Raises `UserError` for a file that anything else has written.
    """
    if not path.exists():
        return False
    state = _read_state(path)
    whole = path.is_file() and not _part(path).exists() and path.stat().st_size == state.get("bytes")
    if whole and not _differences(state, key):
        return True
    found = "is a folder" if path.is_dir() else f"is there already{_by_another(state, key)}"
    raise UserError(f"{what} {path}: {found}; name another file, or delete it")


@contextmanager
def resumable(path: Path, key: dict[str, Any], what: str, say: Say) -> Iterator[Output]:
    """Yield what writes a file that is not there yet; it has its name once the block ends without an exception.

    Until then the rows are in PATH.part. PATH.state.json holds how many of its bytes are whole blocks, of how many
    rows, and `key`, a JSON value: what the rows depend on. what: the option that names the file, for errors. say: is
    told that earlier work goes on, and on a signal that this can. Raises `UserError` if earlier work was another, if
    another process writes the file, and if there is no folder for it.
    """
    if not path.parent.is_dir():
        raise UserError(f"{what} {path}: there is no folder {path.parent}")
    part = _part(path)
    with writing(path.parent):
        file = part.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{what} {path}: another process is writing it") from error
        blocks = _Blocks(file.fileno(), path, key)
        blocks.go_on(what)
        if blocks.rows:
            say(f"{path}: going on after {blocks.rows:,} rows")
        try:
            yield Output(blocks.text, blocks.rows, blocks.keep)
            part.replace(path)
        except BaseException as error:
            if not blocks.rows:
                part.unlink(missing_ok=True)
                _state(path).unlink(missing_ok=True)
            elif isinstance(error, Stopped):
                say(f"{blocks.rows:,} rows are kept in {part}; run the same command again to go on")
            raise


class _Blocks:
    """The whole blocks in PATH.part, of which the state says how many rows and bytes they are."""

    def __init__(self, descriptor: int, path: Path, key: dict[str, Any]) -> None:
        self.descriptor, self.path, self.key = descriptor, path, key
        self.rows = self.bytes = 0
        self.text = io.StringIO()

    def go_on(self, what: str) -> None:
        """Take over the whole blocks of earlier work, and drop what follows them."""
        part, state = _part(self.path), _read_state(self.path)
        if part.stat().st_size:
            if _differences(state, self.key):
                raise UserError(
                    f"{what} {self.path}: {part} is there{_by_another(state, self.key)}; delete it to start anew"
                )
            self.rows, self.bytes = state["rows"], state["bytes"]
            if part.stat().st_size < self.bytes:
                raise UserError(f"{what} {self.path}: {part} is damaged; delete it to start anew")
        os.ftruncate(self.descriptor, self.bytes)
        self._write_state()  # before the first byte, so that none is there without its key

    def keep(self, rows: int) -> None:
        """Write the text of a block to disk, and then that it is there."""
        content = self.text.getvalue().encode()
        self.text.seek(0)
        self.text.truncate()
        with writing(self.path.parent):
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
            os.fsync(self.descriptor)
        self.rows, self.bytes = rows, self.bytes + len(content)
        self._write_state()

    def _write_state(self) -> None:
        state = {"rows": self.rows, "bytes": self.bytes, "key": self.key}
        write_whole(json.dumps(state, indent=2, ensure_ascii=False) + "\n", _state(self.path))


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _state(path: Path) -> Path:
    return path.with_name(f"{path.name}.state.json")


def _read_state(path: Path) -> dict[str, Any]:
    """Return the state of a file, an empty one where none is there that can be read."""
    try:
        state = json.loads(_state(path).read_text(encoding="utf-8"))
        whole = type(state["rows"]) is type(state["bytes"]) is int and isinstance(state["key"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return state if whole else {}


def _differences(state: dict[str, Any], key: dict[str, Any]) -> list[str]:
    """Return the names of what differs between the key of a state and another; the word `all` without a state."""
    if not state:
        return ["all"]
    before, now = state["key"], json.loads(json.dumps(key))
    return [name for name in {**now, **before} if before.get(name) != now.get(name)]


def _by_another(state: dict[str, Any], key: dict[str, Any]) -> str:
    """Say what differed when a file was written, if that is known."""
    differences = _differences(state, key) if state else []
    return f", written with another {' and '.join(differences)}" if differences else ", from something else"
