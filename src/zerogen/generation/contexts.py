"""Stage 1: contexts, such as film titles, which the PLM writes or which exist already."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from zerogen.config.schema import DecodingConfig, FilterConfig
from zerogen.config.task_schema import ContextConfig, DebiasConfig, ParseConfig
from zerogen.data.records import Example, Request, Stop, derive
from zerogen.errors import UserError
from zerogen.generation.filters import Filter, parse_and_filter
from zerogen.generation.pool import Chunk, Head, Journal
from zerogen.plm.chat import context_prompt, filled
from zerogen.plm.protocol import ChunkRequest, Writer
from zerogen.support.progress import Progress


def chunk_size(index: int, largest: int) -> int:
    """Return the number of requests in chunk `index`: 64, then twice as many each time, up to `largest`.

    So a user soon sees what a prompt yields, and a small run asks for little more than it needs.
    """
    return min(largest, 64 << min(index, 32))


def cycle_indices(start: int, stop: int, size: int, seed: int, shuffled_from: int) -> list[int]:
    """Return the indices at steps `start` to `stop` (exclusive) of an endless walk over `size` indices.

    From lap `shuffled_from` on, each lap has its own order.
    """
    orders: dict[int, list[int]] = {}
    indices = []
    for lap, step in (divmod(i, size) for i in range(start, stop)):
        if lap not in orders:
            orders[lap] = list(range(size))
            if lap >= shuffled_from:
                Random(derive(seed, "lap", lap)).shuffle(orders[lap])
        indices.append(orders[lap][step])
    return indices


class GivenContexts:
    """An endless stream of existing texts: each once in a seeded order, then all again in another order."""

    def __init__(self, texts: Sequence[str], seed: int) -> None:
        self.texts, self.seed = list(dict.fromkeys(texts)), seed

    def take(self, start: int, stop: int, progress: Progress) -> list[str]:
        """Return contexts number `start` to `stop` (exclusive)."""
        return [self.texts[place] for place in cycle_indices(start, stop, len(self.texts), self.seed, shuffled_from=0)]

    def check(self) -> None:
        """Do nothing: the texts are there."""


class Contexts:
    """An endless stream of contexts: unique ones as long as the PLM writes new ones, then the same in new orders.

    Context number i depends only on the configuration and the seed. `journal` stores the chunks whose contexts texts
    are stored for; what is written ahead of that waits for `commit`, so that the journal is the same however many
    texts are written side by side.
    """

    def __init__(
        self,
        plm: Callable[[], Writer],
        config: ContextConfig,
        decoding: DecodingConfig,
        filters: FilterConfig,
        seed: int,
        journal: Journal,
    ) -> None:
        self.plm, self.config, self.decoding, self.seed, self.journal = plm, config, decoding, seed, journal
        self.patience, self.least = filters.patience, filters.min_acceptance
        self.filter = Filter(FilterConfig(min_words=1), journal.rows())
        self.texts = [row.text for row in journal.rows()]
        self.ahead: deque[Chunk] = deque()
        self.heads = list(journal.heads)  # of the chunks in the journal and of those ahead
        self.held = len(self.texts)  # number of contexts in the journal

    def take(self, start: int, stop: int, progress: Progress) -> list[str]:
        """Return contexts number `start` to `stop` (exclusive), writing more where needed."""
        while len(self.texts) < stop and not self._exhausted():
            self._write(stop, progress)
        if not self.texts:
            self.commit(stop)
            last = next(self.journal.chunks(len(self.journal.heads) - 1))
            examples = "; ".join(repr(sample["text"]) for sample in last.samples[:3])
            prompt = context_prompt(self.config, self.plm())
            raise UserError(f"context.prompt='{prompt}': the PLM wrote no context after it; it wrote: {examples}")
        return [self.texts[place] for place in cycle_indices(start, stop, len(self.texts), self.seed, shuffled_from=1)]

    def commit(self, count: int) -> None:
        """Store the chunks that hold the first `count` contexts."""
        while self.ahead and self.held < count:
            self.journal.append(self.ahead[0])
            self.held += len(self.ahead.popleft().rows)

    def check(self) -> None:
        """Raise `UserError` if the prompt leaves the PLM no room to write a context."""
        plm, config = self.plm(), self.config
        length = len(plm.encode(context_prompt(config, plm)))
        if length + config.max_new_tokens > plm.max_positions:
            raise UserError(
                f"context.prompt: its {length} tokens and context.max_new_tokens={config.max_new_tokens} exceed the "
                f"{plm.max_positions} positions of {plm.name}"
            )

    def chunks_for(self, count: int) -> list[Head]:
        """Return the chunks that hold the first `count` contexts."""
        held = 0
        for used, head in enumerate(self.journal.heads):
            if held >= count:
                return self.journal.heads[:used]
            held += head.accepted.total()
        return list(self.journal.heads)

    def _exhausted(self) -> bool:
        asked = accepted = 0
        for head in reversed(self.heads):
            asked += sum(head.asked.values())
            accepted += head.accepted.total()
            if asked >= self.patience:
                return accepted <= self.least * asked
        return False

    def _write(self, stop: int, progress: Progress) -> None:
        """Write as many chunks of contexts as the PLM writes side by side, or until there are `stop` contexts."""
        start, plm = len(self.heads), self.plm()
        rule, (prompt, _) = ParseConfig(), filled(plm, context_prompt(self.config, plm), {}, None)
        chunks = [
            ChunkRequest(
                f"contexts-{index:06d}",
                [Request(f"C{index}-{i}", prompt) for i in range(chunk_size(index, self.decoding.chunk_size))],
                [Stop(stop.text, stop.keep) for stop in rule.stop],
                self.config.max_new_tokens,
                derive(self.seed, "contexts", index),
                self.decoding,
                DebiasConfig(),
            )
            for index in range(start, start + plm.parallel)
        ]
        with progress.bar("writing contexts", sum(len(chunk.requests) for chunk in chunks), "requests") as advance:
            for index, (chunk, output) in enumerate(zip(chunks, plm.write(chunks, advance), strict=True), start):
                rows: list[Example] = []
                rejects: Counter[str] = Counter()
                samples: list[dict[str, Any]] = []
                for request, continuation in zip(chunk.requests, output.continuations, strict=True):
                    row, reason = parse_and_filter(Example(request.uid, "", ""), continuation, rule, self.filter)
                    if reason is None:
                        rows.append(replace(row, logprob=None))
                    else:
                        rejects[reason] += 1
                        if rejects[reason] <= 3:
                            samples.append({"text": row.text, "reason": reason})
                asked, rejected = {"": len(chunk.requests)}, {"": dict(rejects)}
                written = Chunk(
                    index, rows, asked, rejected, samples, output.tokens, output.seconds, usage=dict(output.usage)
                )
                self.ahead.append(written)
                self.heads.append(written.head())
                self.texts += [row.text for row in rows]
                if self._exhausted() or len(self.texts) >= stop:  # written one by one, the next one would not exist
                    break
