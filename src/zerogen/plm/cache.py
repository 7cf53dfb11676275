"""The key-value cache of the rows being decoded, and the attention that reads it.

Rows are aligned on the left: a row's tokens stand at positions 0, 1, 2, ... of its own cache line, so no row is ever
padded on the left and positions are right for learned and rotary embeddings alike.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from zerogen.plm.gpu_kernels import gpu_kernels

ATTENTION = "zerogen_slots"
_GROWTH = 32  # columns that a cache grows by
_SCORES = 1 << 16  # attention scores per head of a row from which on a fused kernel is faster


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Attend with query [B, Hq, Q, D] to key and value [B, Hkv, T, D] under an additive mask [B or 1, 1, Q, T].

    Query heads that share a key head are folded into one matrix product, so keys are not repeated. For long rows they
    are, for the sake of a fused kernel, whose memory does not grow with Q * T and which takes half the time or less.
    """
    if any(extras.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        # Which shows when the model is loaded.
        raise NotImplementedError("an attention with soft caps, sinks or biases")
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    if length == 1 and key.shape == value.shape and (kernels := gpu_kernels(query.device)) is not None:
        # A model that hands on other keys than the cache's loses it: the mask alone says what is seen, too.
        cache: SlotCache | None = getattr(key, "slot_cache", None)
        extent = () if cache is None else (cache.positions, cache.source, cache.shared)
        return kernels.attend(query, key, value, mask, scaling or width**-0.5, *extent), None
    if length * key.shape[2] > _SCORES:
        # Not enable_gqa, with which no fused kernel of a GPU takes a mask.
        key, value = (states.repeat_interleave(heads // groups, 1) for states in (key, value))
        fused = scaled_dot_product_attention(query, key, value, mask.to(query.dtype), scale=scaling)
        return fused.transpose(1, 2).contiguous(), None
    # Scaled before the product, which could exceed what float16 holds.
    folded = (query * (scaling or width**-0.5)).reshape(batch, groups, -1, width)  # [B, Hkv, Hq/Hkv * Q, D]
    # Keys on the left: on a CPU, transposing a slice of the cache makes oneDNN copy it.
    scores = torch.matmul(key, folded.transpose(-1, -2)).transpose(-1, -2)
    scores = scores.to(torch.float32, memory_format=torch.contiguous_format)
    scores.view(batch, groups, -1, length, scores.shape[-1]).add_(mask[:, :, None])
    out = torch.matmul(scores.softmax(-1).to(value.dtype), value)
    return out.view(batch, heads, length, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, slot_attention)


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer for all slots, [S, H, T, D]; T grows as rows get longer, in the same memory."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        # A cycle would keep hundreds of megabytes until the garbage collector finds it.
        self.cache = cast(SlotCache, weakref.proxy(cache))

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        lines = self.cache.slots * key_states.shape[1] * self.cache.capacity
        self.memory = [self.cache.claim(lines * states.shape[-1], states) for states in (key_states, value_states)]
        self.keys, self.values = key_states[:0], value_states[:0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        cache = self.cache
        if len(self.keys) != cache.slots or self.keys.shape[2] != cache.width:
            self.keys = self._wider(self.keys, self.memory[0])
            self.values = self._wider(self.values, self.memory[1])
        # Of a model that is spread over GPUs each layer would need a cache of its own: indexing raises an error.
        fits = key_states.shape == value_states.shape and key_states.device == self.keys.device == cache.all_rows.device
        kernels = gpu_kernels(key_states.device) if fits else None
        if cache.copies is not None:  # prefill: one row per distinct prompt, copied into each of its slots
            before, length = cache.before, cache.before + key_states.shape[2]
            if kernels is not None:
                kernels.write(
                    key_states, value_states, self.keys, self.values, cache.copies, cache.rows, cache.positions
                )
            else:
                self.keys[cache.rows, :, before:length] = key_states[cache.copies]
                self.values[cache.rows, :, before:length] = value_states[cache.copies]
            if not before:
                return key_states, value_states
            return self.keys[cache.rows[:1], :, :length], self.values[cache.rows[:1], :, :length]
        if kernels is not None:
            kernels.write(key_states, value_states, self.keys, self.values, cache.rows, cache.rows, cache.positions)
            self.keys.slot_cache = cache  # type: ignore[attr-defined]  # for `slot_attention`
            return self.keys, self.values
        lines = cache.lines(self.keys.shape[1])
        for states, new in ((self.keys, key_states), (self.values, value_states)):
            states.view(-1, states.shape[-1]).index_copy_(0, lines, new.reshape(-1, new.shape[-1]))
        return self.keys, self.values

    def _wider(self, states: Tensor, memory: Tensor) -> Tensor:
        """Lay out the slots anew, for as many columns as the cache has now."""
        slots, width = self.cache.slots, self.cache.width
        _, heads, columns, each = states.shape
        copy = states.clone()
        # Dense, and never a slice of the columns: oneDNN would copy it at every step.
        wider = memory[: slots * heads * width * each].view(slots, heads, width, each)
        wider[: len(copy), :, :columns] = copy[:, :, :width]
        return wider

    def keep(self, slots: Tensor) -> None:
        """Drop all slots but these."""
        for name, memory in zip(("keys", "values"), self.memory, strict=True):
            states = getattr(self, name)[slots]
            setattr(self, name, memory[: states.numel()].view(states.shape).copy_(states))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.width, 0

    def get_seq_length(self) -> int:
        return self.cache.width

    def get_max_length(self) -> int:
        return self.cache.capacity


class SlotCache(Cache):
    """A KV cache in which each row is written at its own position."""

    def __init__(self, layers: int, slots: int, capacity: int, device: torch.device) -> None:
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])
        self.slots, self.capacity = slots, capacity
        self.all_rows = torch.arange(slots, device=device)
        self.rows = self.all_rows  # slots that the current forward writes
        self.copies: Tensor | None = None  # prefill: input row of each of `rows`
        self.before = 0  # prefill of a single prompt in blocks: its tokens read so far
        self.width = 0  # columns
        self.positions = torch.zeros_like(self.all_rows)  # of the first token that is written to each of `rows`
        # Of each slot another one, or itself, that begins with the same columns, and how many: a GPU's kernel reads
        # them there.
        self.source, self.shared = self.all_rows.clone(), torch.zeros_like(self.all_rows)
        self._lines: dict[int, Tensor] = {}
        self._memory = torch.empty(0)

    def claim(self, count: int, like: Tensor) -> Tensor:
        """Return memory for `count` numbers of the dtype and on the device of `like`.

        All layers share one block, large enough that the system takes it back as soon as it is no longer used.
        """
        if len(self._memory) < count or self._memory.dtype != like.dtype:
            # Zeros: a column that is not written yet is multiplied by a weight of zero, which a NaN would survive.
            self._memory = like.new_zeros(count * 2 * len(self.layers))
        memory, self._memory = self._memory[:count], self._memory[count:]
        return memory

    def reserve(self, length: int) -> None:
        """Make room for rows of `length` tokens."""
        if length > self.width:
            self.width = min(self.capacity, -(-length // _GROWTH) * _GROWTH)

    def advance(self, positions: Tensor) -> None:
        """Let the next forward write one token per slot, at `positions` [S]."""
        if self.width < self.capacity:
            self.reserve(int(positions.max()) + 1)
        self.positions = positions
        self._lines.clear()

    def lines(self, heads: int) -> Tensor:
        """Return where a layer with that number of heads writes, as rows of its [S * H * T, D] view, [S * H]."""
        if heads not in self._lines:  # the same in every layer
            line = self.rows[:, None] * heads + torch.arange(heads, device=self.rows.device)
            self._lines[heads] = (line * self.width + self.positions[:, None]).flatten()
        return self._lines[heads]

    def keep(self, slots: Tensor) -> None:
        """Drop all slots but these."""
        self.slots = len(slots)
        self.all_rows = self.rows = torch.arange(self.slots, device=slots.device)
        self.source, self.shared = self.all_rows.clone(), torch.zeros_like(self.all_rows)
        for layer in self.layers:
            if layer.is_initialized:  # one that reads another layer's keys has none
                layer.keep(slots)


class _PrefixLayer(CacheLayerMixin):
    """Keys and values of one layer for a prefix [B, H, P, D], put before those of the tokens read after it."""

    def __init__(self, grows: bool) -> None:
        super().__init__()
        self.grows = grows

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = key_states, value_states
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.keys is not None and self.values is not None:
            rows = len(key_states)
            key_states = torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], 2)
            value_states = torch.cat([self.values.expand(rows, -1, -1, -1), value_states], 2)
        if self.grows:
            self.lazy_initialization(key_states, value_states)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def get_max_length(self) -> int:
        return -1


class PrefixCache(Cache):
    """The prefix of the rows that are read next, the same for all of them.

    grows: each forward adds the tokens it reads, so that a row can be read in blocks; otherwise the cache stays as it
        is.
    """

    def __init__(self, layers: int, grows: bool = True) -> None:
        super().__init__(layers=[_PrefixLayer(grows) for _ in range(layers)])

    def copy(self, grows: bool) -> PrefixCache:
        """Return a cache with the same prefix, in the same memory."""
        other = PrefixCache(len(self.layers), grows)
        for layer, same in zip(self.layers, other.layers, strict=True):
            same.keys, same.values = layer.keys, layer.values
        return other


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return ids [B, T], rows padded with zeros at their end: under causal attention no real token sees them."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def causal_mask(length: int, before: int, device: torch.device) -> Tensor:
    """Return an additive float32 mask [1, 1, T, before + T]: a token sees itself and those before it."""
    mask = torch.full((length, length), torch.finfo(torch.float32).min, device=device).triu(1)
    return torch.nn.functional.pad(mask, (before, 0))[None, None]
