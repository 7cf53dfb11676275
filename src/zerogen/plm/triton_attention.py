"""Attention of one token per row on a GPU: kernels that write its key, and read the keys that it sees."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 8  # keys that are read at a time
_LINES = 16  # keys and values that are written at a time
_HIDDEN = -1e37  # of the additive mask: a key that is not seen


@triton.jit
def _attend(
    query, key, value, mask, last, source, shared, out, scaling, columns, heads, groups,
    row_stride, head_stride, mask_stride, hidden,
    width: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Attend for one head of one row, with the softmax kept up to date from block to block of its keys."""
    line = tl.program_id(0).to(tl.int64)
    row, head = line // heads, line % heads
    end, common = columns, 0
    own = (row * (heads // groups) + head // groups) * columns
    other = own
    if last is not None:
        end = tl.load(last + row) + 1
        common = tl.load(shared + row)
        other = (tl.load(source + row) * (heads // groups) + head // groups) * columns
    feature, column = tl.arange(0, padded), tl.arange(0, block)
    real = feature < width
    one = tl.load(query + row * row_stride + head * head_stride + feature, mask=real, other=0.0)
    one = one.to(tl.float32) * scaling
    top, total, summed = -1e38, 0.0, tl.zeros([padded], tl.float32)
    for start in range(0, end, block):
        place = start + column
        bias = tl.load(mask + row * mask_stride + place, mask=place < end, other=-1e38)
        if tl.max(bias, 0) > hidden:
            at = (tl.where(place < common, other, own) + place)[:, None] * width + feature[None]
            there = (bias > hidden)[:, None] & real[None]
            keys = tl.load(key + at, mask=there, other=0.0).to(tl.float32)
            score = tl.sum(keys * one[None], 1) + bias
            highest = tl.maximum(top, tl.max(score, 0))
            weight, fade = tl.exp(score - highest), tl.exp(top - highest)
            values = tl.load(value + at, mask=there, other=0.0).to(tl.float32)
            summed = summed * fade + tl.sum(weight[:, None] * values, 0)
            total = total * fade + tl.sum(weight, 0)
            top = highest
    tl.store(out + line * width + feature, (summed / total).to(out.dtype.element_ty), mask=real)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float,
    last: Tensor | None = None, source: Tensor | None = None, shared: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return [B, 1, Hq, D] for query [B, Hq, 1, D], key and value [B, Hkv, T, D] and additive mask [B or 1, 1, 1, T].

    Query heads share key heads in order, as in grouped attention. Sums are in float32.

    last, source, shared: int64 [B], all or none. The last key that a row sees; another row, or the row itself, whose
    first keys and values are the same, and how many of them are. Those are read from there: where many rows have the
    same source, from the GPU's cache.
    """
    rows, heads, _, width = query.shape
    query = query if query.stride(-1) == 1 else query.contiguous()
    bias = mask.reshape(len(mask), -1).contiguous()
    out = query.new_empty(rows, 1, heads, width)
    with torch.cuda.device(query.device):  # where Triton starts it
        _attend[(rows * heads,)](
            query, key.contiguous(), value.contiguous(), bias, last, source, shared, out, scaling,
            key.shape[2], heads, heads // key.shape[1],
            query.stride(0), query.stride(1), bias.shape[1] if len(bias) > 1 else 0, _HIDDEN,
            width=width, padded=triton.next_power_of_2(width), block=_COLUMNS, num_warps=1,
        )  # fmt: skip
    return out


@triton.jit
def _write(
    key, value, keys, values, copies, rows, first, count, heads, length, columns,
    key_row, key_head, key_column, value_row, value_head, value_column,
    width: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Copy some of the keys and values, counted by row, head and column."""
    index = (tl.program_id(0) * block + tl.arange(0, block)).to(tl.int64)
    real = index < count
    feature = tl.arange(0, padded)[None]
    there = real[:, None] & (feature < width)
    number, head, column = index // (heads * length), index // length % heads, index % length
    source = tl.load(copies + number, mask=real, other=0)
    target = tl.load(rows + number, mask=real, other=0)
    target = (target * heads + head) * columns + tl.load(first + number, mask=real, other=0) + column
    target = target[:, None] * width + feature
    at = (source * key_row + head * key_head + column * key_column)[:, None] + feature
    tl.store(keys + target, tl.load(key + at, mask=there), mask=there)
    at = (source * value_row + head * value_head + column * value_column)[:, None] + feature
    tl.store(values + target, tl.load(value + at, mask=there), mask=there)


def write(
    key: Tensor, value: Tensor, keys: Tensor, values: Tensor, copies: Tensor, rows: Tensor, first: Tensor
) -> None:
    """Write keys and values [B, H, L, D] into dense memory, keys and values [S, H, T, D].

    copies, rows, first: int64 [N]. Row copies[i] of the B goes to row rows[i] of the memory, from column first[i] on.
    """
    _, heads, length, width = key.shape
    key, value = (states if states.stride(-1) == 1 else states.contiguous() for states in (key, value))
    count = len(rows) * heads * length
    with torch.cuda.device(key.device):
        _write[(triton.cdiv(count, _LINES),)](
            key, value, keys, values, copies, rows, first, count, heads, length, keys.shape[2],
            *key.stride()[:3], *value.stride()[:3],
            width=width, padded=triton.next_power_of_2(width), block=_LINES, num_warps=1,
        )  # fmt: skip
