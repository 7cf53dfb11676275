"""Kernels of our own for a GPU, where Triton can compile them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class GpuKernels(NamedTuple):
    """What a decoding step takes from `triton_attention` and `triton_sampling`; they say what each does."""

    attend: Callable[..., Tensor]
    write: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]
    block_sums: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    draw: Callable[[Tensor, Tensor, Tensor, Tensor, float, int], tuple[Tensor, Tensor, Tensor]]


@cache
def gpu_kernels(device: torch.device) -> GpuKernels | None:
    """Return the kernels for a device; None for a CPU, and where Triton, or a compiler that it needs, is not there."""
    if device.type != "cuda":
        return None
    try:
        from zerogen.plm.triton_attention import attend, write
        from zerogen.plm.triton_sampling import block_sums, draw

        # All of them, and as a step calls them: what cannot be compiled has to show here.
        states, one = torch.ones(1, 1, 1, 16, device=device), torch.zeros(1, dtype=torch.long, device=device)
        attended = attend(states, states, states, states[..., :1] * 0, 1.0, one, one, one)
        keys, values = torch.zeros_like(states), torch.zeros_like(states)
        write(states, states, keys, values, one, one, one)
        logits = torch.tensor([[0.0, 99.0]], device=device)
        tops, sums = block_sums(logits, 16)
        tokens, _, inside = draw(logits, tops, sums.double(), sums.double() / 2, 0.9, 16)
        written = torch.cat([attended.flatten(), keys.flatten(), values.flatten()])
        works = bool((written == 1).all() & (tokens == 1).all() & inside.all())
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return None
    return GpuKernels(attend, write, block_sums, draw) if works else None
