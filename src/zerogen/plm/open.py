"""Open the PLM that a configuration names: the table of writers, from which `plm.writer` chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zerogen.config.schema import SERVER, PlmConfig
from zerogen.errors import UserError
from zerogen.plm.protocol import LabelScorer, Scorer, Writer
from zerogen.support import doors

if TYPE_CHECKING:
    import torch

# What `plm.writer` may be: a callable (PlmConfig, torch.device) -> Writer. One may have an attribute `identity`, a
# callable (PlmConfig) -> JSON value: what of the configuration shapes the rows, beside the writer's name.
WRITERS = {"transformers": "zerogen.plm.pretrained.open_pretrained", SERVER: "zerogen.plm.server.open_server"}


def opener(config: PlmConfig) -> Any:
    """Return the callable that opens the PLM. Raises `UserError` for a `plm.writer` that names none."""
    function = doors.load("plm.writer", config.writer, WRITERS)
    if not callable(function):
        raise UserError(f"plm.writer={config.writer}: is no function; allowed is one of (PlmConfig, device)")
    return function


def open_plm(config: PlmConfig, device: torch.device) -> Writer:
    """Open the PLM that `plm.writer` names, on a device.

    Raises `UserError` when its weights are missing, and for a user's own that lacks some part of a `Writer`.
    """
    function = opener(config)
    writer = doors.call("plm.writer", config.writer, function, config, device)
    if not isinstance(writer, Writer):
        parts = [*Writer.__annotations__, *(name for name in vars(Writer) if not name.startswith("_"))]
        missing = [part for part in parts if not hasattr(writer, part)]
        raise UserError(
            f"plm.writer={config.writer}: returned a {type(writer).__name__}, which lacks {', '.join(missing)}; "
            "allowed is a Writer, see zerogen.plm.protocol"
        )
    return writer


def as_scorer(plm: Writer, config: PlmConfig, what: str) -> Scorer:
    """Return a PLM that can score. Raises `UserError` for one that cannot; `what` needs it and is named."""
    if not isinstance(plm, Scorer) and config.writer == SERVER:
        raise UserError(
            f"{what}: needs the log-probabilities of given texts, which {config.base_url} does not tell (vLLM, SGLang "
            "and llama.cpp do)"
        )
    if not isinstance(plm, Scorer):
        raise UserError(
            f"{what}: plm.writer={config.writer} cannot score texts (it has no logprob); allowed is a writer that "
            f"can: {', '.join(WRITERS)}, {doors.OWN}"
        )
    return plm


def as_labeller(plm: Writer, config: PlmConfig, what: str) -> Scorer | LabelScorer:
    """Return a PLM that can tell labels: by scoring texts, or by first tokens where that is chosen.

    Raises `UserError` for one that cannot; `what` needs it and is named.
    """
    return plm if isinstance(plm, LabelScorer) else as_scorer(plm, config, what)
