"""Dropout for training on a CPU: the same distribution as `nn.Dropout`, from a quarter of the random numbers.

torch draws a number per element for `nn.Dropout`, one after the other, which took a fifth of MiniLM's training time;
here one 64-bit number serves four elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16


class QuarterDropout(nn.Module):
    """Zeroes elements of any shape with probability `p` (to within 2**-17) and scales the others to keep the mean."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropped = round(p * _LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.dropped:
            return x
        numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
        levels = numbers.view(torch.int16)[: x.numel()].view(x.shape)  # uniform from -_LEVELS / 2 up
        kept = (levels >= self.dropped - _LEVELS // 2).to(x.dtype)
        return x * kept.mul_(_LEVELS / max(1, _LEVELS - self.dropped))


@contextmanager
def quarter_dropout(model: nn.Module) -> Iterator[None]:
    """Let a model train with `QuarterDropout` for every `nn.Dropout`, and give it back its own layers."""
    replaced = [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if type(child) is nn.Dropout
    ]
    for module, name, child in replaced:
        setattr(module, name, QuarterDropout(child.p))
    try:
        yield
    finally:
        for module, name, child in replaced:
            setattr(module, name, child)
