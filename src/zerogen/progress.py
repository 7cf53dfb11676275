"""Progress of long steps: library functions report counts and lines, the command line draws them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Advance = Callable[[int], None]


class Quiet:
    """Shows nothing: the default of library functions."""

    @contextmanager
    def bar(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        """Open a bar of `total` units around a block, which calls the yielded function with the units just done."""
        yield lambda done: None

    @contextmanager
    def wait(self, description: str) -> Iterator[None]:
        """Show that a block of unknown length is under way."""
        yield

    def say(self, text: str) -> None:
        """Show a line (plain text, no markup)."""


class Rich(Quiet):
    """Bars with rates and remaining time on a terminal; a line every half minute where there is none."""

    def __init__(self, console: Any) -> None:
        self.console = console

    @contextmanager
    def bar(self, description: str, total: int, unit: str) -> Iterator[Advance]:
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
            yield self._lines(description, total, unit)
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

    def _lines(self, description: str, total: int, unit: str) -> Advance:
        """Return an advance that says every half minute how far it is, for logs."""
        started = said = time.monotonic()
        done = 0

        def advance(more: int) -> None:
            nonlocal done, said
            done += more
            now = time.monotonic()
            if now - said > 30:
                said = now
                self.say(f"{description}: {done:,} of {total:,} {unit}, {done / (now - started):,.1f} {unit}/s")

        return advance

    @contextmanager
    def wait(self, description: str) -> Iterator[None]:
        if self.console.is_terminal:
            with self.console.status(description):
                yield
        else:
            yield

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)
