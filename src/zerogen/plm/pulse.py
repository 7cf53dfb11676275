"""Signs of life between processes that see one folder and not each other, as on two machines."""

from __future__ import annotations

import threading
import time
from pathlib import Path

_EVERY = 5.0  # seconds between two beats
_LOOK = 1.0  # seconds between two looks
SILENT = 60  # looks that find no beat, after which a process counts as dead


class Pulse:
    """Shows that this process lives, by a file that changes every few seconds. Use it as a context.

    folder: an existing one; when it goes, so does the pulse.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path, self._end = folder / f"{name}.pulse", threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        beats = 0
        while not self._end.is_set():
            try:
                self._path.write_text(str(beats), encoding="utf-8")
            except FileNotFoundError:
                return
            except OSError:  # a full disk today need not be full in five seconds
                pass
            beats += 1
            self._end.wait(_EVERY)


class Watch:
    """Tells which processes have shown no sign of life for a while.

    It counts its own looks and not seconds: clocks of two machines differ, and a process that was itself stopped for
    an hour has not looked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._looked = float("-inf")
        self._seen: dict[str, tuple[str, int]] = {}  # the last beat by name, and looks since that found no other

    def silent(self, names: set[str]) -> set[str]:
        """Return those of the names whose pulse did not change in `SILENT` looks, of which this call may be one.

        One that is returned has as many looks again until it is the next time: it may only have been stopped.
        """
        if time.monotonic() >= self._looked + _LOOK:
            self._looked = time.monotonic()
            for name in names:
                beat, looks = self._read(name), 0
                if name in self._seen and self._seen[name][0] == beat:
                    looks = self._seen[name][1] + 1
                self._seen[name] = beat, looks
        found = {name for name in names if self._seen.get(name, ("", 0))[1] >= SILENT}
        for name in found:
            del self._seen[name]
        return found

    def _read(self, name: str) -> str:
        try:
            return (self.folder / f"{name}.pulse").read_text(encoding="utf-8")
        except OSError:
            return ""
