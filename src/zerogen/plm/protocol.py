"""What a PLM must offer: a `Writer` writes chunks of requests, a `Scorer` also scores texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from zerogen.config.schema import DecodingConfig, PlmConfig
from zerogen.config.task_schema import ContrastConfig, DebiasConfig
from zerogen.data.records import Continuation, Request, Stop
from zerogen.plm.chat import PLAIN, Frame
from zerogen.support.progress import Progress

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ChunkRequest:
    """A chunk of requests. What is written for it depends on its fields alone, on the same kind of machine.

    name: unique within a pool. seed: of all draws. debias: what the requests' counter-prompts do.
    """

    name: str
    requests: Sequence[Request]
    stops: Sequence[Stop]
    max_new_tokens: int
    seed: int
    decoding: DecodingConfig
    debias: DebiasConfig | ContrastConfig


@dataclass(frozen=True, slots=True)
class ChunkOutput:
    """One continuation per request of a chunk, in their order; the tokens sampled and the seconds it took.

    usage: what a server was asked for, by name, see `Usage`; empty without one.

    Chunks that are written side by side share their time: the seconds of all of them add up to what passed.
    """

    continuations: Sequence[Continuation]
    tokens: int
    seconds: float
    usage: dict[str, int] = field(default_factory=dict)


@dataclass
class Usage:
    """What a server was asked for: requests, how many of them were repeated or failed, and tokens.

    chats: requests for a text, or for a label, that were put to it as turns of a chat.
    """

    requests: int = 0
    retries: int = 0
    failed: int = 0
    chats: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def since(self, before: Usage) -> dict[str, int]:
        """Return what has come since an earlier state, by name; empty where that is nothing."""
        now = {one.name: getattr(self, one.name) - getattr(before, one.name) for one in fields(self)}
        return now if any(now.values()) else {}

    def add(self, more: Mapping[str, int]) -> None:
        """Add what an earlier run has used, by name."""
        for name, value in more.items():
            setattr(self, name, getattr(self, name) + value)

    def copy(self) -> Usage:
        """Return the state now."""
        return Usage(**asdict(self))


@contextmanager
def used(plm: Writer) -> Iterator[dict[str, int]]:
    """Yield what holds after the block what a server was asked for in it; it stays empty for a PLM in this process."""
    usage: dict[str, int] = {}
    before = plm.usage.copy() if isinstance(plm, RemoteWriter) else None
    yield usage
    if isinstance(plm, RemoteWriter) and before is not None:
        usage |= plm.usage.since(before)


def cost_of(config: PlmConfig, usages: Iterable[Mapping[str, float]]) -> float | None:
    """Return what tokens cost, in the currency of the prices; None where these are not given."""
    if config.price_in is None or config.price_out is None:
        return None
    prices = {"tokens_in": config.price_in, "tokens_out": config.price_out}
    return sum(usage.get(name, 0) * price for usage in usages for name, price in prices.items()) / 1e6


@runtime_checkable
class Writer(Protocol):
    """Writes continuations: all that generation asks of a PLM, in this process, in others or on a server.

    A context that leaves too little room is cut inside the prompt, around an answer if there is one, which takes the
    length of a text and its parts: hence `encode` and `decode`, not one method that says whether a prompt fits. Their
    units are tokens; a writer that cannot see its tokens may count anything else, such as characters.

    name: the PLM's name in messages.
    max_positions: the longest prompt with what is written after it, in those units.
    parallel: how many chunks are written side by side, which must not change what is written.
    tokens: how many were sampled or scored so far.
    """

    name: str
    max_positions: int
    parallel: int
    tokens: int

    def encode(self, text: str) -> list[int]:
        """Return the units of a prompt."""

    def decode(self, ids: list[int]) -> str:
        """Return the text of consecutive units."""

    def write(
        self, chunks: Sequence[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        """Yield the output for each chunk, in their order; call `on_row` with the number of rows finished since.

        A caller that has enough closes the iterator before its end.
        """

    def report_to(self, say: Callable[[str], None]) -> None:
        """Call `say` with a line whenever the user should know something, from now on."""

    def release(self) -> None:
        """Free the memory that is held between chunks; more of them may follow."""


@runtime_checkable
class StreamingWriter(Writer, Protocol):
    """A writer that takes chunks while it writes others, so that none of its processes waits for the slowest.

    ahead: maximum number of chunks that it has taken and not given back.
    """

    ahead: int

    def write(
        self, chunks: Iterable[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        """Yield the output for each chunk, in their order; see `Writer`."""


@runtime_checkable
class Scorer(Writer, Protocol):
    """A writer that also gives the log-probability of any text, which PROMPTING and the confidence in labels need."""

    def logprob(
        self,
        prompts: Sequence[str],
        *,
        begins: Sequence[int] | None = None,
        total: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Yield (index, mean natural-log probability of the tokens of that text but its first), in any order.

        begins: the character of each text from which on tokens count, given what stands before; all by default.
        total: yield sums, not means. Raises ValueError for a text that is too short or too long to be scored.
        """


@runtime_checkable
class LabelScorer(Writer, Protocol):
    """A writer that tells how probable the first tokens of some words are, which PROMPTING can compare labels by."""

    def label_logprobs(
        self, prompts: Sequence[str], words: Sequence[str], progress: Progress | None = None
    ) -> Iterator[tuple[int, list[float]]]:
        """Yield (index, natural-log probability that each of `words` follows that prompt), in any order."""


@runtime_checkable
class LocalWriter(Writer, Protocol):
    """A writer whose weights and cache take memory of this machine, so that a dry run can say how much."""

    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""

    def rows_at_a_time(self, decoding: DecodingConfig, capacity: int) -> int:
        """Return how many rows of at most `capacity` tokens are decoded at a time."""

    def row_bytes(self, capacity: int) -> int:
        """Return the bytes that the cache of one such row takes."""


@runtime_checkable
class RemoteWriter(Writer, Protocol):
    """A writer on another machine, whose answers cost time or money.

    folder: where answers of unfinished work are kept, so that a run that was stopped goes on; None: nowhere.
    usage: what it was asked for so far.
    """

    folder: Path | None
    usage: Usage


_PROMPTS = 1000  # that are tokenized at a time: what the tokenizer makes of each takes four times its ids


class Codec:
    """Text to token ids and back, as a PLM of transformers reads and writes them.

    frame: how prompts are put to it. positions: the longest row that it can read, in tokens. max_positions: the same
    without what the frame takes.
    """

    def __init__(self, tokenizer: Any, positions: int, name: str, frame: Frame = PLAIN) -> None:
        self.tokenizer, self.positions, self.name, self.frame = tokenizer, positions, name, frame
        self.max_positions = positions - (len(self.prompt_ids(frame.wrap("", ""))) if frame.chat else 0)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt as the frame has wrapped it, which holds a chat's special tokens."""
        ids: list[int] = self._read(prompt)["input_ids"]
        return ids

    def all_prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of prompts as `prompt_ids` does, many at a time; equal prompts get the same list."""
        distinct, ids_of = list(dict.fromkeys(prompts)), dict[str, list[int]]()
        for start in range(0, len(distinct), _PROMPTS):
            part = distinct[start : start + _PROMPTS]
            ids_of.update(zip(part, self._read(part)["input_ids"], strict=True))
        return [ids_of[prompt] for prompt in prompts]

    def _read(self, prompt: str | list[str], **options: Any) -> Any:
        return self.tokenizer(prompt, verbose=False, add_special_tokens=not self.frame.chat, **options)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a prompt, with the special tokens that the tokenizer puts before one."""
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


_AHEAD = 8  # chunks for each process


def ahead_of(parallel: int) -> int:
    """Return how many chunks a number of processes takes ahead, so that a slow one seldom lets the others wait."""
    return _AHEAD * parallel


def longest_row(config: Any) -> int:
    """Return how many tokens a model of that configuration can read at once."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30
