"""Nucleus sampling of a row of logits on a GPU, in a kernel that reads it once and one that reads parts of it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 16  # blocks that a program sums up


@triton.jit
def _sum_blocks(logits, tops, sums, width, stride, blocks, block: tl.constexpr, tile: tl.constexpr):
    """Find the largest logit of some blocks of a row, and the sum of exp(logit - largest) over each."""
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1) * tile + tl.arange(0, tile)
    place = index[:, None] * block + tl.arange(0, block)[None]
    one = tl.load(logits + row * stride + place, mask=place < width, other=float("-inf")).to(tl.float32)
    top = tl.max(one, 1)
    total = tl.sum(tl.exp(one - tl.where(top == float("-inf"), 0.0, top)[:, None]), 1)
    tl.store(tops + row * blocks + index, top, mask=index < blocks)
    tl.store(sums + row * blocks + index, total, mask=index < blocks)


def block_sums(logits: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return of each block of logits [B, V] the largest one, and the sum of exp(logit - largest); [B, blocks].

    block: how many logits it has, a power of two; the last one may have fewer. Both are in float32. Where a block holds
    a NaN or an infinite logit, its sum is a NaN.
    """
    rows, width = logits.shape
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    tops = torch.empty(rows, triton.cdiv(width, block), device=logits.device)
    sums = torch.empty_like(tops)
    blocks = tops.shape[1]
    with torch.cuda.device(logits.device):  # where Triton starts it
        _sum_blocks[(rows, triton.cdiv(blocks, _TILE))](
            logits, tops, sums, width, logits.stride(0), blocks, block=block, tile=_TILE, num_warps=4
        )
    return tops, sums


@triton.jit
def _draw(
    logits, tops, upto, uniforms, tokens, chosen, inside, width, stride, blocks, draws,
    top_p: tl.constexpr, block: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    """Draw tokens for a row until one of them is in the nucleus."""
    row = tl.program_id(0).to(tl.int64)
    every = tl.arange(0, padded)
    largest = tl.max(tl.load(tops + row * blocks + every, mask=every < blocks, other=float("-inf")), 0)
    ends = tl.load(upto + row * blocks + every, mask=every < blocks, other=float("inf"))
    total = tl.load(upto + row * blocks + blocks - 1)
    one, token, found, draw = largest, row * 0, total != total, 0
    while (draw < draws) & (not found):
        target = tl.load(uniforms + row * draws + draw) * total
        index = tl.minimum(tl.sum((ends <= target).to(tl.int32), 0), blocks - 1)
        before = tl.load(upto + row * blocks + index - 1, mask=index > 0, other=0.0)
        place = index * block + tl.arange(0, block)
        some = tl.load(logits + row * stride + place, mask=place < width, other=float("-inf")).to(tl.float32)
        inner = tl.cumsum(tl.exp(some - largest).to(tl.float64), 0)
        within = tl.minimum(tl.sum((inner <= target - before).to(tl.int32), 0), block - 1)
        token = tl.minimum(index * block + within, width - 1).to(tl.int64)
        one = tl.load(logits + row * stride + token).to(tl.float32)
        if top_p < 1:
            mass = tl.zeros([block], tl.float32)
            for other in range(0, blocks):
                if tl.load(tops + row * blocks + other) > one:
                    place = other * block + tl.arange(0, block)
                    some = tl.load(logits + row * stride + place, mask=place < width, other=float("-inf"))
                    some = some.to(tl.float32)
                    mass += tl.where(some > one, tl.exp(some - largest), 0.0)
            found = tl.sum(mass, 0) < top_p * total
        else:
            found = tl.exp(one - largest) > 0
        draw += 1
    tl.store(tokens + row, token)
    tl.store(chosen + row, one)
    tl.store(inside + row, found)


def draw(
    logits: Tensor, tops: Tensor, upto: Tensor, uniforms: Tensor, top_p: float, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw up to R times from softmax(logits [B, V]) by uniforms [B, R], until a token is in the nucleus.

    tops, upto: of each block of logits the largest one, and the sum of exp(logit - largest of the row) up to its end,
    in float32 and float64, [B, blocks]. Returns the tokens [B], their logits [B] in float32, and which of them are in
    the nucleus [B]; a row whose sum is a NaN counts as inside. Blocks without a logit larger than a token's are not
    read to learn that.
    """
    rows, width = logits.shape
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    tokens = torch.empty(rows, dtype=torch.long, device=logits.device)
    chosen = torch.empty(rows, device=logits.device)
    inside = torch.empty(rows, dtype=torch.bool, device=logits.device)
    blocks = tops.shape[1]
    with torch.cuda.device(logits.device):
        _draw[(rows,)](
            logits, tops, upto.contiguous(), uniforms.contiguous(), tokens, chosen, inside, width, logits.stride(0),
            blocks, uniforms.shape[1],
            top_p=min(top_p, 1.0), block=block, padded=triton.next_power_of_2(blocks), num_warps=1,
        )  # fmt: skip
    return tokens, chosen, inside
