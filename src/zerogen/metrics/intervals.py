"""95 % confidence intervals of proportions and means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

_Z = 1.959964  # of a 95 % interval


def wilson_interval(right: int, rows: int) -> dict[str, Any]:
    """Return rows, the share of them that is right, and its 95 % interval (Wilson, 1927). `rows` is 1 or more."""
    p, spread = right / rows, _Z**2 / rows
    middle = (p + spread / 2) / (1 + spread)
    half = math.sqrt(p * (1 - p) * spread + spread**2 / 4) / (1 + spread)
    return {"rows": rows, "share": p, "interval": [max(0.0, middle - half), min(1.0, middle + half)]}


def mean(values: Sequence[float]) -> dict[str, Any]:
    """Return rows, the mean of their values (0 to 1) and its 95 % interval.

    Wilson's where every value is 0 or 1; else by the normal approximation, which one value says nothing about.
    """
    if all(value in (0, 1) for value in values):
        return wilson_interval(round(sum(values)), len(values))
    centre = statistics.fmean(values)
    half = _Z * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 1.0
    return {"rows": len(values), "share": centre, "interval": [max(0.0, centre - half), min(1.0, centre + half)]}
