"""`Metric`: the name and titles of a metric, and the functions that compute it and its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zerogen.data.records import Example


@dataclass(frozen=True)
class Metric:
    """A figure about predictions on gold rows, shown in percent.

    name: its key in result.json, trend.csv and results.csv. title: what people call it.
    compute: takes gold rows, their predictions and the labels of the task; returns a share of 1.
    interval: takes the same; returns the bounds of the 95 % interval, or None where nothing can be said.
    kinds: the kinds of task that it can be computed for.

    Where these differ from title or name: full_title for headings, column for the header of a narrow column, hub for
    the metric's name on the Hub. in_tables: whether tables over several runs have a column for it.
    """

    name: str
    title: str
    compute: Callable[[Sequence[Example], Sequence[Any], Sequence[str]], float]
    interval: Callable[[Sequence[Example], Sequence[Any], Sequence[str]], list[float] | None] | None = None
    kinds: tuple[str, ...] = ("classification", "pair")
    full_title: str = ""
    column: str = ""
    hub: str = ""
    in_tables: bool = True

    def __post_init__(self) -> None:
        for field, otherwise in (("full_title", self.title), ("column", self.title), ("hub", self.name)):
            object.__setattr__(self, field, getattr(self, field) or otherwise)


@dataclass(frozen=True)
class Reported:
    """What a result says of a metric beside those of its kind of task, so that to present it needs no code of it.

    source: what names it in the configuration, with the fingerprint of its code. interval: 95 %, None for none.
    """

    source: str
    title: str
    column: str
    interval: list[float] | None = None
