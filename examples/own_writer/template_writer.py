"""A writer of your own, a PLM that fills in a template, with the same words for the same seed.

    cd examples/own_writer
    python -m zerogen --config-dir conf task=moods plm=template n=20 train=false

`conf/plm/template.yaml` names it as `writer: template_writer:open`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from zerogen.config.schema import PlmConfig
from zerogen.data.records import Continuation, Request
from zerogen.plm.protocol import ChunkOutput, ChunkRequest

WORDS = {"good": ["bright", "moving", "lovely", "witty", "rich"], "bad": ["dull", "boring", "weak", "tired", "flat"]}
PARTS = ["plot", "cast", "music", "ending", "pace", "script", "camera"]
CHOICES = len(PARTS) * (len(PARTS) - 1) * 5 * 4  # equally probable texts of a label


class TemplateWriter:
    """Writes sentences about films. Without a `logprob` it cannot score texts."""

    parallel, tokens, max_positions = 1, 0, 4096  # positions of one character each

    def __init__(self, config: PlmConfig) -> None:
        self.name = config.name

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def write(
        self, chunks: Sequence[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        for chunk in chunks:
            written = [self.sentence(request, Random(f"{chunk.seed} {request.uid}")) for request in chunk.requests]
            on_row(len(written))
            yield ChunkOutput(written, tokens=sum(one.tokens for one in written), seconds=0.0)

    def sentence(self, request: Request, random: Random) -> Continuation:
        parts = random.sample(PARTS, 2)
        words = random.sample(WORDS["good" if "good" in request.prompt else "bad"], 2)
        text = f"The {parts[0]} of this film is {words[0]} and its {parts[1]} is {words[1]}."
        return Continuation(text, "stop", tokens=12, logprob=-math.log(CHOICES) / 12)

    def report_to(self, say: Callable[[str], None]) -> None:
        pass  # it has nothing to say

    def release(self) -> None:
        pass  # it holds no memory


def open(config: PlmConfig, device: Any) -> TemplateWriter:
    """Open the writer; `plm.writer=template_writer:open` names this function."""
    return TemplateWriter(config)
