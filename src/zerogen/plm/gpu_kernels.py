"""Kernels of our own for a GPU, where Triton can compile them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class GpuKernels(NamedTuple):
    """See `triton_attention` and `triton_sampling`."""

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

        states = torch.ones(1, 1, 1, 16, device=device)
        works = bool((attend(states, states, states, states[..., :1] * 0, 1.0) == 1).all())
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return None
    return GpuKernels(attend, write, block_sums, draw) if works else None
