"""The batched decoding loop: slots that are refilled as rows end, over one preallocated KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zerogen.plm.cache import SlotCache, causal_mask, pad_right
from zerogen.plm.network import Network
from zerogen.plm.sampling import Sampler


class Engine(Protocol):
    """How next-token logits are computed for a set of lines, each holding one prompt and what was sampled behind it."""

    def prefill(self, lines: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor: ...
    def step(self, tokens: Tensor, positions: Tensor) -> Tensor: ...
    def keep(self, lines: Tensor) -> None: ...


class CachedEngine:
    """Keeps keys and values: a step costs one token per line. For models that use transformers' attention interface.

    The logits that it returns are overwritten by its next call.
    """

    def __init__(self, network: Network, lines: int, capacity: int) -> None:
        self.network = network
        self.cache = SlotCache(network.config.num_hidden_layers, lines, capacity, network.device)
        self.scratch: Tensor | None = None

    def _logits(self, states: Tensor) -> Tensor:
        """Return logits [b, V] of states [b, H]; a packed head puts them into memory that every call uses again."""
        if not self.network.reuses_memory:
            return self.network.logits(states)
        if self.scratch is None:
            self.scratch = torch.empty(self.cache.slots, self.network.config.vocab_size, device=states.device)
        return self.network.logits(states, self.scratch[: len(states)])

    def prefill(self, lines: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts into `lines` and return logits [b, V] behind their last tokens; equal ones are read once."""
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        index = {prompt: i for i, prompt in enumerate(distinct)}
        cache, device = self.cache, self.network.device
        cache.rows = lines
        cache.copies = torch.tensor([index[tuple(prompt)] for prompt in prompts], device=device)
        ids = pad_right(distinct, device)
        cache.reserve(ids.shape[1])
        states = self.network.hidden(
            input_ids=ids,
            position_ids=torch.arange(ids.shape[1], device=device)[None],
            attention_mask=causal_mask(ids.shape[1], 0, device),
            past_key_values=cache,
            use_cache=True,
        )
        last = torch.tensor([len(prompt) - 1 for prompt in distinct], device=device)
        states = states[torch.arange(len(distinct), device=device), last]
        logits = self._logits(states[cache.copies])
        cache.rows, cache.copies = torch.arange(cache.slots, device=device), None
        return logits

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Append one token [S] at its position [S] to every line and return logits [S, V]."""
        cache = self.cache
        cache.advance(positions)
        unseen = torch.arange(cache.width, device=tokens.device) > positions[:, None]  # [S, T]
        mask = torch.zeros(unseen.shape, device=tokens.device).masked_fill_(unseen, torch.finfo(torch.float32).min)
        states = self.network.hidden(
            input_ids=tokens[:, None],
            position_ids=positions[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=cache,
            use_cache=True,
        )
        return self._logits(states[:, -1])

    def keep(self, lines: Tensor) -> None:
        self.cache.keep(lines)


class RecomputingEngine:
    """Reads every line again at each step: slow, but right for any causal model."""

    def __init__(self, network: Network, lines: int, capacity: int) -> None:
        self.network = network
        self.rows: list[list[int]] = [[0] for _ in range(lines)]

    def prefill(self, lines: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
        for line, prompt in zip(lines.tolist(), prompts, strict=True):
            self.rows[line] = list(prompt)
        return self._logits([self.rows[line] for line in lines.tolist()])

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        for row, token, position in zip(self.rows, tokens.tolist(), positions.tolist(), strict=True):
            row[position:] = [token]
        return self._logits(self.rows)

    def _logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        device = self.network.device
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        return self.network.logits(self.network.read(rows)[torch.arange(len(rows), device=device), last])

    def keep(self, lines: Tensor) -> None:
        self.rows = [self.rows[line] for line in lines.tolist()]


@dataclass
class Row:
    """A row under way: the index of its prompts, the tokens sampled so far, and their log-probability behind each."""

    index: int
    tokens: list[int]
    logprobs: list[float]


@torch.inference_mode()
def decode(
    engine: Engine,
    prompts: Sequence[Sequence[Sequence[int]]],
    sampler: Sampler,
    generator: torch.Generator,
    slots: int,
    max_new_tokens: int,
    ends: Callable[[Sequence[Row]], Sequence[str | None]],
    device: torch.device,
) -> Iterator[tuple[Row, str]]:
    """Continue each of `prompts` until it ends, and yield (row, finish) as rows end.

    prompts: for each row its prompt and its counter-prompts, all as token ids, equally many for every row. The same
        token is appended to all of them; slot number s decodes them on the engine's lines s * (1 + K) and following.
    slots: rows decoded at a time; a slot whose row has ended takes the next prompts.
    ends: given rows that just got a token, returns "stop" or "eos" for each that is complete, else None.
    """
    if not prompts:
        return
    each = len(prompts[0])
    queue = iter(range(len(prompts)))
    waiting = len(prompts)
    rows: list[Row | None] = [None] * slots
    tokens = torch.zeros(slots, dtype=torch.long, device=device)
    positions = torch.zeros(slots, each, dtype=torch.long, device=device)

    def lines_of(which: Sequence[int]) -> Tensor:
        return torch.tensor([slot * each + i for slot in which for i in range(each)], device=device)

    def advance(which: list[int], logits: Tensor) -> Iterator[tuple[Row, str]]:
        """Sample a token for the slots `which` from logits [len(which) * each, V]; yield the rows that it ends."""
        drawn, logprobs = sampler(logits.view(len(which), each, -1), generator)
        tokens[which] = drawn
        current: list[tuple[int, Row]] = []
        for slot, token, logprob in zip(which, drawn.tolist(), logprobs.tolist(), strict=True):
            row = rows[slot]
            if row is None:  # an empty slot is computed along, and what is drawn for it means nothing
                continue
            row.tokens.append(token)
            row.logprobs = [total + new for total, new in zip(row.logprobs, logprob, strict=True)]
            current.append((slot, row))
        for (slot, row), finish in zip(current, ends([row for _, row in current]), strict=True):
            if finish is None and len(row.tokens) >= max_new_tokens:
                finish = "length"
            if finish is not None:
                rows[slot] = None
                yield row, finish

    while True:
        free = [slot for slot, row in enumerate(rows) if row is None]
        # A prefill has a fixed cost: wait until an eighth of the slots is free.
        if waiting and len(free) >= max(1, len(rows) // 8):
            filled = list(zip(free, queue, strict=False))
            waiting -= len(filled)
            for slot, index in filled:
                rows[slot] = Row(index, [], [0.0] * each)
                positions[slot] = torch.tensor([len(prompt) - 1 for prompt in prompts[index]], device=device)
            which = [slot for slot, _ in filled]
            logits = engine.prefill(lines_of(which), [prompt for _, index in filled for prompt in prompts[index]])
            yield from advance(which, logits)
            continue
        active = [slot for slot, row in enumerate(rows) if row is not None]
        if not active:
            return
        if not waiting and len(active) <= len(rows) * 3 // 4:
            engine.keep(lines_of(active))
            rows = [rows[slot] for slot in active]
            tokens, positions = tokens[active], positions[active]
            free = []
        positions += 1
        if free:
            tokens[free] = positions[free] = 0
        logits = engine.step(tokens.repeat_interleave(each), positions.flatten())
        yield from advance(list(range(len(rows))), logits)
