"""Exact sampling of the next token: greedy, temperature, top-k and nucleus."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 256
_ROUNDS = 16


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws one token per row from logits [B, V].

    top_p: the nucleus of Holtzman et al. (2020), https://arxiv.org/abs/1904.09751: a token is kept when the mass of
        strictly more probable tokens is below `top_p`, so tokens tied with the last one kept are all kept. 1 is off.
    top_k: keep the k most probable tokens (with ties) before the nucleus is taken. 0 is off, 1 is greedy.
    temperature: divides the logits first.
    """

    top_p: float = 1.0
    top_k: int = 0
    temperature: float = 1.0

    def __call__(self, logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the tokens [B] and their log-probability [B] under softmax(logits), temperature 1, untruncated.

        Raises FloatingPointError when a row holds a NaN.
        """
        if self.top_k == 1:
            logits = logits.float()
            tokens = logits.argmax(-1)
            logprobs = logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(-1)
        elif self.temperature == 1 and not self.top_k:
            tokens, logprobs = nucleus(logits, self.top_p, generator)
        else:
            logits = logits.float()
            scaled = logits / self.temperature
            if 0 < self.top_k < logits.shape[-1]:
                kth = scaled.topk(self.top_k, dim=-1).values[:, -1:]
                scaled = scaled.masked_fill(scaled < kth, -torch.inf)
            tokens, _ = nucleus(scaled, self.top_p, generator)
            logprobs = logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(-1)
        if logprobs.isnan().any():
            raise FloatingPointError("the PLM's logits hold a NaN")
        return tokens, logprobs


def nucleus(logits: Tensor, top_p: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw tokens [B] from the nucleus of softmax(logits [B, V]) without sorting the vocabulary.

    A token is drawn from the whole distribution and kept if it lies in the nucleus, else drawn again: what is kept is
    distributed as the renormalised nucleus. Rows that are still without a token after some rounds (a tiny `top_p`)
    are drawn from the sorted nucleus. Also returns the tokens' log-probabilities [B] under softmax(logits), which are
    NaN where a row of logits holds a NaN.
    """
    weights = logits.float() - logits.amax(-1, keepdim=True).float()
    weights = F.pad(weights.exp_(), (0, -weights.shape[-1] % _BLOCK))  # [B, V], unnormalised
    blocks = weights.unflatten(-1, (-1, _BLOCK))  # [B, V/block, block]
    upto = blocks.sum(-1).cumsum(-1, dtype=torch.float64)  # [B, V/block]
    total = upto[:, -1]
    tokens = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    open_rows = torch.arange(len(logits), device=logits.device)
    if total.isnan().any():
        return tokens, torch.full_like(total, torch.nan)
    for _ in range(_ROUNDS):
        drawn = _draw(blocks, upto, open_rows, generator)
        rows = weights if len(open_rows) == len(weights) else weights[open_rows]
        chosen = rows.gather(-1, drawn[:, None])  # [b, 1]
        if top_p < 1:
            above = torch.where(rows > chosen, rows, 0.0).sum(-1)  # float32 sums pairwise: exact to about 1e-6
            inside = above < top_p * total[open_rows]
        else:
            inside = chosen.squeeze(-1) > 0
        tokens[open_rows[inside]] = drawn[inside]
        open_rows = open_rows[~inside]
        if not len(open_rows):
            break
    else:
        tokens[open_rows] = sorted_nucleus(logits[open_rows], top_p, generator)
    return tokens, (weights.gather(-1, tokens[:, None]).squeeze(-1) / total).log()


def _draw(blocks: Tensor, upto: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Draw token ids [b] for `rows` [b] by inverse CDF in two levels: first the block, then the place in it."""
    upto = upto[rows]
    uniform = torch.rand(len(rows), 1, dtype=torch.float64, generator=generator, device=generator.device)
    target = uniform.to(upto.device) * upto[:, -1:]  # [b, 1]
    block = torch.searchsorted(upto, target, right=True).clamp_(max=upto.shape[-1] - 1)
    before = F.pad(upto, (1, 0)).gather(-1, block)
    inner = blocks[rows, block.squeeze(-1)].cumsum(-1, dtype=torch.float64)  # [b, block]
    place = torch.searchsorted(inner, target - before, right=True).clamp_(max=_BLOCK - 1)
    return (block * _BLOCK + place).squeeze(-1)


def sorted_nucleus(logits: Tensor, top_p: float, generator: torch.Generator) -> Tensor:
    """Draw tokens [B] from the nucleus of softmax(logits [B, V]) by sorting: the slow reference of `nucleus`."""
    probabilities = nucleus_probabilities(logits, top_p)
    upto = probabilities.cumsum(-1)
    uniform = torch.rand(len(logits), 1, dtype=torch.float64, generator=generator, device=generator.device)
    target = uniform.to(upto.device) * upto[:, -1:]
    return torch.searchsorted(upto, target, right=True).clamp_(max=logits.shape[-1] - 1).squeeze(-1)


def nucleus_probabilities(logits: Tensor, top_p: float) -> Tensor:
    """Return the renormalised nucleus [B, V] of softmax(logits [B, V]), in float64."""
    probabilities = logits.double().softmax(-1)
    ranked, order = probabilities.sort(-1, descending=True)
    # Mass before the first of a run of equal probabilities: all of the run are kept or none.
    before = ranked.cumsum(-1) - ranked
    first_of_run = F.pad(ranked[:, 1:] == ranked[:, :-1], (1, 0))
    before = before.masked_fill(first_of_run, -1.0).cummax(-1).values
    kept = torch.zeros_like(probabilities).scatter_(-1, order, torch.where(before < top_p, ranked, 0.0))
    return kept / kept.sum(-1, keepdim=True)
