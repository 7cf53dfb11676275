"""Temporal ensembling: the moving average of a model's predictions of its training rows, to which it is pulled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The constants of SuperGen.
_MOMENTUM = 0.8
_SURE = 0.8  # probability that the average must give the label of a row
_RAMP = 10  # updates until the pull has its full weight
_FEWEST = 16  # rows of a label


class Ensemble(nn.Module):
    """The average prediction of each training row, and which rows are kept.

    Temporal ensembling (Laine and Aila 2017, https://arxiv.org/abs/1610.02242) with rows left out, as in SuperGen (Meng
    et al. 2022, https://arxiv.org/abs/2202.04538), which predicts all rows anew for every update.
    """

    average: Tensor  # [N, C], not yet corrected for its beginning at 0
    updates: Tensor  # how many there were
    kept: Tensor  # [N], 1 for a row that is learned from, 0 for one that is left out
    labels: Tensor  # [N]

    def __init__(self, labels: Sequence[int], classes: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("average", torch.zeros(len(labels), classes))
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("kept", torch.ones(len(labels)))
        self.register_buffer("labels", torch.tensor(labels), persistent=False)

    def update(self, probabilities: Tensor) -> None:
        """Add the model's probabilities of all rows, [N, C], to the average, and decide anew which rows are kept."""
        self.average.lerp_(probabilities, 1 - _MOMENTUM)
        self.updates += 1
        self.kept.copy_(kept_rows(self.predictions(), self.labels))

    def predictions(self) -> Tensor:
        """Return the average over all updates, [N, C], of which there must be one; the latest count most."""
        return self.average / (1 - _MOMENTUM**self.updates)

    def pull(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the divergence of a model's logits [B, C] from the average of rows [B], as it is weighed now, [B].

        0 before the first update; after t of them the weight has the factor exp(-5 (1 - t/10)^2), at most 1.
        """
        count = int(self.updates)
        if not count:
            return torch.zeros_like(logits[:, 0])
        divergence = F.kl_div(logits.log_softmax(-1), self.predictions()[rows], reduction="none").sum(-1)
        return self.weight * ramp(count) * divergence


def ramp(updates: int) -> float:
    """Return the share of the pull's weight after a number of updates."""
    return math.exp(-5 * (1 - min(1.0, updates / _RAMP)) ** 2)


def kept_rows(predictions: Tensor, labels: Tensor) -> Tensor:
    """Tell which rows, bool [N], the predictions [N, C] are sure of: their label is the likeliest, and above 0.8.

    Of a label that so would have fewer than 16 rows, the surer half is kept.
    """
    own = predictions.gather(1, labels[:, None])[:, 0]
    kept = (predictions.argmax(1) == labels) & (own > _SURE)
    for label in labels.unique():
        members = labels == label
        if kept[members].sum() < _FEWEST:
            kept = kept | (members & (own >= own[members].median()))
    return kept
