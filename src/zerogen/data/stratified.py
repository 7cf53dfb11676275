"""Draw and order rows so that labels stay balanced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from operator import itemgetter
from random import Random

from zerogen.data.records import Example, derive
from zerogen.errors import UserError


def stratified(rows: Sequence[Example], size: int, seed: int) -> list[Example]:
    """Draw `size` rows without replacement, in proportion to the labels, in the order of `stratified_order`.

    Raises `UserError` when there are fewer than `size` rows.
    """
    if size > len(rows):
        raise UserError(f"limit={size}: there are only {len(rows)} rows")
    return stratified_order(rows, seed)[:size]


def stratified_order(rows: Sequence[Example], seed: int) -> list[Example]:
    """Shuffle rows by a seed so that every prefix holds the labels in proportion (each to within one row)."""
    by_label: dict[str, list[Example]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    for label, group in by_label.items():
        Random(derive(seed, "stratified", label)).shuffle(group)
    return [row for _, _, row in merge(*map(_placed, by_label, by_label.values()), key=itemgetter(0, 1))]


def _placed(label: str, group: Sequence[Example]) -> Iterator[tuple[float, str, Example]]:
    """Yield row i of a group of g with its place, (i + 1/2) / g of the whole: they are equally spaced."""
    for i, row in enumerate(group):
        yield (i + 0.5) / len(group), label, row
