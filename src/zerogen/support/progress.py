"""Progress of long steps: silent by default, bars on a terminal, timed lines in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, count
from typing import Any

Advance = Callable[[int], None]


class Progress:
    """Progress that shows nothing: the default of library functions."""

    @contextmanager
    def bar(self, description: str, total: int | None, unit: str) -> Iterator[Advance]:
        """Show a bar of `total` units during a block; the block calls the yielded function with the units just done.

        total: None if unknown.
        """
        yield lambda units: None

    @contextmanager
    def wait(self, description: str) -> Iterator[None]:
        """Show that a block of unknown length is running."""
        yield

    def say(self, text: str) -> None:
        """Show a line (plain text, no markup)."""


class RichProgress(Progress):
    """Bars with rates and remaining time on a terminal; elsewhere, lines about steps that take long.

    times: seconds after a block begins at which a line reports its progress; the last value repeats as the interval.
        Lines of a nested block appear together with those of the outer block.
    """

    times: tuple[float, ...] = (2, 10, 30)

    def __init__(self, console: Any) -> None:
        self.console = console
        self._open: list[tuple[float, Callable[[float], str]]] = []  # open blocks: (start time, line to print)
        self._lock = threading.Lock()

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

            def add(units: int) -> None:
                nonlocal done
                done += units

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
            yield lambda units: progress.advance(task, units)

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
        """Print `line(seconds)` at the scheduled times of a block, for logs."""
        block = (time.monotonic(), line)
        with nullcontext() if self._open else self._clock():
            self._open.append(block)
            try:
                yield
            finally:
                with self._lock:  # print nothing about a block that has ended
                    self._open.remove(block)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """Print lines from a thread during the outermost block, even while it is in a single long computation."""
        end = threading.Event()
        errors: list[BaseException] = []
        thread = threading.Thread(target=self._print_lines, args=(end, errors), daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
        if errors:  # such as a pipe that nobody reads any more
            raise errors[0]

    def _print_lines(self, end: threading.Event, errors: list[BaseException]) -> None:
        """Print, at the scheduled times of the outermost block, the progress of every block that began early enough."""
        started = time.monotonic()
        try:
            for after in chain(self.times, count(2 * self.times[-1], self.times[-1])):
                if end.wait(max(0.0, started + after - time.monotonic())):
                    return
                with self._lock:
                    for began, line in tuple(self._open):
                        if began <= started + after - self.times[0]:
                            self.say(line(time.monotonic() - began))
        except BaseException as error:
            errors.append(error)

    def say(self, text: str) -> None:
        # Do not wrap lines of a log: people search them for paths.
        self.console.print(text, markup=False, highlight=False, soft_wrap=not self.console.is_terminal)
