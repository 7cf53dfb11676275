"""PROMPTING: no training; the PLM scores the filled prompt of every label."""

from __future__ import annotations

from zerogen.plm.open import WRITERS
from zerogen.plm.prompting import prompt_answers, prompt_labels
from zerogen.runs.run import Outcome, Run, describe


def prompting(run: Run) -> Outcome:
    """Predict the label whose filled prompt is most probable, or let the PLM write the answer."""
    task = run.config.task
    # Only an open writer of the user's own shows whether it can score: it is refused before anything else is read.
    plm = None if run.config.plm.writer in WRITERS else run.load_scorer("setting=prompting")
    rows = run.gold
    plm = plm or run.load_scorer("setting=prompting")
    with run.stage("prompt"):
        predictions, cut = (
            prompt_answers(plm, task, rows, run.progress)
            if task.kind == "qa"
            else prompt_labels(plm, task, rows, run.config.setting, run.progress)
        )
    outcome = Outcome(tokens={"prompt": plm.tokens}, cut=cut)
    if cut:
        run.progress.say(f"{cut:,} of {len(rows):,} gold rows were too long for {plm.name} and were cut")
    run.score(predictions, outcome)
    run.progress.say(describe(outcome))
    return outcome
