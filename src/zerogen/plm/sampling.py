"""Exact sampling of the next token: greedy, temperature, top-k and nucleus."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from zerogen.config.task_schema import ContrastConfig, DebiasConfig
from zerogen.plm.contrast import Contrast
from zerogen.plm.debias import SelfDebiasing
from zerogen.plm.gpu_kernels import gpu_kernels
from zerogen.plm.rng import fold_in, uniform

_BLOCK = 256
_ROUNDS = 16
# Of rows that `Sampler.attempt` may leave without a token: a row that waits for another step keeps its batch waiting,
# but each draw costs a look at the whole vocabulary, except in a kernel, which stops at the first draw that is taken.
_RETRY_RATE, _RETRY_RATE_OF_KERNEL = 1e-2, 1e-7
_CACHE_SIZE = 1 << 19  # numbers that fit a processor's cache: logits processed at a time on a CPU


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws one token per row, from the logits of its prompt and of any counter-prompts.

    top_p: the nucleus of Holtzman et al. (2020), https://arxiv.org/abs/1904.09751: a token is kept when the mass of
        strictly more probable tokens is below `top_p`, so tokens tied with the last one kept are all kept. 1 is off.
    top_k: keep the k most probable tokens (with ties) before the nucleus is taken. 0 is off, 1 is greedy.
    temperature: divides the logits before that.
    debias: what counter-prompts do to the distribution, before everything else.
    """

    top_p: float = 1.0
    top_k: int = 0
    temperature: float = 1.0
    debias: SelfDebiasing | Contrast = field(default_factory=SelfDebiasing)

    def __call__(self, logits: Tensor, keys: Tensor, overwrite: bool = False) -> tuple[Tensor, Tensor]:
        """Draw from logits [B, 1 + K, V], those after a prompt and after its K counter-prompts.

        keys: of the draws, int64 [B], see `rng`: a row's token depends on its own logits and key alone.
        overwrite: the logits are no longer needed: compute in their memory where that saves a copy, as `nucleus` does.
        Returns the tokens [B] and their log-probabilities [B, 1 + K] under softmax(logits): without counter-prompts,
        temperature and truncation. Raises FloatingPointError when a row holds a NaN, or what is made of it does.
        """
        if self.top_k == 1:
            best = [_best(self._scores(logits[part])) for part in row_groups(logits)]
            tokens, scores = (torch.cat(parts) for parts in zip(*best, strict=True))
            logprobs = token_logprobs(logits, tokens)
        elif self._plain(logits):
            tokens, scores = nucleus(logits[:, 0], self.top_p, keys, overwrite=overwrite)
            logprobs = scores[:, None]
        else:
            tokens, scores = nucleus(logits, self.top_p, keys, self._scores)
            logprobs = token_logprobs(logits, tokens)
        if logprobs.isnan().any() or scores.isnan().any():
            raise FloatingPointError("the PLM's logits hold a NaN")
        return tokens, logprobs

    def attempt(self, logits: Tensor, keys: Tensor, tries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw as a call does, in a fixed number of operations, so that the host never has to decide.

        tries: draws [B] rejected for each row so far. Returns tokens and log-probabilities as a call does, and which
        rows [B] have their token; the others must be tried again, with `draws` more in `tries`. They get what a call
        gives them, but for those that it sorts. Where a row holds a NaN, or what is made of it does, so do its
        log-probabilities.
        """
        scores = self._scores(logits)
        if self.top_k == 1:
            tokens, reached = _best(scores)
            settled = torch.ones_like(tokens, dtype=torch.bool)
        else:
            rounds = tries[:, None] + torch.arange(self.draws(tries.device), device=tries.device)
            tokens, reached, settled = _propose(scores, self.top_p, uniform(fold_in(keys[:, None], rounds)))
            if self._plain(logits):
                return tokens, reached[:, None], settled
        logprobs = token_logprobs(logits, tokens)
        return tokens, logprobs.masked_fill_(reached.isnan()[:, None], torch.nan), settled

    def draws(self, device: torch.device) -> int:
        """Return the number of draws per row in an `attempt`, enough that few rows have to be tried again."""
        if self.top_p >= 1:
            return 1
        rate = _RETRY_RATE if gpu_kernels(device) is None else _RETRY_RATE_OF_KERNEL
        return min(_ROUNDS, math.ceil(math.log(rate) / math.log1p(-self.top_p)))

    @property
    def settles(self) -> bool:
        """Whether draws suffice without the sorting that a call falls back on; each succeeds with chance `top_p`."""
        return self.top_k == 1 or (1 - self.top_p) ** _ROUNDS < 1e-3

    def _plain(self, logits: Tensor) -> bool:
        """Return whether tokens are drawn from the softmax of the logits itself, whose log-probabilities then serve."""
        return logits.shape[1] == 1 and self.temperature == 1 and not self.top_k

    def _scores(self, logits: Tensor) -> Tensor:
        """Return the logits [b, V] to draw from, before the nucleus is taken."""
        scores = self.debias(logits)
        if self.temperature != 1:  # from the largest down: others would overflow at a tiny temperature
            scores = (scores - scores.amax(-1, keepdim=True)) / self.temperature
        if 1 < self.top_k < logits.shape[-1]:
            kth = scores.topk(self.top_k, dim=-1).values[:, -1:]
            scores = scores.masked_fill(scores < kth, -torch.inf)
        return scores


def effect_of(config: DebiasConfig | ContrastConfig) -> SelfDebiasing | Contrast:
    """Return what counter-prompts do to a distribution."""
    if isinstance(config, ContrastConfig):
        return Contrast(config.guidance, config.floor)
    return SelfDebiasing(config.decay, config.epsilon)


def row_groups(logits: Tensor) -> Iterator[slice]:
    """Yield slices of the rows of logits [B, ...], short enough that intermediate results stay in the cache."""
    size = len(logits)
    if logits.device.type == "cpu" and size:
        size = max(1, _CACHE_SIZE * size // logits.numel())
    for start in range(0, len(logits), max(1, size)):
        yield slice(start, start + size)


def _best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most probable tokens [b] of scores [b, V], and their scores [b]; both are a NaN's if there is one."""
    tokens = scores.argmax(-1)
    return tokens, scores.gather(-1, tokens[:, None]).squeeze(-1)


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities [B, ...] of tokens [B] under softmax(logits [B, ..., V]), in float32."""
    logprobs = torch.empty(logits.shape[:-1], device=logits.device)
    for part in row_groups(logits):
        flat = logits[part].float().flatten(0, -2)  # [b * ..., V]
        wanted = tokens[part].repeat_interleave(len(flat) // len(tokens[part]))
        logprobs[part] = -F.cross_entropy(flat, wanted, reduction="none").view(logprobs[part].shape)
    return logprobs


def nucleus(
    logits: Tensor,
    top_p: float,
    keys: Tensor,
    transform: Callable[[Tensor], Tensor] | None = None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor]:
    """Draw tokens [B] from the nucleus of softmax(transform(logits [B, ...])) without sorting the vocabulary.

    A token is drawn from the whole distribution and accepted if it lies in the nucleus, else drawn again: accepted
    tokens follow the renormalised nucleus. Rows that are still without a token after some rounds (a tiny `top_p`) are
    drawn from the sorted nucleus. Also returns the tokens' log-probabilities [B] under that softmax, untruncated; they
    are NaN where a row of logits holds a NaN.

    keys: of the draws, int64 [B], see `rng`.
    transform: applied to some rows of logits before tokens are drawn; it returns [b, V].
    overwrite: the logits are no longer needed: compute in their memory if they are in float32, there is no transform,
        and V is a multiple of 256.
    """
    weights, tops, upto = _weights(logits, transform, overwrite)
    width = logits.shape[-1]
    blocks = weights.unflatten(-1, (-1, _BLOCK))
    tokens = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    logprobs = torch.zeros(len(logits), device=logits.device)
    left = torch.arange(len(logits), device=logits.device)
    for tries in range(_ROUNDS):
        upto_left = upto[left]
        total = upto_left[:, -1:]
        target = uniform(fold_in(keys[left], tries))[:, None] * total
        drawn = _at(blocks, left, upto_left, target).clamp_(max=width - 1)  # [n, 1]
        chosen = weights[left[:, None], drawn]
        inside = _inside(weights, tops, left, chosen, total, top_p) | total.isnan()
        tokens[left], logprobs[left] = drawn.squeeze(-1), (chosen / total).log().float().squeeze(-1)
        left = left[~inside.squeeze(-1)]
        if not len(left):
            return tokens, logprobs
    for part in row_groups(weights[:1].expand(len(left), -1)):
        rows = left[part]
        scores = weights[rows, :width].log()
        tokens[rows] = sorted_nucleus(scores, top_p, fold_in(keys[rows], _ROUNDS))
        logprobs[rows] = token_logprobs(scores, tokens[rows])
    return tokens, logprobs


def _weights(
    logits: Tensor, transform: Callable[[Tensor], Tensor] | None, overwrite: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return unnormalised probabilities, of each block of them the largest one, and the sum up to its end.

    The first are [B, V], V padded to whole blocks, the others [B, blocks]. The largest ones may be off by rounding.
    """
    width = logits.shape[-1]
    if overwrite and transform is None and logits.dtype == torch.float32 and not width % _BLOCK:
        weights = logits
    else:
        weights = torch.full((len(logits), width + -width % _BLOCK), -torch.inf, device=logits.device)
    blocks = weights.unflatten(-1, (-1, _BLOCK))
    tops = torch.empty(blocks.shape[:2], device=logits.device)
    sums = torch.empty_like(tops)
    for part in row_groups(logits):
        if weights is not logits:
            weights[part, :width] = logits[part] if transform is None else transform(logits[part])
        tops[part] = blocks[part].amax(-1)
        largest = tops[part].amax(-1, keepdim=True)
        weights[part].sub_(largest).exp_()
        tops[part].sub_(largest).exp_()
        sums[part] = blocks[part].sum(-1)
    return weights, tops, sums.cumsum(-1, dtype=torch.float64)


def _inside(weights: Tensor, tops: Tensor, rows: Tensor, chosen: Tensor, total: Tensor, top_p: float) -> Tensor:
    """Return whether tokens of some rows [n, 1] are in the nucleus: most of the vocabulary need not be looked at.

    weights, tops: see `_weights`. chosen: the tokens' weights [n, 1]. total: of the weights of a row [n, 1].
    """
    if top_p >= 1:
        return chosen > 0
    # The mass above a token is at most what it leaves.
    unsure = chosen < (1 - top_p + 1e-4) * total
    places, blocks = ((tops[rows] > chosen * (1 - 1e-5)) & unsure).nonzero(as_tuple=True)
    some = weights.unflatten(-1, (-1, _BLOCK))[rows[places], blocks]
    above = torch.zeros(len(rows), tops.shape[1], device=weights.device)
    above[places, blocks] = torch.where(some > chosen[places], some, 0.0).sum(-1)
    return above.sum(-1, keepdim=True) < top_p * total


def _propose(logits: Tensor, top_p: float, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw R times from softmax(logits [b, V]) by uniforms [b, R] and take the first draw that is in the nucleus.

    Returns tokens [b], their log-probabilities [b], and which of them [b] are in the nucleus. A row with a NaN counts
    as inside, with a NaN as its log-probability.
    """
    kernels = gpu_kernels(logits.device)
    block_sums, draw = (kernels.block_sums, kernels.draw) if kernels else (_block_sums, _draw)
    tops, sums = block_sums(logits, _BLOCK)
    largest = tops.amax(-1, keepdim=True)
    upto = (sums * (tops - largest).exp()).cumsum(-1, dtype=torch.float64)
    tokens, chosen, inside = draw(logits, tops, upto, uniforms, top_p, _BLOCK)
    return tokens, (chosen - largest.squeeze(-1) - upto[:, -1].log()).float(), inside


def _block_sums(logits: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Do what `triton_sampling.block_sums` does, with torch alone."""
    blocks = _blocks(logits, block)
    tops = blocks.amax(-1)
    return tops, (blocks - tops.masked_fill(tops == -torch.inf, 0.0)[..., None]).exp_().sum(-1)


def _draw(
    logits: Tensor, tops: Tensor, upto: Tensor, uniforms: Tensor, top_p: float, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `triton_sampling.draw` does, with torch alone."""
    blocks, total = _blocks(logits, block), upto[:, -1:]
    weights = (blocks - tops.amax(-1)[:, None, None]).exp_()
    rows = torch.arange(len(logits), device=logits.device)
    tokens = _at(weights, rows, upto, uniforms * total).clamp_(max=logits.shape[-1] - 1)  # [b, R]
    chosen = logits.gather(-1, tokens).float()
    if top_p < 1:
        # By blocks: a sum over a whole row might be split over threads, and then depends on their number.
        above = [torch.where(blocks > one[..., None], weights, 0.0).sum(-1).sum(-1) for one in chosen.split(1, -1)]
        inside = torch.stack(above, -1) < top_p * total
    else:
        inside = (chosen - tops.amax(-1, keepdim=True)).exp_() > 0
    inside |= total.isnan()
    first = (inside.cumsum(-1) == 0).sum(-1, keepdim=True).clamp_(max=uniforms.shape[-1] - 1)
    tokens, chosen, inside = (of_draws.gather(-1, first).squeeze(-1) for of_draws in (tokens, chosen, inside))
    return tokens, chosen, inside


def _blocks(logits: Tensor, block: int) -> Tensor:
    """Return logits [b, V] in float32 by blocks, [b, blocks, block], the last one filled up with -inf."""
    return F.pad(logits.float(), (0, -logits.shape[-1] % block), value=-torch.inf).unflatten(-1, (-1, block))


def _at(blocks: Tensor, rows: Tensor, upto: Tensor, target: Tensor) -> Tensor:
    """Find token ids [n, R] by inverse CDF in two levels: the block in which `target` [n, R] falls, the place in it.

    blocks: weights of all rows [B, V/block, block]. rows: which of them, [n]. upto: their sums up to the end of each
    block, [n, V/block].
    """
    block = torch.searchsorted(upto, target, right=True).clamp_(max=upto.shape[-1] - 1)
    before = F.pad(upto, (1, 0)).gather(-1, block)
    inner = blocks[rows[:, None], block].cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(inner, (target - before)[:, :, None], right=True).clamp_(max=_BLOCK - 1)
    return block * _BLOCK + place.squeeze(-1)


def sorted_nucleus(logits: Tensor, top_p: float, keys: Tensor) -> Tensor:
    """Draw tokens [B] from the nucleus of softmax(logits [B, V]) by sorting: the slow reference of `nucleus`."""
    upto = nucleus_probabilities(logits, top_p).cumsum(-1)
    target = uniform(keys)[:, None] * upto[:, -1:]
    return torch.searchsorted(upto, target, right=True).clamp_(max=logits.shape[-1] - 1).squeeze(-1)


def nucleus_probabilities(logits: Tensor, top_p: float) -> Tensor:
    """Return the renormalised nucleus [B, V] of softmax(logits [B, V]), in float64."""
    probabilities = logits.double().softmax(-1)
    ranked, order = probabilities.sort(-1, descending=True)
    # Mass before the first of a run of equal probabilities: all of the run are kept or none.
    before = ranked.cumsum(-1) - ranked
    first_of_run = F.pad(ranked[:, 1:] == ranked[:, :-1], (1, 0))
    before = before.masked_fill(first_of_run, -1.0).cummax(-1).values
    truncated = torch.zeros_like(probabilities).scatter_(-1, order, torch.where(before < top_p, ranked, 0.0))
    return truncated / truncated.sum(-1, keepdim=True)
