"""ZEROGEN: the PLM writes the training set, the TAM learns from nothing else, gold rows only evaluate."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from functools import cache, partial
from itertools import chain

from zerogen.config import TaskConfig
from zerogen.contexts import Contexts
from zerogen.dataset import load_synthetic
from zerogen.files import exclusive
from zerogen.generator import Generator, given_contexts, prompt_warnings
from zerogen.gold import stratified, stratified_order
from zerogen.pool import Chunk, Journal, first_per_label, quotas
from zerogen.records import Example
from zerogen.runs.run import Outcome, Run, count_rejects, describe, used_chunks


def zerogen(run: Run) -> Outcome:
    """Train a fresh TAM on the first rows at every multiple of `log_every` and on all of them; record the trend."""
    config = run.config
    if config.tam.checkpoint:
        return run.evaluate_checkpoint()
    if config.train:  # missing gold data and a missing TAM are found before hours of generation
        _ = run.gold
        run.require_tam()
    outcome = Outcome()
    for rows in existing_sets(run) if config.dataset else generated_sets(run, outcome):
        outcome.rows, outcome.n_train = rows, len(rows)
        if config.train:
            run.fit(rows, outcome)
            run.progress.say(describe(outcome))
    return outcome


def trend_sizes(n: int, log_every: int | None, known: Collection[int] = ()) -> list[int]:
    """Return the training-set sizes: every multiple of `log_every` below `n` that is not `known`, and `n`."""
    return [*(size for size in range(log_every, n, log_every) if size not in known), n] if log_every else [n]


def existing_sets(run: Run) -> Iterator[list[Example]]:
    """Yield training sets of growing size from an existing synthetic file; each is stratified by label."""
    config = run.config
    with run.stage("load"):
        rows = load_synthetic(str(config.dataset), config.task, config.dataset_labels, run.progress)
    rows = stratified(rows, config.limit, config.seed) if config.limit else stratified_order(rows, config.seed)
    for size in trend_sizes(len(rows), config.log_every, run.known):
        yield rows[:size]


def generated_sets(run: Run, outcome: Outcome) -> Iterator[list[Example]]:
    """Yield training sets of growing size as the PLM writes them; each is a prefix of the next, label by label."""
    config, folder = run.config, run.pool_folder()
    shown, start = False, None  # how many chunks an earlier run has left
    sizes = trend_sizes(config.n, config.log_every, run.known)
    given = cache(partial(given_contexts, config.task, config.seed))  # read once, also for a trend
    with ExitStack() as stack:
        plm = stack.enter_context(run.writer(folder / "works"))
        for size in sizes:
            written = Journal.open(folder / "texts.jsonl")
            if len(list(first_per_label(written.rows(), quotas(size, config.task.labels)))) < size:
                # A PLM that cannot be had and a prompt that is too long are found before anything is written.
                asked = Generator(config.task, plm, config.decoding, config.filter, config.seed, given=given)
                asked.check()
                for warning in prompt_warnings(config.task) if size == sizes[0] else ():
                    run.progress.say(warning)
            with exclusive(folder, run.progress):
                generator = Generator(
                    config.task,
                    plm,
                    config.decoding,
                    config.filter,
                    config.seed,
                    Journal.open(folder / "texts.jsonl", repair=True),
                    Journal.open(folder / "contexts.jsonl", repair=True),
                    given,
                )
                reused = len(generator.journal.chunks)
                have = len(generator.rows(size))
                start = reused if start is None else start
                if reused == start > 0 and have < size:  # else it goes on from its own
                    run.progress.say(f"going on from the {have:,} rows that are in {folder}")
                for _ in chain([None], generator.extend(size, run.progress)):
                    if not shown and generator.journal.chunks:
                        run.progress.say(first_outputs(generator.journal.chunks[0], config.task))
                        shown = True
            if reused == len(generator.journal.chunks) == start:
                run.progress.say(f"{size:,} rows are already in {folder}")
            rows = generator.rows(size)
            chunks = used_chunks(generator.journal.chunks, rows)
            context = config.task.context
            contexts = generator.contexts if context is not None and context.source == "plm" else None
            written_for = generator.contexts_before(len(chunks))
            stage1 = contexts.chunks_for(written_for) if isinstance(contexts, Contexts) else []
            outcome.rejects, outcome.asked = count_rejects(chunks), sum(sum(chunk.asked.values()) for chunk in chunks)
            outcome.cut = sum(chunk.cut for chunk in chunks)
            if outcome.cut:
                run.progress.say(
                    f"{outcome.cut:,} of {outcome.asked:,} contexts were too long for the PLM and were cut, around "
                    "the answer if there is one"
                )
            # The pool remembers what its chunks cost, also where an earlier run wrote them.
            for stage, its in {"contexts": stage1, "generate": chunks}.items():
                run.seconds[stage] = sum(chunk.seconds for chunk in its)
                outcome.tokens[stage] = sum(chunk.tokens for chunk in its)
            if size == sizes[-1]:  # the PLM's memory is free while the last TAM trains
                stack.close()
            yield rows


def first_outputs(chunk: Chunk, task: TaskConfig) -> str:
    """Describe two prompts of each label and what the PLM wrote behind them, and what became of all that it wrote."""
    lines = []
    for label in task.labels:
        for sample in [sample for sample in chunk.samples if sample["label"] == label][:2]:
            verdict = f"rejected: {sample['reason']}" if sample["reason"] else "accepted"
            prompt = sample["prompt"]
            if len(prompt) > 300:  # a passage in the middle
                prompt = f"{prompt[:120]} ... {prompt[-160:]}"
            lines += [f"[{label}, {verdict}] {prompt}", f"    -> {sample['text']}"]
    rejects = ", ".join(f"{reason} {count:,}" for reason, count in count_rejects([chunk]).items())
    asked = sum(chunk.asked.values())
    lines.append(f"of the first {asked:,} texts {len(chunk.rows):,} were accepted; rejected: {rejects or 'none'}")
    return "\n".join(lines)
