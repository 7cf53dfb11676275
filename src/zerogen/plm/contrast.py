"""Contrast: lean towards what sets the prompt apart from the counter-prompts (classifier-free guidance)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Contrast:
    """Moves a next-token distribution away from the mean of those after the counter-prompts (Sanchez et al. 2023).

    With p the distribution after the prompt and q the mean of those after the counter-prompts, log-probabilities become
    log q + guidance * (log p - log q) and are normalised again, https://arxiv.org/abs/2306.17806 (with q in place of
    the distribution without a prompt). Where both are tiny their ratio says little: tokens less probable under p than
    `floor` times its most probable one are out of play, as in Li et al. (2022), https://arxiv.org/abs/2210.15097.

    guidance: 1 changes nothing, 0 follows the counter-prompts alone.
    floor: below 1, so that the most probable token stays in play; 0 keeps all.
    """

    guidance: float = 1.0
    floor: float = 0.001

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the logits [B, V] of that distribution for logits [B, 1 + K, V], the prompt's own first."""
        if logits.shape[1] == 1 or self.guidance == 1:
            return logits[:, 0].float()
        logp = logits.float().log_softmax(-1)
        # Of the sum, not of the mean: a constant more, which no softmax sees.
        own, other = logp[:, 0], logp[:, 1:].logsumexp(1)
        least = own.amax(-1, keepdim=True) + (math.log(self.floor) if self.floor else -math.inf)
        out = (own < least) | (own == -math.inf)  # in whose place the difference might be that of two infinities
        return (other + self.guidance * (own - other)).masked_fill_(out, -math.inf)
