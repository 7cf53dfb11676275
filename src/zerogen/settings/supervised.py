"""SUPERVISED: train the TAM on gold training rows, evaluate it on gold rows it has not seen."""

from __future__ import annotations

from zerogen.config import TaskConfig
from zerogen.errors import UserError
from zerogen.gold import source_of
from zerogen.settings.run import Outcome, Run


def supervised(run: Run) -> Outcome:
    """Train on gold; the best epoch is picked on held-out training rows, never on the rows reported on."""
    run.require_gold()
    if run.config.tam.checkpoint:
        return run.evaluate_checkpoint()
    refuse_evaluating_on_training_rows(run.config.task)
    outcome = Outcome()
    _ = run.gold  # missing gold data is found before the training
    run.fit(run.gold_train(), outcome)
    return outcome


def refuse_evaluating_on_training_rows(task: TaskConfig) -> None:
    """Raise `UserError` where the rows that are reported on are those that are trained on."""
    gold = source_of(task)
    assert gold is not None
    names = [gold.splits.get(split, split) for split in ("train", gold.evaluate_on)]
    files = [gold.files.get(name) for name in names]
    same = names[0] == names[1] and gold.holdout is None
    if gold.evaluate_on == "train" or same or (gold.files and files[0] == files[1]):
        raise UserError(
            f"task '{task.name}': gold.evaluate_on={gold.evaluate_on} names the rows that setting=supervised "
            "trains on; allowed is another split"
        )
