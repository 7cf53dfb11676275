"""What a ZEROGEN run will take: writing texts, training TAMs, measuring rows."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

from zerogen.config.schema import CALIBRATIONS_ON_TEXTS
from zerogen.config.task import asks_plm, counters_of, plm_writes
from zerogen.config.task_schema import TaskConfig
from zerogen.config.template import render
from zerogen.data.records import Example
from zerogen.errors import Unavailable
from zerogen.estimate import GENERATION, PROBE, Pace, Probe, about, shortened, some
from zerogen.generation.pool import Chunk, Journal, first_outputs, quotas, rows_within
from zerogen.generation.select import EMBEDDING, needs
from zerogen.generation.wording import draw_wording
from zerogen.metrics.intervals import wilson_interval
from zerogen.metrics.match import MOST
from zerogen.runs.calibration import unlabelled_of
from zerogen.runs.few_gold import sizes_alone
from zerogen.runs.prompted import ALL_PROMPTS, seconds_to_ask
from zerogen.runs.run import Run, rows_to_write, trend_sizes
from zerogen.runs.self_training import trains_on_synthetic
from zerogen.runs.similarity import near_words, seconds_to_embed

if TYPE_CHECKING:
    from zerogen.plm.protocol import Writer


@dataclass
class TextProbe:
    """What came of the probe's chunk, with the contexts that were written for it."""

    chunk: Chunk
    contexts: list[Chunk]
    batch: int  # rows that the run will decode at a time
    row_bytes: int
    once: float  # seconds that the first chunk alone takes


def estimate(probe: Probe) -> None:
    """Expect texts to be written, or read, TAMs to be trained on them, and their rows to be measured."""
    from zerogen.data.synthetic import load_datasets

    config = probe.config
    _require_measures(probe)
    if config.dataset:
        rows = load_datasets(config.dataset, config.task, config.dataset_labels)
        size = min(config.limit or len(rows), len(rows))
        probe.say_once(f"synthetic rows of {config.dataset}: {len(rows):,}, of which {size:,} are trained on")
    else:
        size, rows = config.n, []
        texts = _write_texts(probe)
        if texts is not None:
            rows = texts.chunk.rows
            _expect_texts(probe, texts)
        if rows:
            _expect_confidence(probe, rows)
    if rows and "asked" in needs(config.select):
        seconds, usage = _pace_of_asking(probe, some(rows))
        probe.expected.seconds["ask"] = seconds * rows_to_write(config, size)
        probe.expected.use(usage, rows_to_write(config, size))
    if rows and EMBEDDING in needs(config.select):
        _expect_embedding(probe, rows, size)
    if config.unlabelled:  # which are refused here where they cannot be read
        _expect_match(probe, size)
    if not config.train:
        return
    pace = probe.pace(rows)
    if pace is not None:
        rounds = _expect_teachers(probe, pace, size) if config.self_training.rounds else []
        trained = [*trend_sizes(size, config.log_every), *rounds]
        probe.expect_training(pace, [*trained, *_sizes_alone(probe)])
        if config.setting.calibration in CALIBRATIONS_ON_TEXTS:
            probe.expected.seconds["calibrate"] = pace.predict * len(unlabelled_of(probe)) * len(trained)
    if config.correctness.evaluator:
        _expect_evaluator(probe, rows, size)


def _sizes_alone(probe: Probe) -> list[int]:
    """Return the numbers of gold rows that are trained on alone, up to those that the run may use."""
    try:
        few = probe.run.few_gold
    except Unavailable:  # gold data, which is named as missing elsewhere
        return []
    if few is None or not probe.evaluated:
        return []
    probe.say(f"{len(few.rows):,} gold rows: {len(few.train):,} are trained on, the others pick the best epoch")
    if few.others:
        probe.say_once("further gold rows are trained on alone until they are better: that is not counted here")
    return sizes_alone(len(few.rows))


def _require_measures(probe: Probe) -> None:
    from zerogen.metrics.diversity import tokenizer
    from zerogen.runs.evaluator import require_measures

    config = probe.config
    try:
        tokenizer(config.diversity.tokenizer)
    except Unavailable:
        probe.missing(f"tokenizer {config.diversity.tokenizer} (a package)", "tokenizer")
    with suppress(Unavailable):  # what else is missing is named elsewhere
        key = [asdict(config.correctness), asdict(config.task), asdict(config.diversity)]
        probe.once(["measures", *key], partial(require_measures, probe.run))


def _write_texts(probe: Probe) -> TextProbe | None:
    """Write 32 texts and say what came of them; None where that cannot be done: then only show prompts."""
    from zerogen.generation.sources import prompt_warnings

    config, task = probe.config, probe.config.task
    for warning in prompt_warnings(task):
        probe.say_once(warning)
    wanted = asks_plm(task, config.filter)
    plm = probe.plm() if wanted else None
    key: list[object] = [asdict(task), asdict(config.plm), asdict(config.decoding), asdict(config.filter)]
    key += [config.demonstrations, config.unlabelled, config.unlabelled_limit]
    try:
        texts: TextProbe | None = None
        if plm is not None or not wanted:
            texts = probe.once(["texts", *key], partial(probe_texts, plm, probe.run))
    except Unavailable:  # the contexts of gold rows
        texts = None
    if texts is None:
        for label in task.labels if plm_writes(task) else ():
            for number, values in enumerate(_values(task, config.seed)):
                wording = draw_wording(task, config.seed, str(number))
                filled = render(wording.prompts[label], {**values, "A": wording.attributes})
                probe.say_once(f"[{label}] {shortened(filled)}")
        return None
    asked, accepted = sum(texts.chunk.asked.values()), len(texts.chunk.rows)
    probe.say_once(first_outputs(texts.chunk, task.labels))
    interval = wilson_interval(accepted, asked)["interval"]
    probe.say_once(
        f"accepted: {accepted / asked:.0%} ({interval[0]:.0%} to {interval[1]:.0%} with 95 % confidence, from "
        f"{asked} texts)"
    )
    return texts


def probe_texts(plm: Writer | None, run: Run) -> TextProbe:
    """Write a chunk of 32 texts as the run would; plm: None where rules alone make them."""
    from zerogen.generation.generator import Generator
    from zerogen.plm.protocol import LocalWriter

    config = run.config
    small = replace(config.decoding, chunk_size=PROBE)
    generator = Generator(
        config.task,
        lambda: cast("Writer", plm),
        small,
        config.filter,
        config.seed,
        demonstrations=config.demonstrations,
        unlabelled=run.unlabelled if config.unlabelled else (),
        near=near_words(run),
    )
    chunks = generator.extend(rows_to_write(config, config.n))
    chunk, once = next(chunks), 0.0
    if plm is None and (later := next(chunks, None)) is not None:  # rules look at all passages before the first row
        usual = later.seconds / sum(later.asked.values()) * sum(chunk.asked.values())
        chunk, once = replace(chunk, seconds=usual), max(0.0, chunk.seconds - usual)
    batch, row_bytes = PROBE, 0
    if isinstance(plm, LocalWriter):
        longest = max(len(plm.encode(sample["prompt"])) for sample in chunk.samples) + config.task.max_new_tokens
        # No more than a chunk, whose rows have a line of their own prompt and one of each counter-prompt.
        lines = len(config.task.labels) if counters_of(config.task) else 1
        most = config.decoding.chunk_size * lines
        batch, row_bytes = min(most, plm.rows_at_a_time(config.decoding, longest)), plm.row_bytes(longest)
    return TextProbe(chunk, list(generator.context_journal.chunks()), batch, row_bytes, once)


def _expect_texts(probe: Probe, texts: TextProbe) -> None:
    """Expect the probe's chunk as often as `n` rows need it, beside those that the pool has."""
    config, task, chunk, expected = probe.config, probe.config.task, texts.chunk, probe.expected
    asked = sum(chunk.asked.values())
    lacking = _lacking(probe)
    never = [label for label in task.labels if not chunk.accepted()[label] and lacking[label]]
    if never:
        probe.say_once(f"no text of label {', '.join(never)} was accepted: what generation takes cannot be said")
        expected.unknown.append(GENERATION)
        return
    expected.memory = max(0, texts.batch - PROBE) * texts.row_bytes
    line = len(json.dumps([asdict(row) for row in chunk.rows], ensure_ascii=False).encode()) / max(1, len(chunk.rows))
    # In the pool, as JSON lines and as Arrow, and in the report.
    expected.disk += 4 * line * rows_to_write(config, config.n)
    if not any(lacking.values()):
        return
    requests, low, high = _requests(chunk, lacking)
    probe.say(
        f"{rows_to_write(config, config.n):,} rows need about {about(requests)} texts ({about(low)} to {about(high)})"
    )
    expected.seconds["generate"] = texts.once + chunk.seconds / asked * requests
    expected.tokens = chunk.tokens / asked * requests
    expected.use(chunk.usage, requests / asked)
    if texts.contexts and task.context is not None:
        written = sum(len(one.rows) for one in texts.contexts)
        needed = requests / (len(lacking) * task.context.per_label) / max(1, written)
        expected.seconds["contexts"] = sum(one.seconds for one in texts.contexts) * needed
        expected.tokens += sum(one.tokens for one in texts.contexts) * needed
        for one in texts.contexts:
            expected.use(one.usage, needed)
    if len(probe.run.devices) > 1:
        probe.say_once(f"probed in one of {len(probe.run.devices)} processes, which together are faster")
    if texts.batch > PROBE:
        probe.say_once(f"the run decodes up to {texts.batch} texts at a time, which is faster than {PROBE} at a time")


def _lacking(probe: Probe) -> dict[str, int]:
    """Return how many rows of each label are not in the pool yet; say how many are."""
    config, folder = probe.config, probe.run.pool_folder()
    rows = Journal.open(folder / "texts.jsonl", repair=config.pool.repair).accepted
    quota = quotas(rows_to_write(config, config.n), config.task.labels)
    if any(rows.values()):
        probe.say(f"{rows_within(quota, rows):,} rows are already in {folder} (seed {config.seed})")
    rows |= probe.session.pools.get(folder, Counter())
    probe.session.pools[folder] = rows | Counter(quota)
    return {label: max(0, quota[label] - rows[label]) for label in quota}


def _requests(chunk: Chunk, lacking: dict[str, int]) -> tuple[float, float, float]:
    """Return how many texts must be asked for, with the bounds of a 95 % interval.

    A chunk asks equally often for every label, until the one that lacks most texts has its share.
    """
    accepts = {
        label: wilson_interval(chunk.accepted()[label], chunk.asked[label]) for label in lacking if lacking[label]
    }
    last = max(accepts, key=lambda label: lacking[label] / accepts[label]["share"])
    low, high = (lacking[last] * len(lacking) / bound for bound in reversed(accepts[last]["interval"]))
    return lacking[last] * len(lacking) / accepts[last]["share"], low, high


def _expect_confidence(probe: Probe, rows: Sequence[Example]) -> None:
    from zerogen.plm.confidence import comparable, label_confidence
    from zerogen.plm.protocol import Scorer, used

    config = probe.config
    if probe.run.names()[0] == "none":  # rules made the rows
        return
    plm = probe.session.open_plm(probe.run)
    # A selection may need that of all rows.
    written = rows_to_write(config, config.n)
    scored = written if "confidence" in needs(config.select) else min(written, config.confidence.rows)
    if not scored or not comparable(config.task):
        return
    if not isinstance(plm, Scorer):
        where = config.plm.base_url or f"plm.writer={config.plm.writer}"
        probe.say_once(f"{where} cannot score texts: confidence in labels is unknown")
        return

    def pace() -> tuple[float, dict[str, int]]:
        started = time.perf_counter()
        with used(plm) as usage:
            label_confidence(plm, config.task, rows)
        return (time.perf_counter() - started) / len(rows), usage

    seconds, usage = probe.once(["confidence", asdict(config.task), asdict(config.plm)], pace)
    probe.expected.seconds["confidence"] = seconds * scored
    probe.expected.use(usage, scored / len(rows))


def _pace_of_asking(probe: Probe, rows: Sequence[Example]) -> tuple[float, dict[str, float]]:
    """Return the seconds that PROMPTING takes for a text in all ways, and what it asks a server for; probed on rows.

    Nothing without a PLM that scores.
    """
    from zerogen.plm.protocol import Scorer

    config, plm = probe.config, probe.plm()
    if not isinstance(plm, Scorer):
        return 0.0, {}
    scorer, number = plm, config.scoring_demonstrations
    key = ["teacher", asdict(config.task), asdict(config.plm), number]
    return _pace(probe, key, scorer, rows, lambda: sum(seconds_to_ask(scorer, config.task, rows, ALL_PROMPTS, number)))


def _pace_of_answering(probe: Probe, questions: Sequence[Example]) -> tuple[float, dict[str, float]]:
    """Return the seconds that the PLM takes to answer a question, and what it asks a server for; probed on some."""
    from zerogen.plm.prompting import prompt_answers

    config, plm = probe.config, probe.plm()
    if plm is None:
        return 0.0, {}
    writer = plm

    def answer() -> float:
        started = time.perf_counter()
        prompt_answers(writer, config.task, questions)
        return (time.perf_counter() - started) / len(questions)

    return _pace(probe, ["answers", asdict(config.task), asdict(config.plm)], writer, questions, answer)


def _pace(
    probe: Probe, key: list[object], plm: Writer, rows: Sequence[Example], seconds_each: Callable[[], float]
) -> tuple[float, dict[str, float]]:
    from zerogen.plm.protocol import used

    def pace() -> tuple[float, dict[str, float]]:
        with used(plm) as usage:
            seconds = seconds_each()
        return seconds, {name: value / len(rows) for name, value in usage.items()}

    found: tuple[float, dict[str, float]] = probe.once(key, pace)
    return found


def _expect_embedding(probe: Probe, rows: Sequence[Example], size: int) -> None:
    config = probe.config
    embedded = sum(rows_to_write(config, one) for one in trend_sizes(size, config.log_every))
    with suppress(Unavailable):  # the TAM is named as missing elsewhere
        probe.expected.seconds["embed"] = seconds_to_embed(probe, some(rows)) * embedded


def _expect_teachers(probe: Probe, pace: Pace, size: int) -> list[int]:
    """Expect teachers to label unlabelled texts; return the number of rows that each round trains on."""
    config, settings, seconds = probe.config, probe.config.self_training, probe.expected.seconds
    texts = unlabelled_of(probe)
    few = some(texts)
    scored = [config.task.name, config.unlabelled, config.unlabelled_limit, asdict(config.plm)]
    scored.append(config.scoring_demonstrations)
    if few and "prompting" in settings.teachers and probe.session.first(["prompt", *scored]):
        asking = _pace_of_answering if config.task.kind == "qa" else _pace_of_asking
        each, usage = asking(probe, few)
        seconds["prompt"] = each * len(texts)
        probe.expected.use(usage, len(texts))
    if few and "similarity" in settings.teachers:
        seconds["similarity"] = seconds_to_embed(probe, few) * len(texts)
    # The TAM of each round is compared with its teachers, of which the first TAM may be one.
    seconds["teach"] = pace.predict * len(texts) * (settings.rounds + ("tam" in settings.teachers))
    labelled = round(settings.share * len(texts))
    return [labelled + (size if trains_on_synthetic(config, labelled) else 0)] * settings.rounds


def _expect_match(probe: Probe, size: int) -> None:
    """Expect rows and unlabelled texts to be embedded; of pairs, it is not known how long that takes."""
    config, texts = probe.config, unlabelled_of(probe)
    if texts and config.train and config.tam.kind == "encoder" and config.task.kind == "classification":
        seconds = seconds_to_embed(probe, some(texts))
        probe.expected.seconds["match"] = 2 * seconds * min(MOST, size, len(texts))


def _expect_evaluator(probe: Probe, rows: Sequence[Example], size: int) -> None:
    from zerogen.runs.evaluator import evaluator_run
    from zerogen.runs.store import asked_for, finished

    evaluator = replace(probe, run=evaluator_run(probe.run))
    folders, gold, expected = probe.session.folders, probe.gold, probe.expected
    try:
        folder = evaluator.run.folder()
        there = finished(evaluator.run) is not None or folder in folders
        folders[folder] = asked_for(evaluator.config)
    except Unavailable:
        there = False
    pace, pace_here = evaluator.pace(gold.get("train", ())), evaluator.pace(rows)
    if pace is None or pace_here is None:
        return
    if there:
        probe.say(f"evaluator {evaluator.config.tam.name}: already there, or trained by an earlier run")
    else:
        trainer = evaluator.config.trainer
        train = pace.train * len(gold["train"]) * (1 - trainer.heldout) * trainer.epochs
        expected.seconds["evaluator"] = pace.begin + train + pace.predict * len(gold.get("evaluate", ()))
        expected.disk += pace.weights
    expected.seconds["correctness"] = pace_here.predict * min(probe.config.correctness.rows, size)


def _values(task: TaskConfig, seed: int) -> list[dict[str, str]]:
    """Return what two prompts are filled with where there is no PLM: contexts that are given, else their names."""
    from zerogen.generation.sources import given_contexts
    from zerogen.support.progress import Progress

    if task.context is None or task.context.source == "plm":
        return [{"C": "<C>"}]
    try:
        found = given_contexts(task, seed).take(0, 2, Progress())
    except Unavailable:
        return [{"C": "<C>", "Y": "<Y>"}]
    return [{"C": one} if isinstance(one, str) else {"C": one[0], "Y": one[1].text} for one in found]
