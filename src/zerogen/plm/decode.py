"""The batched decoding loop: slots that are refilled as rows end, over one preallocated KV cache.

Rows are aligned on the left: a slot's tokens stand at positions 0, 1, 2, ... of its own cache line, so no row is ever
padded on the left and positions are right for learned and rotary embeddings alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from zerogen.plm.sampling import Sampler

ATTENTION = "zerogen_slots"


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

    Query heads that share a key head are folded into one matrix product, so keys are never repeated.
    """
    if any(extras.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise NotImplementedError("an attention with soft caps, sinks or biases")  # found when the model is loaded
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    scaling = width**-0.5 if scaling is None else scaling
    folded = query.reshape(batch, groups, -1, width)  # [B, Hkv, Hq/Hkv * Q, D]
    # Keys on the left: on a CPU, transposing a slice of the cache makes oneDNN copy it.
    scores = torch.matmul(key, folded.transpose(-1, -2)).transpose(-1, -2) * scaling
    scores = scores.reshape(batch, groups, heads // groups, length, -1) + mask[:, :, None]
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    out = torch.matmul(weights.view(batch, groups, -1, key.shape[-2]), value)
    return out.view(batch, heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, slot_attention)


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer for all slots, [S, H, T, D]."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        _, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(self.cache.slots, heads, self.cache.capacity, width)
        self.values = value_states.new_zeros(self.cache.slots, heads, self.cache.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        cache = self.cache
        if cache.copies is not None:  # prefill: one row per distinct prompt, copied into each of its slots
            length = key_states.shape[2]
            self.keys[cache.rows, :, :length] = key_states[cache.copies]
            self.values[cache.rows, :, :length] = value_states[cache.copies]
            return key_states, value_states
        self.keys[cache.rows, :, cache.positions] = key_states[:, :, 0]
        self.values[cache.rows, :, cache.positions] = value_states[:, :, 0]
        return self.keys[:, :, : cache.width], self.values[:, :, : cache.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.width, 0

    def get_seq_length(self) -> int:
        return self.cache.width

    def get_max_length(self) -> int:
        return self.cache.capacity


class SlotCache(Cache):
    """A KV cache whose rows are written each at its own position."""

    def __init__(self, layers: int, slots: int, capacity: int, device: torch.device) -> None:
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])
        self.slots, self.capacity = slots, capacity
        self.rows = torch.arange(slots, device=device)  # slots that the current forward writes
        self.copies: Tensor | None = None  # prefill: input row of each of `rows`
        self.positions = torch.zeros(slots, dtype=torch.long, device=device)
        self.width = 0  # cache columns that the current forward sees

    def keep(self, slots: Tensor) -> None:
        """Drop all slots but these."""
        self.slots = len(slots)
        self.rows = torch.arange(self.slots, device=slots.device)
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[slots], layer.values[slots]


class Engine(Protocol):
    """How next-token logits are computed for a set of slots."""

    def prefill(self, slots: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor: ...
    def step(self, tokens: Tensor, positions: Tensor) -> Tensor: ...
    def keep(self, slots: Tensor) -> None: ...


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return ids [B, T], rows filled with zeros at their end: under causal attention no real token sees them."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def causal_mask(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an additive mask [1, 1, T, T] in which a token sees itself and what stands before it."""
    return torch.full((length, length), torch.finfo(dtype).min, dtype=dtype, device=device).triu(1)[None, None]


class CachedEngine:
    """Keeps keys and values: a step costs one token per slot. For models that use transformers' attention interface."""

    def __init__(self, model: PreTrainedModel, slots: int, capacity: int) -> None:
        self.model = model
        layers = model.config.get_text_config().num_hidden_layers
        self.cache = SlotCache(layers, slots, capacity, model.device)

    def prefill(self, slots: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts into `slots` and return logits [b, V] behind their last tokens."""
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        index = {prompt: i for i, prompt in enumerate(distinct)}
        cache, device = self.cache, self.model.device
        cache.rows, cache.copies = slots, torch.tensor([index[tuple(prompt)] for prompt in prompts], device=device)
        logits = last_logits(self.model, distinct, past_key_values=cache, use_cache=True)
        logits = logits[cache.copies]
        cache.rows, cache.copies = torch.arange(cache.slots, device=device), None
        return logits

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Append one token [S] at its position [S] to every slot and return logits [S, V]."""
        cache = self.cache
        cache.positions, cache.width = positions, int(positions.max()) + 1
        dtype = self.model.dtype
        seen = torch.arange(cache.width, device=tokens.device) <= positions[:, None]  # [S, T]
        mask = torch.zeros(seen.shape, dtype=dtype, device=tokens.device).masked_fill_(~seen, torch.finfo(dtype).min)
        out = self.model(
            input_ids=tokens[:, None],
            position_ids=positions[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=cache,
            use_cache=True,
        )
        return out.logits[:, -1]

    def keep(self, slots: Tensor) -> None:
        self.cache.keep(slots)


def last_logits(model: PreTrainedModel, rows: Sequence[Sequence[int]], **kwargs: Any) -> Tensor:
    """Return logits [B, V] behind the last token of each row, by one forward with a 4D causal mask."""
    ids = pad_right(rows, model.device)
    last = torch.tensor([len(row) - 1 for row in rows], device=model.device)
    columns, where = last.unique(return_inverse=True)  # logits only where some row ends
    out = model(
        input_ids=ids,
        position_ids=torch.arange(ids.shape[1], device=ids.device)[None],
        attention_mask=causal_mask(ids.shape[1], model.dtype, ids.device),
        logits_to_keep=columns,
        **kwargs,
    )
    return out.logits[torch.arange(len(rows), device=ids.device), where]


class RecomputingEngine:
    """Reads every row again at each step: slow, but right for any causal model."""

    def __init__(self, model: PreTrainedModel, slots: int, capacity: int) -> None:
        self.model = model
        self.rows: list[list[int]] = [[0] for _ in range(slots)]

    def prefill(self, slots: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
        for slot, prompt in zip(slots.tolist(), prompts, strict=True):
            self.rows[slot] = list(prompt)
        return self._logits([self.rows[slot] for slot in slots.tolist()])

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        for row, token, position in zip(self.rows, tokens.tolist(), positions.tolist(), strict=True):
            row[position:] = [token]
        return self._logits(self.rows)

    def _logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return forward_plain(self.model, rows)[
            torch.arange(len(rows), device=self.model.device),
            torch.tensor([len(row) - 1 for row in rows], device=self.model.device),
        ]

    def keep(self, slots: Tensor) -> None:
        self.rows = [self.rows[slot] for slot in slots.tolist()]


def forward_plain(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return logits [B, T, V] by the model's own forward, with a plain 2D mask over right padding."""
    ids = pad_right(rows, model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (ids.shape[1] - len(row)) for row in rows], device=model.device)
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits


@dataclass
class Row:
    """A row under way: the index of its prompt, the tokens sampled so far, and the sum of their log-probabilities."""

    index: int
    tokens: list[int]
    logprob: float = 0.0


@torch.inference_mode()
def decode(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    generator: torch.Generator,
    slots: int,
    max_new_tokens: int,
    ends: Callable[[Sequence[Row]], Sequence[str | None]],
    device: torch.device,
) -> Iterator[tuple[Row, str]]:
    """Continue each of `prompts` (token ids) until it ends, and yield (row, finish) as rows end.

    slots: rows decoded at a time; a slot whose row has ended takes the next prompt.
    ends: given rows that just got a token, returns "stop" or "eos" for each that is complete, else None.
    """
    queue = iter(range(len(prompts)))
    waiting = len(prompts)
    rows: list[Row | None] = [None] * slots
    tokens = torch.zeros(slots, dtype=torch.long, device=device)
    positions = torch.zeros(slots, dtype=torch.long, device=device)

    def advance(which: list[int], logits: Tensor) -> Iterator[tuple[Row, str]]:
        """Sample a token for the slots `which` from logits [len(which), V]; yield the rows that it ends."""
        drawn, logprobs = sampler(logits, generator)
        tokens[which] = drawn
        current = []
        for slot, token, logprob in zip(which, drawn.tolist(), logprobs.tolist(), strict=True):
            row = rows[slot]
            assert row is not None
            row.tokens.append(token)
            row.logprob += logprob
            current.append(row)
        for slot, row, finish in zip(which, current, ends(current), strict=True):
            if finish is None and len(row.tokens) >= max_new_tokens:
                finish = "length"
            if finish is not None:
                rows[slot] = None
                tokens[slot] = positions[slot] = 0
                yield row, finish

    while True:
        free = [slot for slot, row in enumerate(rows) if row is None]
        # A prefill has a fixed cost: wait until an eighth of the slots is free.
        if waiting and len(free) >= max(1, len(rows) // 8):
            filled = list(zip(free, queue, strict=False))
            waiting -= len(filled)
            for slot, index in filled:
                rows[slot] = Row(index, [])
                positions[slot] = len(prompts[index]) - 1
            which = [slot for slot, _ in filled]
            logits = engine.prefill(torch.tensor(which, device=device), [prompts[index] for _, index in filled])
            yield from advance(which, logits)
            continue
        active = [slot for slot, row in enumerate(rows) if row is not None]
        if not active:
            return
        if not waiting and len(active) <= len(rows) * 3 // 4:
            kept = torch.tensor(active, device=device)
            engine.keep(kept)
            rows = [rows[slot] for slot in active]
            tokens, positions = tokens[kept], positions[kept]
            active = list(range(len(active)))
        positions[active] += 1
        logits = engine.step(tokens, positions)
        yield from advance(active, logits if len(active) == len(rows) else logits[active])
