"""Scoring: the log-probability of texts, with what they begin alike read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from zerogen.plm.cache import PrefixCache, causal_mask, pad_right
from zerogen.plm.network import Network
from zerogen.plm.sampling import token_logprobs

_FEW = 8  # rows for which a forward of what they share does not pay
_STATES = 128  # rows of the vocabulary's size that exist at a time


def shared_prefixes(rows: Sequence[Sequence[int]], levels: int = 8) -> list[tuple[int, list[int]]]:
    """Group rows by a common beginning so that the fewest tokens are left to read.

    Returns (length of the common beginning, indices of the rows) of each group; every row keeps at least one token of
    its own. levels: how often a group may be split by its next token.
    """
    order = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))

    def split(members: list[int], level: int) -> tuple[int, list[tuple[int, list[int]]]]:
        """Return the number of tokens saved, and the groups."""
        first, last = rows[members[0]], rows[members[-1]]  # sorted: what these two share, all of them share
        common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        length = min(common, min(len(rows[i]) for i in members) - 1)
        whole = length * (len(members) - 1), [(length, members)]
        if common == len(last) or level == levels:
            return whole
        by_next = groupby(members, key=lambda i: rows[i][common] if common < len(rows[i]) else -1)
        parts = [split(list(part), level + 1) for _, part in by_next]
        saved = sum(part[0] for part in parts)
        return (saved, [group for part in parts for group in part[1]]) if saved > whole[0] else whole

    return split(order, 0)[1] if order else []


@torch.inference_mode()
def logprobs(
    network: Network, rows: Sequence[Sequence[int]], begins: Sequence[int], cached: bool, batch_tokens: int
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield (indices, sums of the natural-log probabilities of their tokens) for rows of token ids.

    begins: the first token of each row whose log-probability counts, 1 or more: nothing stands before the first.
    cached: read a common beginning once, by `cache.slot_attention`; else each row is read whole, by the model's own.
    batch_tokens: tokens read at a time, padding included; a longer row is read alone.
    """
    groups = [group for group in shared_prefixes(rows) if len(group[1]) >= _FEW] if cached else []
    grouped = {i for _, members in groups for i in members}
    if alone := [i for i in range(len(rows)) if i not in grouped]:
        groups.append((0, alone))
    with network.slot_attention() if cached else nullcontext():
        for length, members in groups:
            prefix = rows[members[0]][:length]
            cache = PrefixCache(network.config.num_hidden_layers)
            known, first = torch.zeros(1), None  # sums over the ends of the prefix
            if length:
                states = _read(network, [prefix], cache, 0)[0]  # [P, H]
                logp = _token_logprobs(network, states[:-1], torch.tensor(prefix[1:])).cpu()
                known = F.pad(logp.flip(0).cumsum(0).flip(0), (1, 1))  # [P + 1], from each token on
                first = network.logits(states[-1:]).float().log_softmax(-1)[0]  # [V], of each row's first own token
            members = sorted(members, key=lambda i: -len(rows[i]))
            while members:
                size = max(1, batch_tokens // (len(rows[members[0]]) - length))
                batch, members = members[:size], members[size:]
                own = [rows[i][length:] for i in batch]
                if not length:  # nothing to keep
                    cache = PrefixCache(network.config.num_hidden_layers)
                states = _read(network, own, cache, length) if cached else network.read(own)  # [B, T, H]
                ids = pad_right(own, network.device)
                lengths = torch.tensor([len(row) for row in own], device=network.device)
                # Padding and end-of-text may share an id: only the lengths know.
                starts = torch.tensor([begins[i] - length for i in batch], device=network.device)
                places = torch.arange(1, ids.shape[1], device=network.device)
                real = (places < lengths[:, None]) & (places >= starts[:, None])  # [B, T-1]
                logp = torch.zeros(real.shape, device=network.device)
                logp[real] = _token_logprobs(network, states[:, :-1][real], ids[:, 1:][real])
                sums = logp.sum(-1) + known[[min(begins[i], length) for i in batch]].to(network.device)
                if first is not None:
                    sums += torch.where(starts <= 0, first[ids[:, 0]], 0.0)
                yield batch, sums.tolist()


def _read(network: Network, rows: Sequence[Sequence[int]], cache: PrefixCache, before: int) -> Tensor:
    """Return states [B, T, H] of rows that stand behind the `before` tokens that the cache holds."""
    ids = pad_right(rows, network.device)
    return network.hidden(
        input_ids=ids,
        position_ids=torch.arange(before, before + ids.shape[1], device=network.device)[None],
        attention_mask=causal_mask(ids.shape[1], before, network.device),
        past_key_values=cache,
        use_cache=True,
    )


def _token_logprobs(network: Network, states: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities [n] of tokens [n] behind states [n, H]."""
    scratch = torch.empty(min(_STATES, len(states)), network.config.vocab_size, device=network.device)
    parts = zip(states.split(_STATES), tokens.to(network.device).split(_STATES), strict=True)
    return torch.cat([token_logprobs(network.logits(part, scratch[: len(part)]), target) for part, target in parts])
