"""SUPERVISED: train the TAM on gold training rows, evaluate it on gold rows it has not seen."""

from __future__ import annotations

from zerogen.settings.run import Outcome, Run


def supervised(run: Run) -> Outcome:
    """Train on gold; the best epoch is picked on held-out training rows, never on the rows reported on."""
    run.require_gold()
    if run.config.tam.checkpoint:
        return run.evaluate_checkpoint()
    outcome = Outcome()
    _ = run.gold  # missing gold data is found before the training
    run.fit(run.gold_train(), outcome)
    return outcome
