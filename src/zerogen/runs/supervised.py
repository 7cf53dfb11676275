"""SUPERVISED: train the TAM on gold training rows, evaluate it on gold rows it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

from zerogen.data.gold import source_of
from zerogen.data.records import Example
from zerogen.data.stratified import stratified
from zerogen.errors import UserError
from zerogen.estimate import Probe
from zerogen.runs.run import Outcome, Run, describe
from zerogen.runs.settings import Setting


def supervised(run: Run) -> Outcome:
    """Train on gold; the best epoch is picked on held-out training rows, never on the rows reported on."""
    config = run.config
    if config.tam.checkpoint:
        return run.evaluate_checkpoint()
    rows, shared = gold_training_rows(run)
    if shared:
        run.progress.say(f"{shared:,} of the texts reported on are also among the gold training rows")
    outcome = Outcome()
    run.train(stratified(rows, config.limit, config.seed) if config.limit else rows, outcome)
    run.progress.say(describe(outcome, run.evaluator))
    return outcome


def estimate(probe: Probe) -> None:
    """Expect one training on the gold training rows."""
    rows = probe.gold.get("train", [])
    pace = probe.pace(rows)
    if pace is not None:
        size = min(probe.config.limit or len(rows), len(rows))
        probe.say(f"trains on {size:,} gold rows, reports on {probe.evaluated:,}")
        probe.expect_training(pace, [size])


SUPERVISED = Setting(
    "supervised", supervised, reads=frozenset({"gold", "tam", "trainer", "train", "limit", "seed"}), estimate=estimate
)


def gold_training_rows(run: Run) -> tuple[list[Example], int]:
    """Return the gold rows to train on, and how many texts reported on are among them.

    Raises `UserError` where the two splits are one.
    """
    gold = source_of(run.config.task)
    assert gold is not None
    rows = run.gold_split("train")
    return rows, shared_texts(rows, run.gold_evaluated, f"task '{run.config.task.name}'", gold.evaluate_on)


def shared_texts(train: Sequence[Example], evaluated: Sequence[Example], where: str, split: str) -> int:
    """Return how many different texts of `evaluated` are also in `train`.

    Raises `UserError` where one holds the other: then the two are not different splits.
    """
    ours, theirs = ({row.content for row in rows} for rows in (train, evaluated))
    shared = len(ours & theirs)
    if shared in (len(ours), len(theirs)):
        raise UserError(
            f"{where}: gold.evaluate_on={split} names the rows that setting=supervised (or an evaluator) trains on; "
            "allowed is another split, with other rows"
        )
    return shared
