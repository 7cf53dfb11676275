"""Stage 2: requests in, accepted rows out, until every label has its quota."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from random import Random
from typing import Any

from zerogen.answers import AnsweredContexts
from zerogen.config import (
    DecodingConfig,
    FilterConfig,
    TaskConfig,
    check_debias,
    check_decoding,
    check_filter,
    check_size,
)
from zerogen.contexts import Contexts, GivenContexts, chunk_size
from zerogen.errors import UserError
from zerogen.filters import Filter, parse_and_filter
from zerogen.given import given_contexts
from zerogen.plm.protocol import ChunkOutput, ChunkRequest, Writer
from zerogen.pool import Chunk, Journal, first_per_label, quotas
from zerogen.progress import Progress
from zerogen.records import Answer, Example, Request, Stop, derive
from zerogen.template import render, shortened


class Generator:
    """Writes the synthetic rows of a task, chunk by chunk, into a journal.

    A chunk asks equally often for every label. What a chunk holds depends on (configuration, seed, chunk index) and on
    the chunks before it (a text that they hold is rejected), never on how many rows are wanted: of each label, the rows
    for n = 1,000 are the first of those for n = 2,000. A writer that writes several chunks at once may leave more of
    them than `n` needs; the rows are the same. `plm` is called when the first chunk has to be written.

    given: reads the contexts that the PLM does not write, see `given_contexts`; called when they are first asked for.
    contexts: what the task's contexts come from, None for a task without.
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
        given: Callable[[], GivenContexts | AnsweredContexts] | None = None,
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
        self.context_journal = context_journal if context_journal is not None else Journal()
        self.given = given or partial(given_contexts, task, seed)
        self.filter = Filter(filters, self.journal.rows(), task.min_words, paired=task.kind != "classification")

    @cached_property
    def contexts(self) -> Contexts | GivenContexts | AnsweredContexts | None:
        context = self.task.context
        if context is None:
            return None
        if context.source == "plm":
            return Contexts(self.plm, context, self.decoding, self.filters, self.seed, self.context_journal)
        return self.given()

    def extend(self, n: int, progress: Progress | None = None) -> Iterator[Chunk]:
        """Write chunks until each label has its share of `n` rows; yield each one after it was stored.

        Raises `UserError` for a prompt that is too long for the PLM, and with examples when the acceptance of a label
        that still lacks rows stays near zero.
        """
        check_size("n", n, self.task)
        progress = progress or Progress()
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

    def check(self) -> None:
        """Raise `UserError` where a prompt leaves the PLM no room, and where contexts or answers are missing."""
        for label in self.task.labels:
            self.request(Example("", "", label))
        if self.contexts is not None:
            self.contexts.check()

    def contexts_before(self, index: int) -> int:
        """Return the number of contexts that the chunks before chunk `index` use."""
        each = len(self.task.labels) * (self.task.context.per_label if self.task.context else 1)
        return sum(max(1, chunk_size(chunk, self.decoding.chunk_size) // each) for chunk in range(index))

    def drafts(self, index: int, progress: Progress | None = None) -> list[Example]:
        """Return the rows that chunk `index` asks for, without a text: every context with every label, shuffled."""
        task, start, stop = self.task, self.contexts_before(index), self.contexts_before(index + 1)
        repeats = task.context.per_label if task.context else 1
        found: Sequence[tuple[str, Answer] | str | None] = [None] * (stop - start)
        if self.contexts is not None:
            found = self.contexts.take(start, stop, progress or Progress())
        drafts = []
        for one in found:
            context, answers = (one[0], one[1:]) if isinstance(one, tuple) else (one, ())
            drafts += [
                Example("", "", label, context, answers=answers) for label in task.labels for _ in range(repeats)
            ]
        Random(derive(self.seed, "requests", index)).shuffle(drafts)
        return [replace(draft, uid=f"{index:05d}-{i:04d}") for i, draft in enumerate(drafts)]

    def request(self, draft: Example) -> tuple[Request, bool]:
        """Return what is asked of the PLM for a row, and whether its context had to be cut, around the answer if any.

        Raises `UserError` for a prompt that is too long for the PLM.
        """
        plm, task = self.plm(), self.task
        others = [label for label in task.labels if label != draft.label] if task.debias.decay else []
        templates = {label: task.prompts[label] for label in [draft.label, *others]}
        budget = plm.max_positions - task.max_new_tokens
        values = {"C": draft.context or "", "Y": "".join(answer.text for answer in draft.answers)}
        around = [(answer.start, answer.start + len(answer.text)) for answer in draft.answers] or [(0, 0)]
        try:
            context = shortened(list(templates.values()), values, "C", budget, plm.encode, plm.decode, around[0])
        except ValueError as error:
            raise UserError(
                f"task '{task.name}': prompts.{draft.label}: {error}, which is what the {plm.max_positions} positions "
                f"of {plm.name} leave beside max_new_tokens={task.max_new_tokens}"
            ) from error
        prompts = {label: render(template, {**values, "C": context}) for label, template in templates.items()}
        prompt = prompts.pop(draft.label)
        return Request(draft.uid, prompt, prompts), context != values["C"]

    def _write(self, progress: Progress) -> Iterator[Chunk]:
        """Write as many chunks as the writer writes at once."""
        start = len(self.journal.chunks)
        if not start:  # who wrote an earlier chunk has checked them
            self.check()
        plm = self.plm()
        chunks = [self.drafts(index, progress) for index in range(start, start + plm.parallel)]
        asked = [[self.request(draft) for draft in drafts] for drafts in chunks]
        works = [
            ChunkRequest(
                f"texts-{index:06d}",
                [request for request, _ in requests],
                [Stop(stop.text, stop.keep) for stop in self.task.parse.stop],
                self.task.max_new_tokens,
                derive(self.seed, "texts", index),
                self.decoding,
                self.task.debias,
            )
            for index, requests in enumerate(asked, start)
        ]
        with progress.bar("requests of this chunk", sum(len(work.requests) for work in works), "requests") as advance:
            for index, written in enumerate(plm.write(works, advance), start):
                cut = sum(was_cut for _, was_cut in asked[index - start])
                yield self._to_chunk(index, chunks[index - start], works[index - start].requests, written, cut)

    def _to_chunk(
        self, index: int, drafts: Sequence[Example], requests: Sequence[Request], written: ChunkOutput, cut: int
    ) -> Chunk:
        rows: list[Example] = []
        rejects: dict[str, Counter[str]] = {label: Counter() for label in self.task.labels}
        shown: Counter[str] = Counter()
        samples: list[dict[str, Any]] = []
        for draft, request, continuation in zip(drafts, requests, written.continuations, strict=True):
            row, reason = parse_and_filter(draft, continuation, self.task.parse, self.filter)
            label = draft.label
            if reason is None:
                rows.append(row)
            else:
                rejects[label][reason] += 1
            shown[label] += 1
            if shown[label] <= 2 or (reason is not None and rejects[label][reason] <= 3):
                samples.append({"prompt": request.prompt, "label": label, "text": row.text, "reason": reason})
        return Chunk(
            index,
            rows,
            dict(Counter(draft.label for draft in drafts)),
            {label: dict(counts) for label, counts in rejects.items()},
            samples,
            written.tokens,
            written.seconds,
            cut,
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
                if any(sample["reason"] == "too_short" for sample in rejected):
                    key = "task" if self.filters.min_words is None else "filter"
                    examples += f"; too_short has fewer words than {key}.min_words={self.filter.min_words}"
                raise UserError(
                    f"task '{self.task.name}': prompts.{label}: {accepted} of the last {asked} texts were accepted, "
                    f"fewer than filter.min_acceptance={self.filters.min_acceptance}; rejected were {examples}"
                )
