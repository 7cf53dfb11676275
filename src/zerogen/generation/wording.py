"""The words in which a text is asked for: one of a task's sets of prompts, and values of its attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

from zerogen.config.task import prompts_of
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import derive


@dataclass(frozen=True, slots=True)
class Wording:
    """A set of prompts, of which one is a row's own and the others are counter-prompts.

    key: where they stand in the task. attributes: what replaces `<A>` in them.
    """

    key: str
    prompts: Mapping[str, str]
    attributes: str


def draw_wording(task: TaskConfig, seed: int, uid: str) -> Wording:
    """Return the wording of the row `uid`, whose set and whose value of each attribute are equally probable ones."""
    random = Random(derive(seed, "wording", uid))
    key, prompts = random.choice(list(prompts_of(task).items()))
    return Wording(key, prompts, ", ".join(random.choice(values) for values in task.attributes.values()))


def longest_wordings(task: TaskConfig, length: Callable[[str], int]) -> Iterator[Wording]:
    """Yield each set of prompts with the longest value of each attribute."""
    attributes = ", ".join(max(values, key=length) for values in task.attributes.values())
    for key, prompts in prompts_of(task).items():
        yield Wording(key, prompts, attributes)
