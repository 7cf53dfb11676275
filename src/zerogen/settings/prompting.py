"""PROMPTING: no training; the PLM scores the filled prompt of every label."""

from __future__ import annotations

from zerogen.plm.prompting import prompt_labels
from zerogen.settings.run import Outcome, Run, describe


def prompting(run: Run) -> Outcome:
    """Predict each gold row's label as the one whose filled prompt has the highest mean token log-probability."""
    texts = [row.text for row in run.gold]
    plm = run.load_plm()
    with run.stage("prompt"):
        predictions = prompt_labels(plm, run.config.task, texts, run.progress)
    outcome = Outcome(tokens=plm.tokens)
    run.score(predictions, outcome)
    run.progress.say(describe(outcome))
    return outcome
