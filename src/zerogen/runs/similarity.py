"""SIMILARITY: no training and no PLM; the encoder of the TAM compares each text with descriptions of the labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

from zerogen.config.schema import Config
from zerogen.config.task import descriptions_of
from zerogen.data.records import Example, Prediction
from zerogen.errors import UserError
from zerogen.estimate import Probe, some
from zerogen.runs.calibration import calibrated, check_calibration, rows_to_predict
from zerogen.runs.identity import rewords_by_encoder
from zerogen.runs.run import Outcome, Run, describe
from zerogen.runs.settings import UNLABELLED, Setting

if TYPE_CHECKING:
    from zerogen.generation.weighting import Embeddings
    from zerogen.tam.similarity import Embedder


def similarity(run: Run) -> Outcome:
    """Predict the label whose description a text is most similar to."""
    rows = run.gold
    embedder = open_embedder(run)
    with run.stage("similarity"):
        predictions = calibrated(run, [similar(embedder, run, rows)], lambda: [similar(embedder, run, run.unlabelled)])
    outcome = Outcome()
    run.score(predictions, outcome)
    run.progress.say(describe(outcome))
    return outcome


def open_embedder(run: Run) -> Embedder:
    """Load the encoder of the TAM as it is before training."""
    from zerogen.tam.similarity import Embedder

    config = run.config
    with run.stage("load"), run.progress.wait(f"loading {config.tam.name}"):
        return Embedder(config.tam, config.task.max_length, run.device)


def similar(embedder: Embedder, run: Run, rows: Sequence[Example]) -> list[Prediction]:
    """Predict the labels of rows by similarity."""
    return embedder.predict([row.text for row in rows], descriptions_of(run.config.task), run.progress)


def embeddings_of(run: Run, rows: Sequence[Example]) -> Embeddings:
    """Return the vector of each row by its uid, of the TAM's encoder as it is before training."""
    embedder = open_embedder(run)
    with run.stage("embed"):
        vectors = embedder.embed_rows(rows, run.config.task.kind == "pair", run.progress).numpy()
    return {row.uid: vector for row, vector in zip(rows, vectors, strict=True)}


def check_similarity(what: str, config: Config, others: str = "") -> None:
    """Check that similarity can be had: for texts, and of an encoder.

    what: asks for it. others: what is allowed in its place. Raises `UserError`.
    """
    instead = others and f"; allowed are {others}"
    if config.task.kind != "classification":
        task = config.task
        raise UserError(f"{what} compares single texts with labels; task '{task.name}' is {task.kind}{instead}")
    check_embeddable(what, config, instead)


def check_embeddable(what: str, config: Config, instead: str = "") -> None:
    """Check that rows can be embedded: they have labels, and the TAM is an encoder.

    what: asks for it. instead: the end of the line, with what is allowed. Raises `UserError`.
    """
    task, tam = config.task, config.tam
    if task.kind == "qa":
        raise UserError(f"{what} embeds texts that have labels; task '{task.name}' is qa{instead}")
    if tam.kind != "encoder":
        raise UserError(f"{what} needs an encoder to embed texts; tam={tam.name} is {tam.kind}{instead}")


def _check(config: Config) -> None:
    check_similarity("setting=similarity:", config)
    check_calibration(config)
    for key, value, usual in (("scope", config.setting.scope, "prompt"), ("prompts", config.setting.prompts, "first")):
        if value != usual:
            raise UserError(f"setting.{key}={value}: is about prompts; setting=similarity has none")


def _estimate(probe: Probe) -> None:
    """Expect every gold row to be embedded."""
    config = probe.config
    for label, sentences in descriptions_of(config.task).items():
        probe.say_once(f"[{label}] is described by: {' / '.join(sentences)}")
    rows = some(probe.gold.get("evaluate", ()))
    if rows:
        seconds = seconds_to_embed(probe, rows)
        probe.expected.seconds["similarity"] = seconds * rows_to_predict(probe)


def seconds_to_embed(probe: Probe, rows: Sequence[Example]) -> float:
    """Return the seconds that embedding a row takes, probed on rows."""

    def probed() -> float:
        embedder = open_embedder(probe.run)
        started = time.perf_counter()
        embedder.embed_rows(rows, config.task.kind == "pair")
        return (time.perf_counter() - started) / len(rows)

    config = probe.config
    seconds: float = probe.once(["embed", config.task.name, asdict(config.tam)], probed)
    return seconds


def near_words(run: Run) -> Callable[[Sequence[str]], dict[str, tuple[str, ...]]] | None:
    """Return what finds the words near words by the TAM's encoder, None where questions need none or it is no encoder.

    The same condition, `rewords_by_encoder`, names pools.
    """
    if not rewords_by_encoder(run.config):
        return None
    found = cache(lambda words: open_embedder(run).near_words(words, run.progress))
    return lambda words: found(tuple(words))


SIMILARITY = Setting(
    "similarity",
    similarity,
    reads=UNLABELLED | {"tam", "descriptions", "calibration"},
    estimate=_estimate,
    check=_check,
)
