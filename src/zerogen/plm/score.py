"""The log-probability of texts; a beginning that several of them share is read once.

Where many do, they are read after it; where a few share most of what they are, such as a text and what may be said of
it, they are read as one row in which each ending sees the beginning and itself (tree attention, as in SpecInfer, Miao
et al. 2023, https://arxiv.org/abs/2305.09781). Both happen at once where all rows begin alike, as after demonstrations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zerogen.plm.cache import PrefixCache, causal_mask, pad_right
from zerogen.plm.network import Network
from zerogen.plm.sampling import token_logprobs

_FEW = 8  # rows for which reading their common beginning apart does not pay
_T = TypeVar("_T")
_STATES = 128  # rows of the vocabulary's size that exist at a time


def shared_prefixes(
    rows: Sequence[Sequence[int]], pays: Callable[[int, int], bool] = lambda length, count: True, levels: int = 8
) -> list[tuple[int, list[int]]]:
    """Group rows by a common beginning so that the fewest tokens are left to read.

    Returns (length of the common beginning, indices of the rows) of each group; every row has at least one token left
    of its own. pays: whether to read a beginning of that length for that number of rows; those for which no beginning
    pays are in no group. levels: how often a group may be split by its next token.
    """
    order = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))

    def split(members: list[int], level: int) -> tuple[int, list[tuple[int, list[int]]]]:
        """Return the number of tokens saved, and the groups."""
        first, last = rows[members[0]], rows[members[-1]]  # sorted: a beginning of these two is one of all
        common = _common(first, last)
        length = min(common, min(len(rows[i]) for i in members) - 1)
        saved = length * (len(members) - 1)
        whole = (saved, [(length, members)]) if pays(length, len(members)) else (0, [])
        if common == len(last) or level == levels:
            return whole
        by_next = groupby(members, key=lambda i: rows[i][common] if common < len(rows[i]) else -1)
        parts = [split(list(part), level + 1) for _, part in by_next]
        saved = sum(part[0] for part in parts)
        return (saved, [group for part in parts for group in part[1]]) if saved > whole[0] else whole

    return split(order, 0)[1] if order else []


@dataclass(frozen=True)
class Fork:
    """Rows with a common beginning of a number of tokens; tokens: how many there are if that is read once."""

    length: int
    members: list[int]
    tokens: int


def forks(rows: Sequence[Sequence[int]]) -> list[Fork]:
    """Group rows that begin alike for at least half of their tokens, each with one token of its own at least.

    Rows that begin as no other one does are in no group.
    """
    order = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))
    found, start = [], 0
    while start < len(order):
        first, stop = rows[order[start]], start + 1
        length, longest = len(first) - 1, len(first)
        while stop < len(order):
            row = rows[order[stop]]
            common = min(_common(first, row), len(row) - 1, length)
            longest = max(longest, len(row))
            if 2 * common < longest:
                break
            length, stop = common, stop + 1
        if stop > start + 1:
            members = order[start:stop]
            found.append(Fork(length, members, length + sum(len(rows[i]) - length for i in members)))
        start = stop
    return found


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two rows begin with alike."""
    differ = (place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differ, min(len(first), len(second)))


@dataclass(frozen=True)
class _Group:
    """Rows to read after a common beginning of a number of tokens, 0 for none: as forks, and one by one."""

    length: int
    trees: list[Fork]
    alone: list[int]


@dataclass(frozen=True)
class _Prefix:
    """What P tokens say of the rows that begin with them.

    sums: of the log-probabilities of its tokens, from each one on, [P + 1]; following: those of the next token, [V].
    """

    length: int
    cache: PrefixCache
    sums: Tensor
    following: Tensor | None

    def predicts(self, rows: Sequence[Sequence[int]], begins: Sequence[int], batch: Sequence[int]) -> Tensor:
        """Return the sums [n] of the log-probabilities that count, of the prefix and of the token after it."""
        found = self.sums[[min(begins[i], self.length) for i in batch]]
        if self.following is None:
            return found
        tokens = torch.tensor([rows[i][self.length] for i in batch], device=found.device)
        count = torch.tensor([begins[i] <= self.length for i in batch], device=found.device)
        return found + torch.where(count, self.following[tokens], 0.0)


def _plan(rows: Sequence[Sequence[int]], batch_tokens: int, longest_fork: int) -> list[_Group]:
    """Group rows: the forks after what all rows begin with, and the others by the beginnings that pay."""
    common = 0
    if len(rows) >= _FEW:  # what the first and the last in order begin with alike, all do
        first, last = min(rows, key=tuple), max(rows, key=tuple)
        common = min(_common(first, last), min(map(len, rows)) - 1)
    trees = [
        tree
        for tree in forks([row[common:] for row in rows])
        if tree.tokens <= batch_tokens and common + tree.tokens <= longest_fork
    ]
    plan = [_Group(common, trees, [])] if trees else []
    forked = {i for tree in trees for i in tree.members}
    left = [i for i in range(len(rows)) if i not in forked]

    def pays(length: int, count: int) -> bool:
        return count >= (2 if length > batch_tokens else _FEW)  # a long one for two rows

    found = shared_prefixes([rows[i] for i in left], pays)
    plan += [_Group(length, [], [left[place] for place in members]) for length, members in found]
    grouped = {i for group in plan for i in group.alone}
    if alone := [i for i in left if i not in grouped]:
        plan.append(_Group(0, [], alone))
    return plan


@torch.inference_mode()
def logprobs(
    network: Network,
    rows: Sequence[Sequence[int]],
    begins: Sequence[int],
    cached: bool,
    batch_tokens: int,
    advance: Callable[[int], None] = lambda tokens: None,
    longest_fork: int = 0,
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield (indices, sums of the natural-log probabilities of their tokens) for rows of token ids.

    begins: the first token of each row whose log-probability counts, 1 or more: nothing predicts the very first.
    cached: read a common beginning once, by `cache.slot_attention`; else read each row whole, by the model's own.
    batch_tokens: tokens read at a time, padding included. A longer row is read alone, when `cached` in blocks of that
        size: the memory for it grows with its length, not with the square of it.
    advance: called with the number of tokens read since the last call, not counting the first of each row.
    longest_fork: the most tokens that are read as one row in which endings share a beginning; 0 for none.
    """
    if not rows:
        return
    plan = _plan(rows, batch_tokens, longest_fork) if cached else [_Group(0, [], list(range(len(rows))))]
    with network.slot_attention() if cached else nullcontext():
        for group in plan:
            length, members = group.length, [*group.alone, *(i for tree in group.trees for i in tree.members)]
            prefix = _read_prefix(network, rows[members[0]][:length], batch_tokens, len(members), advance)
            for trees in _batches(group.trees, [tree.tokens for tree in group.trees], length, batch_tokens):
                batch, sums = _read_forks(network, rows, begins, trees, prefix, advance)
                yield batch, (sums + prefix.predicts(rows, begins, batch)).tolist()
            for batch in _batches(group.alone, [len(rows[i]) - length for i in group.alone], length, batch_tokens):
                own = [rows[i][length:] for i in batch]
                longest = max(map(len, own))
                if cached:
                    before = prefix.cache.copy(grows=longest > batch_tokens)
                    blocks = _read(network, own, before, length, batch_tokens, longest - 1)
                else:
                    blocks = iter([(0, network.read(own))])
                starts = torch.tensor([begins[i] - length for i in batch], device=network.device)
                sums = _sum_blocks(network, own, starts, blocks, advance)
                yield batch, (sums + prefix.predicts(rows, begins, batch)).tolist()


def _batches(items: Sequence[_T], lengths: Sequence[int], before: int, batch_tokens: int) -> Iterator[list[_T]]:
    """Yield items to read side by side, the longest first; `before` tokens stand before each."""
    order = sorted(range(len(items)), key=lambda place: -lengths[place])
    while order:
        longest = lengths[order[0]]
        # After a long beginning fewer rows: their attention scores [B, T, P + T] must not grow with it.
        size = max(1, batch_tokens**2 // (longest * max(before + longest, batch_tokens)))
        yield [items[place] for place in order[:size]]
        order = order[size:]


def _read_forks(
    network: Network,
    rows: Sequence[Sequence[int]],
    begins: Sequence[int],
    trees: Sequence[Fork],
    prefix: _Prefix,
    advance: Callable[[int], None],
) -> tuple[list[int], Tensor]:
    """Read trees side by side, each as one row after the prefix.

    Returns the indices of their rows, and the sums [n] of the log-probabilities of what stands after the first token.
    """
    ids: list[list[int]] = []
    branches: list[list[int]] = []  # 0 for the beginning, else the number of the ending
    positions: list[list[int]] = []
    owners: list[int] = []  # place among all members, for each token that counts
    states_at: list[tuple[int, int]] = []  # what predicts that token
    targets: list[int] = []
    before, members = prefix.length, [i for tree in trees for i in tree.members]
    owner = {i: place for place, i in enumerate(members)}
    for line, tree in enumerate(trees):
        fork = before + tree.length
        ids.append(list(rows[tree.members[0]][before:fork]))
        branches.append([0] * tree.length)
        positions.append(list(range(before, fork)))
        for number, i in enumerate(tree.members, 1):
            start, row = len(ids[line]), rows[i]
            ids[line] += row[fork:]
            branches[line] += [number] * (len(row) - fork)
            positions[line] += range(fork, len(row))
            # The token before place n stands at n - 1 in the beginning, and further on after it.
            for place in range(max(begins[i], before + 1), len(row)):
                owners.append(owner[i])
                states_at.append((line, place - 1 - before if place <= fork else start + place - 1 - fork))
                targets.append(row[place])
    device = network.device
    queries = pad_right(positions, device)
    keys = torch.cat([torch.arange(before, device=device).expand(len(ids), -1), queries], 1)
    mask = F.pad(_tree_mask(pad_right(branches, device)), (before, 0))
    states = network.hidden(
        input_ids=pad_right(ids, device),
        position_ids=queries,
        attention_mask=network.masks(mask, queries, keys),
        cache=prefix.cache.copy(grows=False),
        use_cache=True,
    )
    lines, places = torch.tensor(states_at, device=device).T
    logp = _token_logprobs(network, states[lines, places], torch.tensor(targets, device=device))
    # Not on a GPU, which adds them in another order each time.
    sums = torch.zeros(len(members)).index_add_(0, torch.tensor(owners), logp.cpu()).to(device)
    advance(sum(len(rows[i]) - 1 - before for i in members))
    return members, sums


def _tree_mask(branches: Tensor) -> Tensor:
    """Return an additive float32 mask [B, 1, T, T]: a token sees itself, and before it its branch [B, T] and branch 0.

    Padding has branch 0 and stands at the end, where no other token sees it.
    """
    own = branches[:, :, None] == branches[:, None]
    seen = (own | (branches[:, None] == 0)).tril()
    mask = torch.zeros(seen.shape, device=branches.device)
    return mask.masked_fill_(~seen, torch.finfo(torch.float32).min)[:, None]


def _sum_blocks(
    network: Network,
    rows: Sequence[Sequence[int]],
    starts: Tensor,
    blocks: Iterable[tuple[int, Tensor]],
    advance: Callable[[int], None],
) -> Tensor:
    """Return the sums [B] of the log-probabilities of rows' tokens from the places `starts` [B] on.

    blocks: (place of the first token, states [B, T, H]) of the rows, side by side.
    """
    ids = pad_right(rows, network.device)
    lengths = torch.tensor([len(row) for row in rows], device=network.device)
    sums = torch.zeros(len(rows), device=network.device)
    for start, states in blocks:
        targets = ids[:, start + 1 : start + 1 + states.shape[1]]  # [B, T] or [B, T-1]
        # Padding and end-of-text may share an id: only the lengths know.
        places = torch.arange(start + 1, start + 1 + targets.shape[1], device=network.device)
        real = (places < lengths[:, None]) & (places >= starts[:, None])
        logp = torch.zeros(real.shape, device=network.device)
        logp[real] = _token_logprobs(network, states[:, : targets.shape[1]][real], targets[real])
        sums += logp.sum(-1)
        advance(sum(min(max(len(row) - 1 - start, 0), targets.shape[1]) for row in rows))
    return sums


def _read_prefix(
    network: Network, tokens: Sequence[int], step: int, rows: int, advance: Callable[[int], None]
) -> _Prefix:
    """Read the tokens that a number of rows begin with."""
    cache = PrefixCache(network.config.num_hidden_layers)
    if not tokens:
        return _Prefix(0, cache, torch.zeros(1, device=network.device), None)
    ids = torch.tensor(tokens)
    parts = []
    for start, states in _read(network, [tokens], cache, 0, step, len(tokens)):  # [1, T, H]
        targets = ids[start + 1 : start + 1 + states.shape[1]]
        parts.append(_token_logprobs(network, states[0, : len(targets)], targets))
        advance(rows * states.shape[1])
    sums = F.pad(torch.cat(parts).flip(0).cumsum(0).flip(0), (1, 1))
    return _Prefix(len(tokens), cache, sums, network.logits(states[0, -1:]).float().log_softmax(-1)[0])


def _read(
    network: Network, rows: Sequence[Sequence[int]], cache: PrefixCache, before: int, step: int, count: int
) -> Iterator[tuple[int, Tensor]]:
    """Read rows that follow the `before` tokens in the cache, `step` of their tokens at a time.

    Yields (place of the first token, states [B, T, H]) of each block, up to the one with token number `count`.
    """
    ids = pad_right(rows, network.device)
    for start in range(0, count, step):
        block, position = ids[:, start : start + step], before + start
        keys = torch.arange(position + block.shape[1], device=network.device)[None]
        queries = keys[:, position:]
        states = network.hidden(
            input_ids=block,
            position_ids=queries,
            attention_mask=network.masks(causal_mask(block.shape[1], position, network.device), queries, keys),
            cache=cache,
            use_cache=True,
        )
        yield start, states


def _token_logprobs(network: Network, states: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities [n] of tokens [n] after states [n, H]."""
    scratch = torch.empty(min(_STATES, len(states)), network.config.vocab_size, device=network.device)
    parts = zip(states.split(_STATES), tokens.to(network.device).split(_STATES), strict=True)
    return torch.cat([token_logprobs(network.logits(part, scratch[: len(part)]), target) for part, target in parts])
