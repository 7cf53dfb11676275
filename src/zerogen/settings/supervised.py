"""SUPERVISED: train the TAM on gold training rows, evaluate it on gold rows it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

from zerogen.errors import UserError
from zerogen.gold import source_of, stratified
from zerogen.records import Example
from zerogen.settings.run import Outcome, Run, describe


def supervised(run: Run) -> Outcome:
    """Train on gold; the best epoch is picked on held-out training rows, never on the rows reported on."""
    config = run.config
    if config.tam.checkpoint:
        return run.evaluate_checkpoint()
    gold = source_of(config.task)
    assert gold is not None
    rows = run.gold_split("train")
    shared = shared_texts(rows, run.gold_evaluated, f"task '{config.task.name}'", gold.evaluate_on)
    if shared:
        run.progress.say(f"{shared:,} of the texts reported on are also among the gold training rows")
    outcome = Outcome()
    run.fit(stratified(rows, config.limit, config.seed) if config.limit else rows, outcome)
    run.progress.say(describe(outcome))
    return outcome


def shared_texts(train: Sequence[Example], evaluated: Sequence[Example], where: str, split: str) -> int:
    """Return how many different texts of `evaluated` are also in `train`.

    Raises `UserError` where one holds the other: then the two are not different splits.
    """
    ours, theirs = ({row.content for row in rows} for rows in (train, evaluated))
    shared = len(ours & theirs)
    if shared in (len(ours), len(theirs)):
        raise UserError(
            f"{where}: gold.evaluate_on={split} names the rows that setting=supervised trains on; allowed is another "
            "split"
        )
    return shared
