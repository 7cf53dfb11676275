"""The table of losses, from which `trainer.loss` chooses; each is computed row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zerogen.errors import UserError
from zerogen.support.doors import load

if TYPE_CHECKING:
    from torch import Tensor

LOSSES = {name: f"zerogen.tam.losses.{name}" for name in ("cross_entropy", "smoothed", "gce", "sce", "rce")}
_SMOOTHING = 0.15  # share of a target that goes to all classes alike
_Q = 0.7
_CROSS_ENTROPY_WEIGHT, _REVERSE_WEIGHT = 0.1, 1.0
_LOG_ZERO = -4.0  # what stands for the logarithm of 0 in reverse cross-entropy

Loss = Callable[["Tensor", "Tensor"], "Tensor"]
"""From float32 logits [B, C], -inf where a class cannot be, and int64 targets [B] to the loss of each row, [B]."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-probability of each row's target, [B]."""
    from torch.nn import functional  # names are checked before torch is loaded

    return functional.cross_entropy(logits, targets, reduction="none")


def smoothed(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy with label smoothing, [B]: 0.15 of each target belongs to all possible classes alike.

    Szegedy et al. (2016, https://arxiv.org/abs/1512.00567), with the share of SuperGen.
    """
    log_probabilities = logits.log_softmax(-1)
    possible = logits.isfinite()
    mean = log_probabilities.masked_fill(~possible, 0.0).sum(-1) / possible.sum(-1)
    return (1 - _SMOOTHING) * cross_entropy(logits, targets) - _SMOOTHING * mean


def gce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the generalised cross-entropy (1 - p^q) / q of the target's probability p, [B], with q = 0.7.

    Zhang and Sabuncu (2018, https://arxiv.org/abs/1805.07836).
    """
    return (1 - (_Q * -cross_entropy(logits, targets)).exp()) / _Q


def rce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the reverse cross-entropy -sum(p log q), [B], with log 0 = -4: four times the share of other classes.

    Wang et al. (2019, https://arxiv.org/abs/1908.06112).
    """
    return -_LOG_ZERO * (1 - (-cross_entropy(logits, targets)).exp())


def sce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the symmetric cross-entropy, [B]: 0.1 times cross-entropy plus reverse cross-entropy, as in `rce`."""
    return _CROSS_ENTROPY_WEIGHT * cross_entropy(logits, targets) + _REVERSE_WEIGHT * rce(logits, targets)


def loss_of(name: str) -> Loss:
    """Return the loss that a name stands for. Raises `UserError` where it stands for none."""
    loss: Loss = load("trainer.loss", name, LOSSES)
    if not callable(loss):
        raise UserError(f"trainer.loss={name}: is {type(loss).__name__}, not a function of logits and targets")
    return loss
