"""Self-debiasing: suppress tokens that are more probable after a counter-prompt than after the prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class SelfDebiasing:
    """Scales a next-token distribution down where counter-prompts prefer a token (Schick et al. 2021).

    With p the distribution after the prompt and q the elementwise maximum of those after the counter-prompts, each
    probability is multiplied by max(exp(-decay * max(q - p, 0)), epsilon), https://arxiv.org/abs/2103.00453 (eq. 4)
    with the floor of its implementation.

    decay: how strongly; 0 changes nothing.
    epsilon: the smallest factor.
    """

    decay: float = 0.0
    epsilon: float = 0.01

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the logits [B, V] of the scaled distribution for logits [B, 1 + K, V], the prompt's own first."""
        if logits.shape[1] == 1 or not self.decay:
            return logits[:, 0].float()
        logp = logits.float().log_softmax(-1)
        own, counter = logp[:, 0], logp[:, 1:].amax(1)
        wanted = (counter.exp() - own.exp()).clamp_min_(0)
        least = math.log(self.epsilon) if self.epsilon else -math.inf
        return own + wanted.mul_(-self.decay).clamp_min_(least)
