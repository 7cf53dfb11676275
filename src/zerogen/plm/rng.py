"""Counter-based random numbers: each depends on its row and token alone, not on what else is drawn.

The mixing function is that of SplitMix64 (Steele et al. 2014, https://doi.org/10.1145/2660193.2660195). It uses
integer operations that wrap around, so every device gives the same numbers, and there is no state to read.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed integer
_FACTORS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


def fold_in(keys: Tensor, places: Tensor | int) -> Tensor:
    """Return the keys, int64, of numbered places under other keys: of a row's tokens, of a token's draws."""
    if isinstance(places, int):
        places = torch.full_like(keys, places)
    mixed = keys + (places + 1) * _GAMMA
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        mixed = (mixed ^ _shifted(mixed, shift)) * factor
    return mixed ^ _shifted(mixed, 31)


def uniform(keys: Tensor) -> Tensor:
    """Return the number in [0, 1), float64, of each key."""
    return _shifted(keys, 11).double() * 2.0**-53


def _shifted(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)  # >> repeats the sign
