"""The batched decoding loop: slots that are refilled as rows end, over one preallocated KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zerogen.plm.cache import SlotCache, causal_mask, pad_right
from zerogen.plm.cuda_graph import GraphedStep
from zerogen.plm.network import Network
from zerogen.plm.rng import fold_in
from zerogen.plm.sampling import Sampler

_PREFILL = 1 << 22  # attention scores per head that exist at a time while prompts are read
# One in so many slots has to be free before prompts are read, which costs the same for few and for many: on a GPU as
# much as several steps, since it waits for each kernel to be launched.
_REFILL, _REFILL_ON_GPU = 8, 4
_STEPS_PER_SYNC = 4  # steps of static shapes between two looks at the rows; one that has ended is computed until then


class Engine(Protocol):
    """Computes next-token logits for a set of lines, each holding one prompt and the tokens sampled after it.

    capacity: the longest line in tokens.
    static_shapes: a step does the same to the same memory whatever the lines hold, and reads no value on the host.
    """

    capacity: int
    static_shapes: bool

    def prefill(self, lines: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts into `lines` [b] and return the logits [b, V] after their last tokens."""

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Append one token [S] at its position [S] to every line and return logits [S, V]."""

    def keep(self, lines: Tensor) -> None:
        """Drop all lines but these."""


class CachedEngine:
    """Caches keys and values: a step costs one token per line. For models with transformers' attention interface.

    The logits that it returns are overwritten by its next call. With static shapes it attends to all columns that its
    cache will ever have; otherwise the cache grows with the rows.
    """

    def __init__(self, network: Network, lines: int, capacity: int, static_shapes: bool = False) -> None:
        self.network, self.capacity, self.static_shapes = network, capacity, static_shapes
        self.cache = SlotCache(network.config.num_hidden_layers, lines, capacity, network.device)
        if static_shapes:
            self.cache.reserve(capacity)
        self.scratch: Tensor | None = None
        self.prompts: list[tuple[int, ...]] = [()] * lines  # that the lines begin with, where shapes are static

    def _logits(self, states: Tensor) -> Tensor:
        """Return logits [b, V] of states [b, H]; a packed head writes them into memory that every call reuses."""
        if not self.network.reuses_memory:
            return self.network.logits(states)
        if self.scratch is None:
            self.scratch = torch.empty(self.cache.slots, self.network.config.vocab_size, device=states.device)
        return self.network.logits(states, self.scratch[: len(states)])

    def prefill(self, lines: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts into `lines`, equal ones once, and return the logits [b, V] after their last tokens."""
        cache, device = self.cache, self.network.device
        longest = max(map(len, prompts))
        cache.reserve(longest)
        if self.static_shapes:
            self._share(lines.tolist(), prompts)
        lines_of: dict[tuple[int, ...], list[int]] = {}
        for line, prompt in enumerate(prompts):
            lines_of.setdefault(tuple(prompt), []).append(line)
        distinct = list(lines_of)
        size = max(1, _PREFILL // longest**2)
        states = []
        for part in (distinct[start : start + size] for start in range(0, len(distinct), size)):
            ids = pad_right([*part, *[()] * _spare(len(part))], device)
            cache.rows = lines[[line for prompt in part for line in lines_of[prompt]]]
            copies = [i for i, prompt in enumerate(part) for _ in lines_of[prompt]]
            cache.copies = torch.tensor(copies, device=device)
            # No shorter than prompts that are read side by side: only one that is read alone takes several blocks.
            step = max(1, _PREFILL // longest)
            for start in range(0, ids.shape[1], step):
                block = ids[:, start : start + step]
                cache.before, width = start, block.shape[1]
                cache.positions = torch.full_like(cache.rows, start)
                keys = torch.arange(start + width, device=device)[None]
                last = self.network.last(
                    torch.tensor([min(len(prompt) - start, width) - 1 for prompt in part], device=device),
                    input_ids=block,
                    position_ids=keys[:, start:],
                    attention_mask=self.network.masks(causal_mask(width, start, device), keys[:, start:], keys),
                    cache=cache,
                    use_cache=True,
                )
            states.append(last)
        cache.rows, cache.copies, cache.before = cache.all_rows, None, 0
        index = {prompt: i for i, prompt in enumerate(distinct)}
        return self._logits(torch.cat(states)[[index[tuple(prompt)] for prompt in prompts]])

    def _share(self, lines: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """Note new prompts of some lines, and for each line another one that begins with the same tokens."""
        for line, prompt in zip(lines, prompts, strict=True):
            self.prompts[line] = tuple(prompt)
        known = [prompt for prompt in self.prompts if prompt]
        # The common beginning of all lies between the first and the last in order.
        lowest, highest = min(known), max(known)
        alike = (a == b for a, b in zip(lowest, highest, strict=False))
        common = sum(takewhile(bool, alike))
        anchor, twins = self.prompts.index(known[0]), dict[tuple[int, ...], int]()
        shared = []
        for line, prompt in enumerate(self.prompts):
            twin = twins.setdefault(prompt, line)
            shared.append((line, 0) if not prompt else (twin, len(prompt)) if twin != line else (anchor, common))
        source, columns = torch.tensor(shared, device=self.network.device).unbind(-1)
        self.cache.source.copy_(source)
        self.cache.shared.copy_(columns)

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Append one token [S] at its position [S] to every line and return logits [S, V]."""
        cache = self.cache
        cache.advance(positions)
        keys, queries = torch.arange(cache.width, device=tokens.device)[None], positions[:, None]
        unseen = keys > queries  # [S, T]
        mask = torch.zeros(unseen.shape, device=tokens.device).masked_fill_(unseen, torch.finfo(torch.float32).min)
        states = self.network.hidden(
            input_ids=tokens[:, None],
            position_ids=queries,
            attention_mask=self.network.masks(mask[:, None, None], queries, keys),
            cache=cache,
            use_cache=True,
        )
        return self._logits(states[:, -1])

    def keep(self, lines: Tensor) -> None:
        assert not self.static_shapes
        self.cache.keep(lines)


class RecomputingEngine:
    """Reads every line again at each step: slow, but correct for any causal model."""

    static_shapes = False

    def __init__(self, network: Network, lines: int, capacity: int) -> None:
        self.network, self.capacity = network, capacity
        self.rows: list[list[int]] = [[0] for _ in range(lines)]

    def prefill(self, lines: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
        for line, prompt in zip(lines.tolist(), prompts, strict=True):
            self.rows[line] = list(prompt)
        return self.network.logits(self.network.read_last([self.rows[line] for line in lines.tolist()]))

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        for row, token, position in zip(self.rows, tokens.tolist(), positions.tolist(), strict=True):
            row[position:] = [token]
        return self.network.logits(self.network.read_last(self.rows))

    def keep(self, lines: Tensor) -> None:
        self.rows = [self.rows[line] for line in lines.tolist()]


def _spare(rows: int) -> int:
    """Return how many idle rows to compute along: oneDNN builds and caches kernels for every batch size that it meets.

    Sizes below 16 stay as they are, larger ones are rounded up by less than an eighth.
    """
    return -rows % (1 << max(0, rows.bit_length() - 4))


@dataclass
class Row:
    """A row that may have ended: the index of its prompts, its tokens, and their log-probability after each prompt."""

    index: int
    tokens: list[int]
    logprobs: list[float]


class _Rows:
    """What the host knows of the rows in progress, by slot; it looks at all of them at once.

    may_end: tells of tokens [N] which of them may end a row [N]. ends: tells whether such a row is complete.
    """

    def __init__(
        self,
        slots: int,
        lines: int,
        max_new_tokens: int,
        may_end: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
        ends: Callable[[Row], str | None],
    ) -> None:
        self.index = np.full(slots, -1)  # of the prompts; -1 is an empty slot
        self.counts = np.zeros(slots, np.int64)
        self.tokens = np.zeros((slots, max_new_tokens), np.int64)
        self.totals = np.zeros((slots, lines))  # of log-probabilities
        self.may_end, self.ends = may_end, ends

    def __len__(self) -> int:
        return len(self.index)

    def begin(self, slots: Sequence[int], indices: Sequence[int]) -> None:
        """Put new rows into slots."""
        which = list(slots)
        self.index[which], self.counts[which], self.totals[which] = indices, 0, 0.0

    def keep(self, slots: Sequence[int]) -> None:
        """Drop all slots but these."""
        for name in ("index", "counts", "tokens", "totals"):
            setattr(self, name, getattr(self, name)[list(slots)])

    def append(
        self, slots: NDArray[np.int64], tokens: Tensor, logprobs: Tensor, settled: Tensor
    ) -> list[tuple[Row, str]]:
        """Append the next tokens to the rows in some slots; return those that end with them and empty their slots.

        tokens: [N] of N slots. logprobs: [N, lines]. settled: [N], whether the token counts.
        """
        counts = (self.index[slots] >= 0) & settled.numpy()
        slots, new = slots[counts], tokens.numpy()[counts]
        self.tokens[slots, self.counts[slots]] = new
        self.counts[slots] += 1
        self.totals[slots] += logprobs.numpy()[counts]
        if np.isnan(self.totals[slots]).any():
            raise FloatingPointError("the PLM's logits hold a NaN")
        ended = []
        full = self.counts[slots] >= self.tokens.shape[1]
        for slot in slots[full | self.may_end(new)].tolist():
            count = int(self.counts[slot])
            row = Row(int(self.index[slot]), self.tokens[slot, :count].tolist(), self.totals[slot].tolist())
            if finish_reason := self.ends(row) or ("length" if count >= self.tokens.shape[1] else None):
                self.index[slot] = -1
                ended.append((row, finish_reason))
        return ended


class Step(NamedTuple):
    """Every slot's next token [S], its log-probabilities [S, lines], and whether it counts [S].

    If not, all draws were rejected and the next step draws again. The host has them once `copied` has happened.
    """

    taken: Sequence[Tensor]
    copied: torch.cuda.Event | None = None


def read(steps: Iterable[Step]) -> Iterator[Sequence[Tensor]]:
    """Yield what each of some steps has taken, as soon as it is on the host."""
    for taken, copied in steps:
        if copied is not None:
            copied.synchronize()
        yield taken


class Slots:
    """The state of the rows in progress, one per slot, on the device.

    slots: rows decoded at a time.
    lines: prompts per row: its own and the counter-prompts. The same token is appended to all of them; slot number s
        decodes them on the engine's lines from s * lines on.
    """

    def __init__(self, engine: Engine, sampler: Sampler, slots: int, lines: int, device: torch.device) -> None:
        self.engine, self.sampler, self.device = engine, sampler, device
        self.tokens = torch.zeros(slots, dtype=torch.long, device=device)  # the last ones, not read yet
        self.positions = torch.zeros(slots, lines, dtype=torch.long, device=device)  # of those tokens
        self.keys = torch.zeros(slots, dtype=torch.long, device=device)  # of the rows' draws
        self.counts = torch.zeros(slots, dtype=torch.long, device=device)  # tokens that the rows have
        self.tries = torch.zeros(slots, dtype=torch.long, device=device)  # draws rejected for the next token
        self.graphed = GraphedStep(device) if engine.static_shapes else None  # no other step can be recorded

    def __len__(self) -> int:
        return len(self.tokens)

    def fill(
        self, slots: Sequence[int], prompts: Sequence[Sequence[Sequence[int]]], keys: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read prompts into slots and sample first tokens; return them [N] and their log-probabilities [N, lines]."""
        which = self._ids(slots)
        logits = self.engine.prefill(self._lines(which), [prompt for group in prompts for prompt in group])
        logits = logits.view(len(slots), -1, logits.shape[-1])
        first, settled = fold_in(keys, 0), False
        if self.engine.static_shapes:  # a call looks at values again and again, and a GPU waits each time
            tokens, logprobs, taken = self.sampler.attempt(logits, first, torch.zeros_like(first))
            settled = bool(taken.all())
        if not settled:
            tokens, logprobs = self.sampler(logits, first, overwrite=True)
        self.positions[which] = self._ids([[len(prompt) for prompt in group] for group in prompts])
        self.tokens[which], self.keys[which] = tokens, keys
        self.counts[which], self.tries[which] = 1, 0
        return tokens.cpu(), logprobs.cpu()

    def rest(self, slots: Sequence[int]) -> None:
        """Reset idle slots so that they do not widen the cache."""
        which = self._ids(slots)
        self.tokens[which] = 0
        self.positions[which] = 0

    def keep(self, slots: Sequence[int]) -> None:
        """Drop all slots but these."""
        which = self._ids(slots)
        self.engine.keep(self._lines(which))
        for name in ("tokens", "positions", "keys", "counts", "tries"):
            setattr(self, name, getattr(self, name)[which])

    def advance(self, most: int) -> list[Step]:
        """Take the steps that may pass between two looks at the rows, without waiting for a GPU to end them.

        most: how many steps the rows can need if no draw is rejected.
        """
        if self.graphed is None:
            return [self._on_host(self._take())]
        return [self._on_host(self.graphed(self._take)) for _ in range(min(most, _STEPS_PER_SYNC))]

    def _on_host(self, taken: Sequence[Tensor]) -> Step:
        """Copy what a step returns before the next one overwrites it, without waiting for it."""
        taken = [part.to("cpu", non_blocking=self.device.type == "cuda", copy=True) for part in taken]
        if self.device.type != "cuda":
            return Step(taken)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self.device))
        return Step(taken, copied)

    def _take(self) -> tuple[Tensor, Tensor, Tensor]:
        """Read the last tokens and sample the next ones; return what a `Step` has of them."""
        read = self.tokens[:, None].expand_as(self.positions).flatten()
        logits = self.engine.step(read, self.positions.flatten()).view(*self.positions.shape, -1)
        keys = fold_in(self.keys, self.counts)
        if self.engine.static_shapes:
            tokens, logprobs, settled = self.sampler.attempt(logits, keys, self.tries)
            self.tries.add_(self.sampler.draws(self.device)).mul_(~settled)
        else:
            tokens, logprobs = self.sampler(logits, keys, overwrite=True)
            settled = torch.ones_like(tokens, dtype=torch.bool)
        self.tokens.copy_(torch.where(settled, tokens, self.tokens))
        self.counts.add_(settled)
        # A row that has ended goes on until the next look.
        self.positions.add_(settled[:, None]).clamp_(max=self.engine.capacity - 1)
        return tokens, logprobs, settled

    def _ids(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, device=self.device)

    def _lines(self, slots: Tensor) -> Tensor:
        lines = self.positions.shape[1]
        return (slots[:, None] * lines + torch.arange(lines, device=self.device)).flatten()


@torch.inference_mode()
def decode(
    slots: Slots,
    prompts: Sequence[Sequence[Sequence[int]]],
    keys: Tensor,
    max_new_tokens: int,
    may_end: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
    ends: Callable[[Row], str | None],
) -> Iterator[tuple[Row, str]]:
    """Continue each of `prompts` until it ends, and yield (row, finish reason) as rows end.

    slots: where rows are decoded; one whose row has ended takes the next prompts.
    prompts: for each row its prompt and its counter-prompts, all as token ids, the same number for every row.
    keys: of each row's draws, int64 [rows], see `rng`.
    may_end: given tokens [N], tells which of them [N] may end a row.
    ends: given a row whose last token is one of those, returns "stop" or "eos" if it is complete, else None.
    """
    queue = iter(range(len(prompts)))
    waiting = len(prompts)
    rows = _Rows(len(slots), slots.positions.shape[1], max_new_tokens, may_end, ends)
    ended: list[tuple[Row, str]] = []
    while True:
        free = np.flatnonzero(rows.index < 0).tolist()
        enough = max(1, len(rows) // (_REFILL_ON_GPU if slots.engine.static_shapes else _REFILL))
        if slots.engine.static_shapes:  # where slots that wait cost as much as others: or there are enough for all
            enough = min(enough, waiting)
        if waiting and len(free) >= enough:
            filled = list(zip(free, queue, strict=False))
            waiting -= len(filled)
            which, indices = [slot for slot, _ in filled], [index for _, index in filled]
            rows.begin(which, indices)
            tokens, logprobs = slots.fill(which, [prompts[index] for index in indices], keys[indices])
            ended += rows.append(np.array(which), tokens, logprobs, torch.ones(len(which), dtype=torch.bool))
            continue
        active = np.flatnonzero(rows.index >= 0).tolist()
        if not active:
            yield from ended
            return
        most = max_new_tokens - int(rows.counts[active].min())
        spare = _spare(len(active))
        if not waiting and len(active) + spare <= len(rows) * 3 // 4 and not slots.engine.static_shapes:
            remaining = active + free[:spare]
            slots.keep(remaining)
            rows.keep(remaining)
            free = np.flatnonzero(rows.index < 0).tolist()
        if free and not slots.engine.static_shapes:
            slots.rest(free)
        steps = slots.advance(most)
        yield from ended  # while a GPU is at those steps
        everywhere = np.arange(len(rows))
        ended = [row for taken in read(steps) for row in rows.append(everywhere, *taken)]
