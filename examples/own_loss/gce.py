"""A loss of your own: generalised cross-entropy, which a wrong label pulls at less than at cross-entropy.

    cd examples/own_loss
    python -m zerogen setting=supervised task=rotten_tomatoes tam=minilm limit=1000 trainer.loss=gce:gce

From Zhang and Sabuncu (2018, https://arxiv.org/abs/1805.07836), with their q = 0.7.
"""

from torch import Tensor


def gce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return (1 - p^q) / q for the probability p of each row's target, [B], from logits [B, C] and targets [B]."""
    p = logits.softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    return (1 - p.clamp(min=1e-6) ** 0.7) / 0.7
