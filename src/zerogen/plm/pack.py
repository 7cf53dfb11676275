"""Linear layers with weights laid out once for oneDNN, for decoding in bfloat16 on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Up to this many rows the packed product is faster; beyond, oneDNN's own reordering costs nothing in comparison.
_MOST_ROWS = 192


class PackedLinear(nn.Module):
    """Same product as an `nn.Linear`, [..., in] to [..., out], on a reordered copy of its weight for few rows."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > _MOST_ROWS * x.shape[-1]:
            return nn.functional.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class Float32Head(nn.Module):
    """An output layer computed in float32, [..., in] to float32 logits [..., V], on a reordered copy of its weight.

    A logit of 20 rounded to bfloat16 is off by up to 0.06, and tokens tie that do not.
    """

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, None if linear.bias is None else linear.bias.float()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().float(), rows)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.float(), self.packed, self.bias, "none", [], "")


def pack_linears(model: nn.Module, head: nn.Module | None, rows: int = 64) -> None:
    """Replace the `nn.Linear` layers of a bfloat16 CPU model in place; `rows` is the batch it will mostly see.

    head: the layer among them that computes logits; it is computed in float32.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, (Float32Head if child is head else PackedLinear)(child, rows))
