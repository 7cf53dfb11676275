"""Progress of long steps: library functions report counts and lines, the command line draws them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, count
from typing import Any

Advance = Callable[[int], None]


class Progress:
    """Shows nothing: the default of library functions."""

    @contextmanager
    def bar(self, description: str, total: int | None, unit: str) -> Iterator[Advance]:
        """Open a bar of `total` units around a block, which calls the yielded function with the units just done.

        total: None where nobody knows.
        """
        yield lambda done: None

    @contextmanager
    def wait(self, description: str) -> Iterator[None]:
        """Show that a block of unknown length is under way."""
        yield

    def say(self, text: str) -> None:
        """Show a line (plain text, no markup)."""


class RichProgress(Progress):
    """Bars with rates and remaining time on a terminal; where there is none, lines about what takes long.

    times: seconds after the beginning of a block at which a line says how far it is; the last one goes on, again and
        again. A block within another has its lines together with those of the outer one.
    """

    times: tuple[float, ...] = (2, 10, 30)

    def __init__(self, console: Any) -> None:
        self.console = console
        self._open: list[tuple[float, Callable[[float], str]]] = []  # blocks: when they began, and what to say
        self._saying = threading.Lock()

    @contextmanager
    def bar(self, description: str, total: int | None, unit: str) -> Iterator[Advance]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Any) -> Text:
                return Text(f"{task.speed:,.1f} {unit}/s" if task.speed else "", style="progress.data.speed")

        if not self.console.is_terminal:
            done = 0

            def add(more: int) -> None:
                nonlocal done
                done += more

            def line(seconds: float) -> str:
                of = "" if total is None else f" of {total:,}"
                rate = f", {done / seconds:,.1f} {unit}/s" if done else ""
                return f"{description}: {done:,}{of} {unit} after {seconds:,.0f} s{rate}"

            with self._lines(line):
                yield add
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(description, total=total)
            yield lambda done: progress.advance(task, done)

    @contextmanager
    def wait(self, description: str) -> Iterator[None]:
        if self.console.is_terminal:
            with self.console.status(description):
                yield
        else:
            with self._lines(lambda seconds: f"{description}: {seconds:,.0f} s so far"):
                yield

    @contextmanager
    def _lines(self, line: Callable[[float], str]) -> Iterator[None]:
        """Say `line(seconds)` at the times of a block, for logs."""
        block = (time.monotonic(), line)
        with nullcontext() if self._open else self._clock():
            self._open.append(block)
            try:
                yield
            finally:
                with self._saying:  # nothing is said of a block that has ended
                    self._open.remove(block)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """Let a thread say lines during the outermost block, also while it computes a single thing."""
        ended = threading.Event()
        failed: list[BaseException] = []
        thread = threading.Thread(target=self._tell, args=(ended, failed), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if failed:  # such as a pipe that nobody reads any more
            raise failed[0]

    def _tell(self, ended: threading.Event, failed: list[BaseException]) -> None:
        """Say at the times of the outermost block how far all blocks are that began early enough."""
        started = time.monotonic()
        try:
            for after in chain(self.times, count(2 * self.times[-1], self.times[-1])):
                if ended.wait(max(0.0, started + after - time.monotonic())):
                    return
                with self._saying:
                    for began, line in tuple(self._open):
                        if began <= started + after - self.times[0]:
                            self.say(line(time.monotonic() - began))
        except BaseException as error:
            failed.append(error)

    def say(self, text: str) -> None:
        # A line of a log stays one: whoever searches it looks for paths.
        self.console.print(text, markup=False, highlight=False, soft_wrap=not self.console.is_terminal)
