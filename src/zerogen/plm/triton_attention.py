"""Attention of one token per row on a GPU, in a kernel that reads the keys that a row sees and no others."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 16  # keys that are read at a time
_HIDDEN = -1e37  # of the additive mask: a key that is not seen


@triton.jit
def _attend(
    query, key, value, mask, out, scaling, columns, heads, groups, stride, hidden,
    width: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Attend for one head of one row, with the softmax kept up to date from block to block of its keys."""
    line = tl.program_id(0).to(tl.int64)
    row, head = line // heads, line % heads
    first = (row * (heads // groups) + head // groups) * columns
    feature, column = tl.arange(0, padded), tl.arange(0, block)
    real = feature < width
    one = tl.load(query + line * width + feature, mask=real, other=0.0).to(tl.float32) * scaling
    top, total, summed = -1e38, 0.0, tl.zeros([padded], tl.float32)
    for start in range(0, columns, block):
        place = start + column
        bias = tl.load(mask + row * stride + place, mask=place < columns, other=-1e38)
        if tl.max(bias, 0) > hidden:
            at = (first + place)[:, None] * width + feature[None]
            there = (place < columns)[:, None] & real[None]
            keys = tl.load(key + at, mask=there, other=0.0).to(tl.float32)
            score = tl.sum(keys * one[None], 1) + bias
            highest = tl.maximum(top, tl.max(score, 0))
            weight, fade = tl.exp(score - highest), tl.exp(top - highest)
            values = tl.load(value + at, mask=there, other=0.0).to(tl.float32)
            summed = summed * fade + tl.sum(weight[:, None] * values, 0)
            total = total * fade + tl.sum(weight, 0)
            top = highest
    tl.store(out + line * width + feature, (summed / total).to(out.dtype.element_ty), mask=real)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Return [B, 1, Hq, D] for query [B, Hq, 1, D], key and value [B, Hkv, T, D] and additive mask [B or 1, 1, 1, T].

    Query heads share key heads in order, as in grouped attention. Sums are in float32.
    """
    rows, heads, _, width = query.shape
    # A slice of queries, keys and values in one tensor may be a view that is not dense.
    lines, bias = query.reshape(-1, width).contiguous(), mask.reshape(len(mask), -1).contiguous()
    out = torch.empty_like(lines)
    with torch.cuda.device(query.device):  # where Triton starts it
        _attend[(rows * heads,)](
            lines, key.contiguous(), value.contiguous(), bias, out, scaling, key.shape[2], heads, heads // key.shape[1],
            bias.shape[1] if len(bias) > 1 else 0, _HIDDEN,
            width=width, padded=triton.next_power_of_2(width), block=_COLUMNS, num_warps=1 if width <= 64 else 2,
        )  # fmt: skip
    return out.view(rows, 1, heads, width)
