"""Draw and order rows so that labels stay balanced."""

from __future__ import annotations

from collections.abc import Sequence
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
    positions = []
    for label, group in by_label.items():
        Random(derive(seed, "stratified", label)).shuffle(group)
        # Row i of a group of g is placed at (i + 1/2) / g of the whole: the rows of each label are equally spaced.
        positions += [((i + 0.5) / len(group), label, row) for i, row in enumerate(group)]
    return [row for _, _, row in sorted(positions, key=lambda item: item[:2])]
