"""Demonstrations: what stands before a prompt, chosen by one function from the rows that were accepted earlier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.support.doors import call, load

# A chooser gets the row that is asked for (its text is empty), the accepted rows that it may show, the task, and what
# it may draw from; it returns the text to put before the prompt, which may be empty.
Chooser = Callable[[Example, Sequence[Example], TaskConfig, Random], str]

DEMONSTRATIONS = {"none": "zerogen.generation.demonstrations.none"}
ROUND = 4  # chunks that are shown the same rows, those of the chunks before: so many may be written side by side


def none(draft: Example, rows: Sequence[Example], task: TaskConfig, random: Random) -> str:
    """Show nothing."""
    return ""


def chooser(name: str) -> Chooser:
    """Return the chooser that a name stands for. Raises `UserError` if it stands for none."""
    choose: Any = load("demonstrations", name, DEMONSTRATIONS)
    if not callable(choose):
        raise UserError(f"demonstrations={name}: is no function")

    def checked(draft: Example, rows: Sequence[Example], task: TaskConfig, random: Random) -> str:
        text = call("demonstrations", name, choose, draft, rows, task, random)
        if not isinstance(text, str):
            raise UserError(f"demonstrations={name}: returned {type(text).__name__}; allowed is a text")
        return text

    return checked


def end_of_round(index: int) -> int:
    """Return the number of the first chunk after the round of chunk `index`."""
    return (index // ROUND + 1) * ROUND
