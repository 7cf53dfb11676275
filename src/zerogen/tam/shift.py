"""Shift the labels of a trained TAM: in its weights, so that whatever opens it predicts the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zerogen.data.records import Input, Prediction
from zerogen.errors import UserError
from zerogen.tam.tam import Tam

_CLOSE = 0.05  # how far a probability may be from the expected one: bfloat16 rounds logits


def shift_labels(tam: Tam, shift: Mapping[str, float], example: Input) -> None:
    """Add to the logit of each label, by the bias of the last layer; example: what shows that this is what it does.

    Raises `UserError` where the model has no such bias.
    """
    probe = {label: 3.0 * (-1) ** place for place, label in enumerate(shift)}  # large, so that it shows
    wanted = _shifted(tam.predict([example])[0], probe)
    names = [
        name
        for name, weights in tam.model.named_parameters()
        if name.endswith("bias") and weights.shape == (len(tam.labels),)
    ]
    for name in reversed(names):  # the last layer is most often the last one that is defined
        bias = tam.model.get_parameter(name)
        before = bias.detach().clone()
        _add(bias, probe, tam)
        found = tam.predict([example])[0].probabilities
        with torch.no_grad():
            bias.copy_(before)
        if all(abs(found[label] - wanted[label]) <= _CLOSE for label in wanted):
            _add(bias, shift, tam)
            return
    raise UserError(
        f"setting.calibration: tam.kind={tam.spec.tam}: its last layer has no bias to shift labels by; allowed is none"
    )


def _add(bias: torch.Tensor, shift: Mapping[str, float], tam: Tam) -> None:
    with torch.no_grad():
        bias.add_(torch.tensor([shift[label] for label in tam.labels], device=bias.device))


def _shifted(prediction: Prediction, shift: Mapping[str, float]) -> dict[str, float]:
    """Return the probabilities of labels after a shift of their logits."""
    labels = list(shift)
    logits = torch.tensor([prediction.probabilities[label] for label in labels]).clamp(min=1e-30).log()
    moved = (logits + torch.tensor([shift[label] for label in labels])).softmax(-1)
    return dict(zip(labels, moved.tolist(), strict=True))
