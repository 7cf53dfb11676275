"""Generate synthetic rows: request texts from the PLM and filter them until every label has its quota."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

from zerogen.config.rules import check_counters, check_decoding, check_filter, check_size
from zerogen.config.schema import DecodingConfig, FilterConfig
from zerogen.config.task import MADE_BY, asks_plm, counters_of, made_by, making, plm_writes
from zerogen.config.task_schema import DebiasConfig, TaskConfig
from zerogen.config.template import shortened
from zerogen.data.records import PLM, Answer, Example, Request, Stop, derive
from zerogen.errors import UserError
from zerogen.generation.answers import AnsweredContexts
from zerogen.generation.construction import Constructor, Near
from zerogen.generation.contexts import Contexts, GivenContexts, chunk_size
from zerogen.generation.demonstrations import ROUND, Demonstrations, end_of_round
from zerogen.generation.filters import Filter, parse_and_filter
from zerogen.generation.pool import Chunk, Journal, first_per_label, quotas, rows_within
from zerogen.generation.scores import round_trip
from zerogen.generation.sources import given_contexts, prompt_warnings
from zerogen.generation.wording import Wording, draw_wording, longest_wordings
from zerogen.plm.chat import filled, in_chat
from zerogen.plm.prompting import prompt_answers
from zerogen.plm.protocol import ChunkOutput, ChunkRequest, StreamingWriter, Writer
from zerogen.support.doors import is_own
from zerogen.support.progress import Progress

if TYPE_CHECKING:
    from zerogen.generation.weighting import Embeddings


_RECENT = 16  # chunks that tell the acceptance of those that follow


@dataclass(frozen=True)
class _Begun:
    """A chunk that is being written: its rows before the PLM writes them, and what the PLM is asked.

    shown: the demonstrations of each row. cut: number of requests whose context was cut.
    """

    index: int
    drafts: Sequence[Example]
    shown: Sequence[str]
    requests: Sequence[Request]
    cut: int


class Generator:
    """Writes the synthetic rows of a task, chunk by chunk, into a journal.

    A chunk holds the same number of requests for every label. Its content depends on (configuration, seed, chunk index)
    and on the chunks before it (texts that they hold are rejected), never on the number of rows requested: for each
    label, the rows for n = 1,000 are the first of those for n = 2,000. Chunks that a writer writes beside
    the last one that `n` needs are not stored, so that the journal is that of a writer of one chunk at a time.

    plm: returns the writer; called when the first chunk has to be written.
    context_source: reads the contexts that the PLM does not write, by default with `given_contexts`; called when
        contexts are first needed.
    contexts: the contexts of the task, None for a task without.
    demonstrations: what chooses the text before each prompt, see `zerogen.generation.demonstrations`. A chunk is shown
        the rows of the rounds before its own, so that its rows do not depend on how many are written in parallel.
    unlabelled: the texts that demonstrations of them are drawn from.
    embed: returns the vectors of rows, for demonstrations that are chosen by them.
    near: returns the words near each of some words, for questions by rules, see `Passages`.
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
        context_source: Callable[[], GivenContexts | AnsweredContexts] | None = None,
        demonstrations: str = "none",
        unlabelled: Sequence[Example] = (),
        embed: Callable[[Sequence[Example]], Embeddings] | None = None,
        near: Near | None = None,
    ) -> None:
        check_decoding(decoding)
        check_filter(filters)
        check_counters(task)
        shown = Demonstrations.of(demonstrations)
        shown.require(unlabelled)
        if not task.prompts and plm_writes(task):
            raise UserError(
                f"task '{task.name}': prompts is empty; setting=zerogen needs one for each of {', '.join(task.labels)}"
            )
        if filters.round_trip is not None and (task.kind != "qa" or not task.scoring):
            raise UserError(
                f"filter.round_trip={filters.round_trip}: needs questions, and a scoring prompt to ask them by; task "
                f"'{task.name}' has none; allowed is null"
            )
        if decoding.top_k == 1 and task.context is None:
            raise UserError(
                f"decoding.top_k=1 (greedy): task '{task.name}' has no context, so every text of a label would be the "
                "same; allowed is 0 (off), or 2 or more"
            )
        self.task, self.plm, self.decoding, self.filters, self.seed = task, plm, decoding, filters, seed
        self.journal = journal if journal is not None else Journal()
        self.context_journal = context_journal if context_journal is not None else Journal()
        self.context_source = context_source or partial(given_contexts, task, seed)
        per_answer = task.context.per_label if task.context else 1
        paired = task.kind != "classification"
        self.filter = Filter(filters, self.journal.rows(), task.min_words, paired, per_answer)
        self.shows, self.demonstrations, self.unlabelled = demonstrations != "none", shown, unlabelled
        self.embed, self.near = embed, near
        # The number of chunks before a round, their rows, and those that it is shown.
        self._round, self._rows = 0, list[Example]()
        self._eligible: Sequence[Example] = self._rows

    @cached_property
    def contexts(self) -> Contexts | GivenContexts | AnsweredContexts | None:
        context = self.task.context
        if context is None:
            return None
        if context.source == "plm":
            return Contexts(self.plm, context, self.decoding, self.filters, self.seed, self.context_journal)
        return self.context_source()

    @cached_property
    def constructor(self) -> Constructor | None:
        """What makes the rows that the PLM does not write; None where it writes all."""
        if made_by(self.task) == PLM:
            return None
        label = self.contexts.label if isinstance(self.contexts, AnsweredContexts) else None
        return Constructor(self.task, self._texts, self.near, label)

    @property
    def _texts(self) -> Sequence[str]:
        """The given contexts, of which rules make rows."""
        assert isinstance(self.contexts, GivenContexts | AnsweredContexts)
        return self.contexts.texts

    def extend(self, n: int, progress: Progress | None = None) -> Iterator[Chunk]:
        """Write chunks until each label has its share of `n` rows; yield each chunk after it is stored.

        Raises `UserError` for a prompt that is too long for the PLM, and, with examples of rejected texts, if the
        acceptance rate of a label that still lacks rows stays near zero.
        """
        check_size("n", n, self.task)
        progress = progress or Progress()
        quota = quotas(n, self.task.labels)
        accepted = self.journal.accepted
        with progress.bar("accepted rows", n, "rows") as advance:
            advance(before := rows_within(quota, accepted))
            while unfilled := [label for label in quota if accepted[label] < quota[label]]:
                self._check_acceptance(unfilled)
                for chunk in self._write(quota, progress):
                    if isinstance(self.contexts, Contexts):
                        self.contexts.commit(self.contexts_before(chunk.index + 1))
                    self.journal.append(chunk)
                    within = rows_within(quota, accepted)
                    advance(within - before)
                    before = within
                    yield chunk
                    # Check after every chunk, as strictly as if chunks were written one by one.
                    if unfilled := [label for label in quota if accepted[label] < quota[label]]:
                        self._check_acceptance(unfilled)
                        continue
                    if asks_plm(self.task, self.filters):  # a TAM may train next, on the same device
                        self.plm().release()
                    break  # written one by one, a chunk that was begun after this one would not exist

    def rows(self, n: int) -> list[Example]:
        """Return the training set of size `n`: the first rows of each label, in request order."""
        return list(first_per_label(self.journal.rows(), quotas(n, self.task.labels)))

    def check(self) -> None:
        """Raise `UserError` if a prompt leaves the PLM no room, or if contexts or answers are missing or of no use."""
        if plm_writes(self.task):
            plm, drafts = self.plm(), [Example("", "", label) for label in self.task.labels]
            shown = self._before(0, drafts)
            for wording in longest_wordings(in_chat(self.task, plm), lambda text: len(plm.encode(text))):
                for draft, before in zip(drafts, shown, strict=True):
                    self._request(draft, wording, before)
        _ = self.constructor  # which knows whether contexts are in English, before answers are looked for
        if self.contexts is not None:
            self.contexts.check()

    def warnings(self) -> Iterator[str]:
        """Yield what may go wrong: see `prompt_warnings`; and how many contexts the rules cannot read."""
        yield from prompt_warnings(self.task)
        if self.constructor is not None and (foreign := self.constructor.passages.foreign):
            yield (
                f"{foreign:,} of {len(self._texts):,} contexts do not seem to be in English, which the rules know: "
                f"they make no rows of them; {MADE_BY[self.task.kind][0]}=plm takes any language"
            )

    @property
    def _repeats(self) -> int:
        """The number of rows of each label per context, or answer: as few as possible of those that rules make."""
        return self.task.context.per_label if self.task.context and made_by(self.task) == PLM else 1

    def contexts_before(self, index: int) -> int:
        """Return the number of contexts that the chunks before chunk `index` use."""
        each, size = len(self.task.labels) * self._repeats, self.decoding.chunk_size
        grown = 0  # the number of chunks that are smaller than all after them
        while grown < index and chunk_size(grown, size) < size:
            grown += 1
        growing = sum(max(1, chunk_size(chunk, size) // each) for chunk in range(grown))
        return growing + (index - grown) * max(1, size // each)

    def drafts(self, index: int, progress: Progress | None = None) -> list[Example]:
        """Return the rows of chunk `index` before the PLM writes their texts: every context with every label, shuffled.

        Those that rules make have their texts.
        """
        task, start, stop = self.task, self.contexts_before(index), self.contexts_before(index + 1)
        contexts: Sequence[tuple[str, Answer] | str | None] = [None] * (stop - start)
        if self.contexts is not None:
            contexts = self.contexts.take(start, stop, progress or Progress())
        drafts = []
        for place, entry in enumerate(contexts, start):
            context, answers = (entry[0], entry[1:]) if isinstance(entry, tuple) else (entry, ())
            drafts += [
                self._filled(Example("", "", label, context, answers=answers), derive(self.seed, "make", place, repeat))
                for label in task.labels
                for repeat in range(self._repeats)
            ]
        Random(derive(self.seed, "requests", index)).shuffle(drafts)
        return [replace(draft, uid=f"{index:05d}-{i:04d}") for i, draft in enumerate(drafts)]

    def _filled(self, draft: Example, seed: int) -> Example:
        """Return a row with its text if rules make it; seed: of all draws, the same for all labels."""
        if self.constructor is None or (made_by(self.task) == "mixed" and Random(derive(seed, "by")).random() < 0.5):
            return draft
        return self.constructor.fill(draft, seed)

    def request(self, draft: Example, before: str = "") -> tuple[Request, bool]:
        """Return the request to the PLM for a row, and whether its context was cut (around the answer, if any) to fit.

        before: the demonstrations. Raises `UserError` for a prompt that is too long for the PLM.
        """
        return self._request(draft, draw_wording(in_chat(self.task, self.plm()), self.seed, draft.uid), before)

    def _request(self, draft: Example, wording: Wording, before: str = "") -> tuple[Request, bool]:
        plm, task = self.plm(), self.task
        others = [label for label in task.labels if label != draft.label] if counters_of(task) else []
        templates = {label: wording.prompts[label] for label in [draft.label, *others]}
        budget = plm.max_positions - task.max_new_tokens - (len(plm.encode(before)) if before else 0)
        values = {"A": wording.attributes, "C": draft.context or ""}
        values["Y"] = "".join(answer.text for answer in draft.answers)
        around = [(answer.start, answer.start + len(answer.text)) for answer in draft.answers] or [(0, 0)]
        try:
            context = shortened(list(templates.values()), values, "C", budget, plm.encode, plm.decode, around[0])
        except ValueError as error:
            beside = f"max_new_tokens={task.max_new_tokens}{' and demonstrations' * bool(before)}"
            raise UserError(
                f"task '{task.name}': {wording.key}.{draft.label}: {error}, which is what the {plm.max_positions} "
                f"positions of {plm.name} leave beside {beside}"
            ) from error
        values |= {"C": context}
        prompts = {label: filled(plm, template, values, None, before)[0] for label, template in templates.items()}
        prompt = prompts.pop(draft.label)
        return Request(draft.uid, prompt, prompts), context != (draft.context or "")

    def _write(self, quota: Mapping[str, int], progress: Progress) -> Iterator[Chunk]:
        """Write some chunks; quota: the number of rows of each label that there are to be."""
        start = len(self.journal.heads)
        if not start:  # otherwise the run that wrote the first chunk has checked the prompts
            self.check()
        if not plm_writes(self.task):
            started = time.perf_counter()
            drafts = self.drafts(start, progress)
            made = ChunkOutput([], 0, time.perf_counter() - started)
            yield self._to_chunk(_Begun(start, drafts, [""] * len(drafts), [], 0), made, progress)
            return
        plm, waiting = self.plm(), deque[_Begun]()
        upcoming, total = self._begin(quota, waiting, progress), self._size(start, start + plm.parallel)
        if isinstance(plm, StreamingWriter):
            total = max(total, self._wanted(quota))
        with progress.bar("requests", total, "requests") as advance:
            if isinstance(plm, StreamingWriter):
                outputs = plm.write(upcoming, advance)
            else:
                outputs = plm.write(list(islice(upcoming, plm.parallel)), advance)
            for output in outputs:
                yield self._to_chunk(waiting.popleft(), output, progress)

    def _begin(self, quota: Mapping[str, int], begun: deque[_Begun], progress: Progress) -> Iterator[ChunkRequest]:
        """Yield the requests of one chunk after the other, until those begun are as many as the quota needs.

        At least as many as the writer handles in parallel. begun: takes the chunks.
        """
        start = len(self.journal.heads)
        end = end_of_round(start) if self.shows else math.inf
        index, least = start, start + self.plm().parallel
        while index < end and (index < least or self._size(len(self.journal.heads), index) < self._wanted(quota)):
            drafts = self.drafts(index, progress)
            shown = self._before(index, drafts)
            asked = [
                self.request(draft, before) for draft, before in zip(drafts, shown, strict=True) if draft.way == PLM
            ]
            requests = [request for request, _ in asked]
            begun.append(_Begun(index, drafts, shown, requests, sum(was_cut for _, was_cut in asked)))
            yield ChunkRequest(
                f"texts-{index:06d}",
                requests,
                [Stop(stop.text, stop.keep) for stop in self.task.parse.stop],
                self.task.max_new_tokens,
                derive(self.seed, "texts", index),
                self.decoding,
                counters_of(self.task) or DebiasConfig(),
            )
            index += 1

    def _size(self, start: int, stop: int) -> int:
        """Return the number of requests of the chunks from `start` to `stop` (exclusive)."""
        return sum(chunk_size(index, self.decoding.chunk_size) for index in range(start, stop))

    def _wanted(self, quota: Mapping[str, int]) -> int:
        """Return how many more requests the quota takes, as far as the acceptance of the last chunks tells."""
        asked: Counter[str] = Counter()
        accepted: Counter[str] = Counter()
        for head in self.journal.heads[-_RECENT:]:
            asked.update(head.asked)
            accepted.update(head.accepted)
        missing = {label: count - self.journal.accepted[label] for label, count in quota.items()}
        wanted = [count * asked[label] / accepted[label] for label, count in missing.items() if accepted[label]]
        return math.ceil(max(wanted, default=0) * len(self.task.labels))

    def _before(self, index: int, drafts: Sequence[Example]) -> list[str]:
        """Return the demonstrations of a chunk's rows, from unlabelled texts or from the rows of the rounds before."""
        if not self.shows:
            return [""] * len(drafts)
        rows = self.unlabelled
        if not self.demonstrations.unlabelled:
            rows = self._rows_before(end_of_round(index) - ROUND)
        random = Random(derive(self.seed, "demonstrations", index))
        befores = [self.demonstrations.before(draft, rows, self.task, random) for draft in drafts]
        return befores if is_own(self.demonstrations.name) else [self._fitting(before) for before in befores]

    def _rows_before(self, chunks: int) -> Sequence[Example]:
        """Return the rows that a round is shown before which there are a number of chunks.

        They are all in memory: a chooser may show any.
        """
        if self._round != chunks:
            if chunks < self._round:
                self._round, self._rows = 0, []
            for chunk in islice(self.journal.chunks(self._round), chunks - self._round):
                self._rows += chunk.rows
            self._round, self._eligible = chunks, self.demonstrations.eligible(self._rows, self.task, self.embed)
        return self._eligible

    def _fitting(self, before: str) -> str:
        """Return demonstrations without those lines at their end that take more than half of the PLM's positions."""
        plm, lines = self.plm(), before.splitlines(keepends=True)
        while lines and len(plm.encode("".join(lines))) > plm.max_positions // 2:
            lines.pop()
        return "".join(lines)

    def _to_chunk(self, begun: _Begun, output: ChunkOutput, progress: Progress) -> Chunk:
        """Parse and filter what the PLM wrote for a chunk, and what rules made."""
        started, tokens, drafts = time.perf_counter(), output.tokens, begun.drafts
        written = iter(zip(begun.requests, output.continuations, strict=True))
        judged: list[tuple[Example, str, str | None]] = []  # row, prompt, reject reason
        for draft, before in zip(drafts, begun.shown, strict=True):
            if draft.way == PLM:
                request, continuation = next(written)
                row, reason = parse_and_filter(draft, continuation, self.task.parse, self.filter, before)
                judged.append((row, request.prompt, reason))
            else:
                reason = self.filter.reason(draft) if draft.text else "not_constructed"
                judged.append((draft, _source(draft), reason))
        if self.filters.round_trip is not None:
            judged, answered = self._round_trip(begun.index, judged, progress)
            tokens += answered
        rows: list[Example] = []
        rejects: dict[str, Counter[str]] = {label: Counter() for label in self.task.labels}
        counts: Counter[str] = Counter()
        samples: list[dict[str, Any]] = []
        for row, prompt, reason in judged:
            label = row.label
            if reason is None:
                rows.append(row)
            else:
                rejects[label][reason] += 1
            counts[label] += 1
            if counts[label] <= 2 or (reason is not None and rejects[label][reason] <= 3):
                samples.append({"prompt": prompt, "label": label, "text": row.text, "reason": reason})
        return Chunk(
            begun.index,
            rows,
            dict(Counter(draft.label for draft in drafts)),
            {label: dict(reasons) for label, reasons in rejects.items()},
            samples,
            tokens,
            output.seconds + time.perf_counter() - started,
            begun.cut,
            dict(output.usage),
        )

    def _round_trip(
        self, index: int, judged: Sequence[tuple[Example, str, str | None]], progress: Progress
    ) -> tuple[list[tuple[Example, str, str | None]], int]:
        """Ask the PLM the accepted questions of a chunk; return all rows, those with its reply, and the tokens."""
        plm, least = self.plm(), self.filters.round_trip or 0.0
        accepted = [row for row, _, reason in judged if reason is None]
        before = plm.tokens
        answers, _ = prompt_answers(plm, self.task, accepted, progress, name=f"replies-{index:06d}")
        replies = iter(answers)
        checked, rejected = [], list[Example]()
        for row, prompt, reason in judged:
            if reason is None:
                row = replace(row, reply=next(replies).text)
                if round_trip(row) < least:
                    reason = "round_trip"
                    rejected.append(row)
            checked.append((row, prompt, reason))
        for row in rejected:  # only now, so that the chunks after this one see what a resumed run sees
            self.filter.forget(row)
        return checked, plm.tokens - before

    def _makers(self, label: str) -> tuple[bool, bool]:
        """Tell whether the PLM, and whether rules, make rows of a label."""
        made = made_by(self.task)
        if made != "construct":
            return made in (PLM, "mixed"), made != PLM
        ways = set(self.task.construction[label])
        return PLM in ways, bool(ways - {PLM})

    def _check_acceptance(self, labels: Sequence[str]) -> None:
        """Raise `UserError` if, over the last `filter.patience` requests of a label, hardly any text was accepted."""
        for label in labels:
            requests = accepted = 0
            for head in reversed(self.journal.heads):
                requests += head.asked[label]
                accepted += head.accepted[label]
                if requests >= self.filters.patience:
                    break
            if requests >= self.filters.patience and accepted < self.filters.min_acceptance * requests:
                last = next(self.journal.chunks(len(self.journal.heads) - 1))
                samples = [s for s in last.samples if s["label"] == label and s["reason"]][:3]
                examples = "; ".join(
                    sample["reason"] + (f": {sample['text'][:80]!r}" if sample["text"] else "") for sample in samples
                )
                by_plm, by_rules = self._makers(label)
                if by_plm and any(sample["reason"] == "too_short" for sample in samples):
                    key = "task" if self.filters.min_words is None else "filter"
                    examples += f"; too_short has fewer words than {key}.min_words={self.filter.min_words}"
                where = f"prompts.{label}"
                if by_rules:
                    where = making(self.task) if self.task.kind == "qa" else f"construction.{label}"
                    examples += f"; {len(self._texts):,} contexts may be too few, or too short: add some, or lower n"
                raise UserError(
                    f"task '{self.task.name}': {where}: {accepted} of the last {requests} texts were accepted, "
                    f"fewer than filter.min_acceptance={self.filters.min_acceptance}; rejected were {examples}"
                )


def _source(row: Example) -> str:
    """Return what a row was made of, for people to read."""
    return f"({row.way}) {row.context}" + "".join(f" [{answer.text}]" for answer in row.answers)
