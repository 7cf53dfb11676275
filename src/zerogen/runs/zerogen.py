"""ZEROGEN: generate, score, select, train; gold rows only evaluate, unless `gold_rows` asks for some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING

from zerogen.config.schema import SERVER, Config, PlmConfig
from zerogen.config.task import MADE_BY, counters_of, made_by, making, plm_writes
from zerogen.data.records import PLM, Example
from zerogen.data.stratified import stratified, stratified_order
from zerogen.data.synthetic import load_datasets
from zerogen.errors import UserError
from zerogen.generation.construction import constructions_of
from zerogen.generation.contexts import Contexts
from zerogen.generation.demonstrations import Demonstrations
from zerogen.generation.generator import Generator
from zerogen.generation.pool import (
    Journal,
    count_rejects,
    first_outputs,
    first_per_label,
    quotas,
    rows_within,
    used_chunks,
)
from zerogen.generation.scores import Confidences, ScoreFile, confidences, with_scores
from zerogen.generation.select import EMBEDDING, needs, select
from zerogen.generation.sources import given_contexts
from zerogen.plm.confidence import comparable
from zerogen.runs.answer_training import plm_answers
from zerogen.runs.calibration import calibrate_tam, check_calibration
from zerogen.runs.few_gold import labels_alone
from zerogen.runs.prompted import asked
from zerogen.runs.run import Outcome, Run, describe, rows_to_write, trend_sizes
from zerogen.runs.self_training import PROMPTING, ask_teacher, check_self_training, self_train, teaches
from zerogen.runs.settings import PARTS, Setting
from zerogen.runs.similarity import embeddings_of, near_words
from zerogen.runs.zerogen_cost import estimate
from zerogen.support.files import WORKS, exclusive

if TYPE_CHECKING:
    from zerogen.plm.protocol import Writer


def zerogen(run: Run) -> Outcome:
    """Train a fresh TAM on the first rows at every multiple of `log_every`, and on all rows; return the outcome.

    Each row is generated, scored by the PLM while it is loaded, selected, and then trained on.
    """
    config = run.config
    if config.tam.checkpoint:
        return run.evaluate_checkpoint()
    if config.train:  # fail on missing gold data or a missing TAM before hours of generation
        _ = run.gold, run.few_gold
    if config.train or EMBEDDING in needs(config.select) or Demonstrations.of(config.demonstrations).among:
        run.require_tam()
    if config.plm.writer != PlmConfig.writer:  # only an open one shows whether it can score
        if needs(config.select) & {"confidence", "asked"}:
            run.load_scorer(f"select={config.select}")
        if teaches(config, "prompting"):
            run.load_scorer(PROMPTING)
    if config.unlabelled:  # fail on texts that cannot be read before hours of generation
        _ = run.unlabelled
    outcome = Outcome()
    rounds = config.self_training.rounds if config.train else 0
    for size, rows, last in existing_sets(run) if config.dataset else generated_sets(run, outcome):
        outcome.size, outcome.rows, outcome.n_train = size, rows, len(rows)
        if config.train and not (last and rounds and not teaches(config, "tam")):
            run.train(rows, outcome, adjust=calibrate_tam)
            run.progress.say(describe(outcome))
    if rounds:
        self_train(run, outcome.rows, outcome)
    if config.train:
        labels_alone(run, outcome)
    return outcome


def _check(config: Config) -> None:
    """Check what is done with unlabelled texts. Raises `UserError`."""
    if config.tam.checkpoint:
        for key, value, usual in (
            ("gold_rows", config.gold_rows or None, None),
            ("self_training.rounds", config.self_training.rounds, 0),
            ("setting.calibration", config.setting.calibration, "none"),
        ):
            if value != usual:
                raise UserError(
                    f"{key}={value}: tam.checkpoint={config.tam.checkpoint} is evaluated only; leave it out"
                )
    if "round_trip" in needs(config.select) and config.filter.round_trip is None and not config.dataset:
        raise UserError(
            f"select={config.select}: ranks by what the PLM answers, which is only known where it is asked: set "
            "filter.round_trip=0"
        )
    writes = not config.dataset and not config.tam.checkpoint
    if writes and config.plm.writer == SERVER and plm_writes(config.task) and counters_of(config.task):
        task = config.task
        key, value, off = ("debias.decay", task.debias.decay, 0)
        if not value:
            key, value, off = ("contrast.guidance", task.contrast.guidance, 1)
        raise UserError(
            f"task.{key}={value:g}: compares prompts at every token, which no server does; allowed with "
            f"plm.writer={SERVER} is task.{key}={off}"
        )
    if writes and made_by(config.task) != PLM:
        constructions_of(config.task)
        if config.task.rewording == "similar" and config.tam.kind != "encoder":
            raise UserError(
                f"task.rewording=similar: needs a TAM that is an encoder, and tam={config.tam.name} is "
                f"{config.tam.kind}; allowed are random and none"
            )
        made, allowed = making(config.task), f"{MADE_BY[config.task.kind][0]}=plm"
        if unscored := sorted(needs(config.select) & {"logprob", "margin"}):
            raise UserError(
                f"select={config.select}: needs the score '{unscored[0]}' of rows that a PLM wrote; rules make "
                f"{'some of them' if plm_writes(config.task) else 'them'} ({made}); allowed with {allowed}"
            )
        if not plm_writes(config.task) and config.demonstrations != Config.demonstrations:
            raise UserError(
                f"demonstrations={config.demonstrations}: stand before prompts, and rules make the rows ({made}); "
                f"allowed with {allowed}"
            )
    check_self_training(config)
    check_calibration(config)
    if config.unlabelled and config.tam.checkpoint:
        raise UserError(
            f"unlabelled={config.unlabelled}: is compared with synthetic rows; tam.checkpoint={config.tam.checkpoint} "
            "is evaluated only, so leave it out"
        )


ZEROGEN = Setting(
    "zerogen",
    zerogen,
    reads=PARTS - {"gold", "descriptions", "further_scoring"},
    estimate=estimate,
    check=_check,
    synthetic=True,
)


def existing_sets(run: Run) -> Iterator[tuple[int, list[Example], bool]]:
    """Yield sizes, training sets of them from an existing synthetic dataset, and whether it is the last one.

    Each is stratified by label.
    """
    config = run.config
    with run.stage("load"):
        rows = load_datasets(config.dataset, config.task, config.dataset_labels, run.progress)
    rows = stratified(rows, config.limit, config.seed) if config.limit else stratified_order(rows, config.seed)
    for size in trend_sizes(len(rows), config.log_every, run.evaluated_sizes):
        yield size, selected(run, rows[:size], size), size == len(rows)


def generated_sets(run: Run, outcome: Outcome) -> Iterator[tuple[int, list[Example], bool]]:
    """Yield sizes, training sets of them as the PLM writes, and whether it is the last one.

    Before selection, one is a prefix of the next.
    """
    config = run.config
    sizes = trend_sizes(config.n, config.log_every, run.evaluated_sizes)
    with ExitStack() as stack:
        plm = stack.enter_context(run.writer(run.pool_folder() / WORKS))
        scorer = plm if run.writes_here else cache(run.open_plm)  # other processes only write
        pool = _Pool(run, plm)
        for size in sizes:
            written = rows_to_write(config, size)
            generator = pool.grow_to(written, first=size == sizes[0])
            rows = generator.rows(written)
            account(run, outcome, generator, written)
            last = size == sizes[-1]
            if last and not run.writes_here:  # end the other processes, which need not wait while this one scores
                stack.close()
            scores, wanted = None, needs(config.select)
            if "confidence" in wanted:
                scores = confidences_of(run, stratified_order(rows, config.seed), scorer)
            rows = selected(run, rows, size, scores, asked(run, rows, scorer) if "asked" in wanted else None)
            if last and scores is None:
                _score_for_measures(run, rows, scorer)
            if last and teaches(config, "prompting"):
                (plm_answers if config.task.kind == "qa" else ask_teacher)(run, scorer)
            if last:  # free the PLM's memory while the last TAM trains
                stack.close()
                del scorer
            yield size, rows, last


class _Pool:
    """The pool of a run, which grows from one size of the trend to the next."""

    def __init__(self, run: Run, plm: Callable[[], Writer]) -> None:
        self.run, self.plm, self.folder = run, plm, run.pool_folder()
        self.shown = False  # whether the first texts were shown
        self.start: int | None = None  # number of chunks left by earlier runs
        self.near = near_words(run)
        self.given = cache(partial(given_contexts, run.config.task, run.config.seed))  # read once for all sizes

    def grow_to(self, size: int, first: bool) -> Generator:
        """Return a generator whose pool holds enough rows for `size`. first: whether this is the first size."""
        run, folder = self.run, self.folder
        repair, quota = run.config.pool.repair, quotas(size, run.config.task.labels)
        written = Journal.open(folder / "texts.jsonl", repair=repair)
        if rows_within(quota, written.accepted) < size:
            # Fail on an unavailable PLM or a prompt that is too long before anything is written.
            generator = self._generator()
            generator.check()
            for warning in generator.warnings() if first else ():
                run.progress.say(warning)
        with exclusive(folder, run.progress):
            texts, contexts = (
                Journal.open(folder / f"{name}.jsonl", appends=True, repair=repair) for name in ("texts", "contexts")
            )
            generator = self._generator(texts, contexts)
            reused, have = len(texts.heads), rows_within(quota, texts.accepted)
            self.start = reused if self.start is None else self.start
            if first and have >= size and (folder / WORKS).is_dir():  # else the processes of this run remove it
                from zerogen.plm.workers import leave, remove_stale

                remove_stale(folder / WORKS)
                leave(folder / WORKS, outputs=True)
            if reused == self.start > 0 and have < size:  # otherwise it continues its own rows
                run.progress.say(f"going on from the {have:,} rows that are in {folder}")
            for _ in chain([None], generator.extend(size, run.progress)):
                if not self.shown and texts.heads:
                    run.progress.say(first_outputs(next(texts.chunks()), run.config.task.labels))
                    self.shown = True
        if reused == len(texts.heads) == self.start:
            run.progress.say(f"{size:,} rows are already in {folder}")
        return generator

    def _generator(self, texts: Journal | None = None, contexts: Journal | None = None) -> Generator:
        config = self.run.config
        return Generator(
            config.task,
            self.plm,
            config.decoding,
            config.filter,
            config.seed,
            texts,
            contexts,
            self.given,
            config.demonstrations,
            self.run.unlabelled if config.unlabelled else (),
            partial(embeddings_of, self.run),
            self.near,
        )


def account(run: Run, outcome: Outcome, generator: Generator, n: int) -> None:
    """Record the cost and rejects of the chunks that hold the first `n` rows, whichever run wrote them."""
    chunks = used_chunks(generator.journal.heads, quotas(n, run.config.task.labels))
    context = run.config.task.context
    contexts = generator.contexts if context is not None and context.source == "plm" else None
    written_for = generator.contexts_before(len(chunks))
    stage1 = contexts.chunks_for(written_for) if isinstance(contexts, Contexts) else []
    outcome.rejects, outcome.requests = count_rejects(chunks), sum(sum(chunk.asked.values()) for chunk in chunks)
    outcome.cut = sum(chunk.cut for chunk in chunks)
    if outcome.cut:
        run.progress.say(
            f"{outcome.cut:,} of {outcome.requests:,} contexts were too long for the PLM and were cut, around "
            "the answer if there is one"
        )
    for stage, its in {"contexts": stage1, "generate": chunks}.items():
        run.seconds[stage] = sum(chunk.seconds for chunk in its)
        outcome.tokens[stage] = sum(chunk.tokens for chunk in its)
        usage: Counter[str] = Counter()
        for chunk in its:
            usage.update(chunk.usage)
        if usage:
            run.usage[stage] = usage


def selected(
    run: Run,
    rows: list[Example],
    size: int,
    scores: Confidences | None = None,
    answers: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Example]:
    """Return the rows to train on: all, or what the selections of the run make of them.

    scores, answers: what the PLM says of labels, as far as a selection needs it, see `ScoreFile` and `asked`.
    Of more rows than `size`, the first of each label in the order of the selections are taken, in their own order.
    """
    config = run.config
    if not config.select:
        return rows
    embeddings = embeddings_of(run, rows) if EMBEDDING in needs(config.select) else None
    with run.stage("select"):
        chosen = select(config.select, with_scores(rows, scores, answers or {}), config.task, embeddings)
    if len(rows) > size:
        chosen = list(first_per_label(chosen, quotas(size, config.task.labels)))
        places = {row.uid: place for place, row in enumerate(rows)}
        chosen.sort(key=lambda row: places[row.uid])
    run.progress.say(f"{len(chosen):,} of {len(rows):,} rows selected by {', '.join(config.select)}")
    return chosen


def confidences_of(
    run: Run, rows: Sequence[Example], plm: Callable[[], Writer], among_others: bool = False
) -> Confidences | None:
    """Return the PLM's confidence in rows, in this order: from the pool's scores, or computed now and stored there.

    None if there is nothing to compare, or the PLM cannot score. among_others: as in `ScoreFile.read`.
    """
    task = run.config.task
    file = ScoreFile(run.pool_folder() / "scores.jsonl", task)
    scores = file.read(rows, among_others)
    if scores is None and rows and comparable(task):
        scorer = run.scorer(plm)
        if scorer is not None:
            scores = confidences(scorer, task, rows, run.progress)
        if scores is not None and file.path.parent.is_dir():  # rows of a file have no pool
            file.add(rows, scores)
    if scores is not None and scores.usage:
        run.usage["confidence"] = Counter(scores.usage)
    return scores


def _score_for_measures(run: Run, rows: Sequence[Example], plm: Callable[[], Writer]) -> None:
    """Compute the confidence that will be measured, while the PLM is loaded."""
    limit = run.config.confidence.rows
    if not limit or run.names()[0] == "none":  # rules made the rows
        return
    try:
        confidences_of(run, stratified_order(rows, run.config.seed)[:limit], plm)
    except Exception as error:  # the TAM does not need it: the measures try again, and fail, after it is trained
        reason = " ".join(str(error).split())
        run.progress.say(f"confidence could not be computed yet: {type(error).__name__}: {reason}")
