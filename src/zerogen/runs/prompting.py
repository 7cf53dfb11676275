"""PROMPTING: no training; the PLM scores the filled prompt of every label."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from zerogen.config.schema import CALIBRATIONS_ON_TEXTS
from zerogen.data.records import AnswerPrediction, Example, Prediction
from zerogen.estimate import Probe, shortened, some
from zerogen.plm.open import as_scorer
from zerogen.runs.calibration import calibrated, check_calibration, unlabelled_of
from zerogen.runs.run import Outcome, Run, describe
from zerogen.runs.settings import UNLABELLED, Setting
from zerogen.support.doors import is_own
from zerogen.support.progress import Progress

if TYPE_CHECKING:
    from zerogen.plm.protocol import Scorer


def prompting(run: Run) -> Outcome:
    """Predict the label whose filled prompt is most probable, or let the PLM write the answer."""
    # Only an open writer of the user's own shows whether it can score: it is refused before anything else is read.
    plm = run.load_scorer("setting=prompting") if is_own(run.config.plm.writer) else None
    rows = run.gold
    plm = plm or run.load_scorer("setting=prompting")
    with run.stage("prompt"):
        predictions, cut = _predict(plm, run, rows, run.progress)
        predictions = calibrated(run, predictions, lambda texts: _labels(plm, run, texts, run.progress)[0])
    outcome = Outcome(tokens={"prompt": plm.tokens}, cut=cut)
    if cut:
        run.progress.say(f"{cut:,} of {len(rows):,} gold rows were too long for {plm.name} and were cut")
    run.score(predictions, outcome)
    run.progress.say(describe(outcome))
    return outcome


def estimate(probe: Probe) -> None:
    """Show filled prompts, and expect every gold row to be predicted."""
    from zerogen.config.template import render

    config, task = probe.config, probe.config.task
    plm = probe.plm()
    scorer = None if plm is None else as_scorer(plm, config.plm, "setting=prompting")
    rows = some(probe.gold.get("evaluate", ()))
    for label in task.labels:
        for row in rows[:2] or [Example("", "<X>", label, "<C>")]:
            filled = render(task.scoring[label], {"X": row.text, "C": row.context or ""})
            probe.say_once(f"[{label}] {shortened(filled)}")
    if scorer is not None and rows:
        key = ["prompting", task.name, config.plm.model, asdict(config.setting)]
        seconds = probe.once(key, lambda: _seconds_to_predict(scorer, probe.run, rows))
        texts = len(unlabelled_of(probe)) if config.setting.calibration in CALIBRATIONS_ON_TEXTS else 0
        probe.expected.seconds["prompt"] = seconds * (probe.evaluated + texts)


PROMPTING = Setting(
    "prompting",
    prompting,
    reads=UNLABELLED | {"plm", "calibration"},
    estimate=estimate,
    check=check_calibration,
)


def _predict(
    plm: Scorer, run: Run, rows: Sequence[Example], progress: Progress | None = None
) -> tuple[Sequence[Prediction | AnswerPrediction], int]:
    """Return a prediction for each row, and how many rows were cut."""
    from zerogen.plm.prompting import prompt_answers

    task = run.config.task
    return prompt_answers(plm, task, rows, progress) if task.kind == "qa" else _labels(plm, run, rows, progress)


def _labels(plm: Scorer, run: Run, rows: Sequence[Example], progress: Progress | None) -> tuple[list[Prediction], int]:
    from zerogen.plm.prompting import prompt_labels

    return prompt_labels(plm, run.config.task, rows, run.config.setting, progress)


def _seconds_to_predict(plm: Scorer, run: Run, rows: Sequence[Example]) -> float:
    started = time.perf_counter()
    _predict(plm, run, rows)
    return (time.perf_counter() - started) / len(rows)
