"""What is asked of a PLM and what comes back: chunks of requests, written here or in another process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zerogen.config import DebiasConfig, DecodingConfig
from zerogen.records import Continuation, Request, Stop


@dataclass(frozen=True, slots=True)
class ChunkRequest:
    """A chunk of requests. What is written for it depends on its fields alone, on the same kind of machine.

    name: unique within a pool. seed: of all draws.
    """

    name: str
    requests: Sequence[Request]
    stops: Sequence[Stop]
    max_new_tokens: int
    seed: int
    decoding: DecodingConfig
    debias: DebiasConfig


@dataclass(frozen=True, slots=True)
class ChunkOutput:
    """One continuation per request of a work, in their order; the tokens sampled and the seconds it took.

    Works that are written side by side share their time: the seconds of all of them add up to what passed.
    """

    continuations: Sequence[Continuation]
    tokens: int
    seconds: float


def longest_row(config: Any) -> int:
    """Return how many tokens a model of that configuration can read at once."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30


class Codec:
    """Text to token ids and back, as a PLM reads and writes them.

    max_positions: the longest row that the PLM can read, in tokens.
    """

    def __init__(self, tokenizer: Any, max_positions: int, name: str) -> None:
        self.tokenizer, self.max_positions, self.name = tokenizer, max_positions, name

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a prompt, with the special tokens that the tokenizer puts before one."""
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class Writer(Protocol):
    """Writes chunks of requests: a `Plm` in this process, or `Workers` in others.

    at_once: how many works are written side by side.
    release: give back the memory that is kept from one work for the next.
    """

    name: str
    max_positions: int
    parallel: int

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...
    def write(self, works: Sequence[ChunkRequest], on_row: Callable[[int], None] = ...) -> Iterator[ChunkOutput]: ...
    def release(self) -> None: ...
