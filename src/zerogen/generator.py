"""Stage 2: requests in, accepted rows out, until every label has its quota."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from zerogen.config import (
    DecodingConfig,
    FilterConfig,
    TaskConfig,
    check_debias,
    check_decoding,
    check_filter,
    check_size,
)
from zerogen.contexts import Contexts, chunk_size
from zerogen.errors import UserError
from zerogen.filters import Filter, judge
from zerogen.plm.work import Work, Writer, Written
from zerogen.pool import Chunk, Journal, first_per_label, quotas
from zerogen.progress import Quiet
from zerogen.records import Example, Request, Stop, derive
from zerogen.template import render_within


class Generator:
    """Writes the synthetic rows of a task, chunk by chunk, into a journal.

    A chunk asks equally often for every label. What a chunk holds depends on (configuration, seed, chunk index) and on
    the chunks before it (a text that they hold is rejected), never on how many rows are wanted: of each label, the rows
    for n = 1,000 are the first of those for n = 2,000. A writer that writes several chunks at once may leave more of
    them than `n` needs; the rows are the same. `plm` is called when the first chunk has to be written.
    """

    def __init__(
        self,
        task: TaskConfig,
        plm: Callable[[], Writer],
        decoding: DecodingConfig,
        filters: FilterConfig,
        seed: int,
        journal: Journal | None = None,
        context_journal: Journal | None = None,
    ) -> None:
        check_decoding(decoding)
        check_filter(filters)
        check_debias(task.debias)
        if not task.prompts:
            raise UserError(
                f"task '{task.name}': prompts is empty; setting=zerogen needs one for each of {', '.join(task.labels)}"
            )
        if decoding.top_k == 1 and task.context is None:
            raise UserError(
                f"decoding.top_k=1 (greedy): task '{task.name}' has no context, so every text of a label would be the "
                "same; allowed is 0 (off), or 2 or more"
            )
        self.task, self.plm, self.decoding, self.filters, self.seed = task, plm, decoding, filters, seed
        self.journal = journal if journal is not None else Journal()
        self.contexts = (
            Contexts(plm, task.context, decoding, filters, seed, context_journal or Journal()) if task.context else None
        )
        self.filter = Filter(filters, self.journal.rows())

    def extend(self, n: int, progress: Quiet | None = None) -> Iterator[Chunk]:
        """Write chunks until each label has its share of `n` rows; yield each one after it was stored.

        Raises `UserError` for a prompt that is too long for the PLM, and with examples when the acceptance of a label
        that still lacks rows stays near zero.
        """
        check_size("n", n, self.task)
        progress = progress or Quiet()
        quota = quotas(n, self.task.labels)
        have: Counter[str] = Counter()
        for chunk in self.journal.chunks:
            have += chunk.accepted()
        with progress.bar("accepted rows", n, "rows") as advance:
            advance(sum(min(have[label], quota[label]) for label in quota))
            while lacking := [label for label in quota if have[label] < quota[label]]:
                self._check_acceptance(lacking)
                for chunk in self._write(progress):
                    self.journal.append(chunk)
                    before, have = have, have + chunk.accepted()
                    advance(sum(min(have[label], quota[label]) - min(before[label], quota[label]) for label in quota))
                    yield chunk
                    # As strict as where chunks are written one by one.
                    if lacking := [label for label in quota if have[label] < quota[label]]:
                        self._check_acceptance(lacking)
                    else:  # a TAM may train next, on the same device
                        self.plm().release()

    def rows(self, n: int) -> list[Example]:
        """Return the training set of size `n`: the first rows of each label, in request order."""
        return list(first_per_label(self.journal.rows(), quotas(n, self.task.labels)))

    def check_prompts(self) -> None:
        """Raise `UserError` for a prompt that leaves the PLM no room to write."""
        for label in self.task.labels:
            self._prompt(label, None)
        if self.contexts is not None:
            self.contexts.check_prompt()

    def doubts(self) -> Iterator[str]:
        """Say for which prompts a text would end by chance only."""
        if all(stop.text == '"' for stop in self.task.parse.stop):
            for label in self.task.labels:
                if not self.task.prompts[label].endswith('"'):
                    yield (
                        f"task '{self.task.name}': prompts.{label} does not end in an opening quote: the PLM has no "
                        "reason to write the closing quote that ends a text"
                    )

    def contexts_before(self, index: int) -> int:
        """Return the number of contexts that the chunks before chunk `index` use."""
        each = len(self.task.labels) * (self.task.context.per_label if self.task.context else 1)
        return sum(max(1, chunk_size(chunk, self.decoding.chunk_size) // each) for chunk in range(index))

    def requests(self, index: int, progress: Quiet | None = None) -> list[Request]:
        """Return the requests of chunk `index`: every context with every label, shuffled."""
        task, start, stop = self.task, self.contexts_before(index), self.contexts_before(index + 1)
        repeats = task.context.per_label if task.context else 1
        contexts: Sequence[str | None] = [None] * (stop - start)
        if self.contexts is not None:
            contexts = self.contexts.take(start, stop, progress or Quiet())
        pairs = [(context, label) for context in contexts for label in task.labels for _ in range(repeats)]
        Random(derive(self.seed, "requests", index)).shuffle(pairs)
        return [
            Request(
                f"{index:05d}-{i:04d}", self._prompt(label, context), label, context, self._counters(label, context)
            )
            for i, (context, label) in enumerate(pairs)
        ]

    def _prompt(self, label: str, context: str | None) -> str:
        plm, task = self.plm(), self.task
        budget = plm.max_positions - task.max_new_tokens
        try:
            return render_within(task.prompts[label], {"C": context or ""}, "C", budget, plm.encode, plm.decode)
        except ValueError as error:
            raise UserError(
                f"task '{task.name}': prompts.{label}: {error}, which is what the {plm.max_positions} positions of "
                f"{plm.name} leave beside max_new_tokens={task.max_new_tokens}"
            ) from error

    def _counters(self, label: str, context: str | None) -> dict[str, str]:
        if not self.task.debias.decay:
            return {}
        return {other: self._prompt(other, context) for other in self.task.labels if other != label}

    def _write(self, progress: Quiet) -> Iterator[Chunk]:
        """Write as many chunks as the writer writes at once."""
        start = len(self.journal.chunks)
        if not start:  # who wrote an earlier chunk has checked them
            self.check_prompts()
        plm = self.plm()
        works = [
            Work(
                f"texts-{index:06d}",
                self.requests(index, progress),
                [Stop(stop.text, stop.keep) for stop in self.task.parse.stop],
                self.task.max_new_tokens,
                derive(self.seed, "texts", index),
                self.decoding,
                self.task.debias,
            )
            for index in range(start, start + plm.at_once)
        ]
        with progress.bar("requests of this chunk", sum(len(work.requests) for work in works), "requests") as advance:
            for index, (work, written) in enumerate(zip(works, plm.write(works, advance), strict=True), start):
                yield self._judge(index, work, written)

    def _judge(self, index: int, work: Work, written: Written) -> Chunk:
        rows: list[Example] = []
        rejects: dict[str, Counter[str]] = {label: Counter() for label in self.task.labels}
        shown: Counter[str] = Counter()
        samples: list[dict[str, Any]] = []
        for request, continuation in zip(work.requests, written.continuations, strict=True):
            row = Example(request.uid, "", request.label, request.context)
            row, reason = judge(row, continuation, self.task.parse, self.filter)
            if reason is None:
                rows.append(row)
            else:
                rejects[request.label][reason] += 1
            shown[request.label] += 1
            if shown[request.label] <= 2 or (reason is not None and rejects[request.label][reason] <= 3):
                samples.append({"prompt": request.prompt, "label": request.label, "text": row.text, "reason": reason})
        return Chunk(
            index,
            rows,
            dict(Counter(request.label for request in work.requests)),
            {label: dict(counts) for label, counts in rejects.items()},
            samples,
            written.tokens,
            written.seconds,
        )

    def _check_acceptance(self, labels: Sequence[str]) -> None:
        for label in labels:
            asked = accepted = 0
            for chunk in reversed(self.journal.chunks):
                asked += chunk.asked[label]
                accepted += chunk.accepted()[label]
                if asked >= self.filters.patience:
                    break
            if asked >= self.filters.patience and accepted < self.filters.min_acceptance * asked:
                rejected = [s for s in self.journal.chunks[-1].samples if s["label"] == label and s["reason"]][:3]
                examples = "; ".join(f"{sample['reason']}: {sample['text'][:80]!r}" for sample in rejected)
                raise UserError(
                    f"task '{self.task.name}': prompts.{label}: {accepted} of the last {asked} texts were accepted, "
                    f"fewer than filter.min_acceptance={self.filters.min_acceptance}; rejected were {examples}"
                )
