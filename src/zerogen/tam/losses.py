"""The table of losses, from which `trainer.loss` chooses; each is computed row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zerogen.errors import UserError
from zerogen.support.doors import load

if TYPE_CHECKING:
    from torch import Tensor

LOSSES = {"cross_entropy": "zerogen.tam.losses.cross_entropy"}

Loss = Callable[["Tensor", "Tensor"], "Tensor"]
"""From float32 logits [B, C], -inf where a class cannot be, and int64 targets [B] to the loss of each row, [B]."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-probability of each row's target, [B]."""
    from torch.nn import functional  # names are checked before torch is loaded

    return functional.cross_entropy(logits, targets, reduction="none")


def loss_of(name: str) -> Loss:
    """Return the loss that a name stands for. Raises `UserError` where it stands for none."""
    loss: Loss = load("trainer.loss", name, LOSSES)
    if not callable(loss):
        raise UserError(f"trainer.loss={name}: is {type(loss).__name__}, not a function of logits and targets")
    return loss
