"""PROMPTING: no training; the PLM scores the filled prompt of every label."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from zerogen.config.schema import CALIBRATIONS_ON_TEXTS, Config, PlmConfig
from zerogen.data.records import AnswerPrediction, Example, Prediction
from zerogen.estimate import Probe, shortened, some
from zerogen.plm.open import as_labeller
from zerogen.runs.calibration import calibrated, check_calibration, unlabelled_of
from zerogen.runs.prompted import demonstrations, seconds_to_ask
from zerogen.runs.run import Outcome, Run, describe
from zerogen.runs.settings import UNLABELLED, Setting

if TYPE_CHECKING:
    from zerogen.plm.protocol import LabelScorer, Scorer, Writer


def prompting(run: Run) -> Outcome:
    """Predict the label whose filled prompt is most probable, or let the PLM write the answer."""
    from zerogen.plm.protocol import used

    # Only an open one that is not transformers' shows whether it can score: it is refused before anything else is read.
    plm = _open(run) if run.config.plm.writer != PlmConfig.writer else None
    rows = run.gold
    plm = plm or _open(run)
    with run.stage("prompt"), used(plm) as usage:
        predictions, cut = _predict(plm, run, rows)
    run.use("prompt", usage)
    outcome = Outcome(tokens={"prompt": plm.tokens}, cut=cut)
    if cut:
        run.progress.say(f"{cut:,} of {len(rows):,} gold rows were too long for {plm.name} and were cut")
    run.score(predictions, outcome)
    run.progress.say(describe(outcome))
    return outcome


def _open(run: Run) -> Scorer | LabelScorer:
    """Open the PLM as one that scores labels; questions are only answered, which any PLM can."""
    return _labeller(run.open_plm(run.unfinished), run.config)


def _labeller(plm: Writer, config: Config) -> Scorer | LabelScorer:
    return cast("Scorer", plm) if config.task.kind == "qa" else as_labeller(plm, config.plm, "setting=prompting")


def estimate(probe: Probe) -> None:
    """Show filled prompts, and expect every gold row to be predicted."""
    from zerogen.config.template import render

    config, task = probe.config, probe.config.task
    plm = probe.plm()
    scorer = None if plm is None else _labeller(plm, config)
    rows = some(probe.gold.get("evaluate", ()))
    for label in task.labels:
        for row in rows[:2] or [Example("", "<X>", label, "<C>")]:
            filled = render(task.scoring[label], {"X": row.text, "C": row.context or ""})
            probe.say_once(f"[{label}] {shortened(filled)}")
    if scorer is not None and rows:
        key = ["prompting", task.name, config.plm.model, asdict(config.setting), config.scoring_demonstrations]
        (seconds, after), usage = probe.once(key, lambda: _pace(scorer, probe.run, rows))
        unlabelled = len(unlabelled_of(probe)) if config.unlabelled else 0
        calibrated = unlabelled if config.setting.calibration in CALIBRATIONS_ON_TEXTS else 0
        predicted = seconds * (probe.evaluated + unlabelled) + after * (probe.evaluated + calibrated)
        probe.expected.seconds["prompt"] = predicted
        probe.expected.use(usage, (probe.evaluated + unlabelled) / len(rows))


PROMPTING = Setting(
    "prompting",
    prompting,
    reads=UNLABELLED | {"plm", "further_scoring", "calibration", "scoring_demonstrations"},
    estimate=estimate,
    check=check_calibration,
)


def _pace(plm: Scorer | LabelScorer, run: Run, rows: Sequence[Example]) -> tuple[tuple[float, float], dict[str, int]]:
    """Return the seconds of `_seconds_to_predict`, and what a server was asked for."""
    from zerogen.plm.protocol import used

    with used(plm) as usage:
        seconds = _seconds_to_predict(plm, run, rows)
    return seconds, usage


def _seconds_to_predict(plm: Scorer | LabelScorer, run: Run, rows: Sequence[Example]) -> tuple[float, float]:
    """Return the seconds for a row, and the further ones after demonstrations."""
    from zerogen.plm.prompting import prompt_answers

    task, started = run.config.task, time.perf_counter()
    if task.kind == "qa":
        prompt_answers(plm, task, rows)
        return (time.perf_counter() - started) / len(rows), 0.0
    return seconds_to_ask(plm, task, rows, run.config.setting, run.config.scoring_demonstrations)


def _predict(
    plm: Scorer | LabelScorer, run: Run, rows: Sequence[Example]
) -> tuple[Sequence[Prediction] | Sequence[AnswerPrediction], int]:
    """Return a prediction for each row, and how many rows were cut."""
    from zerogen.plm.prompting import demonstrated, prompt_answers, prompt_sets
    from zerogen.plm.protocol import Scorer

    task, setting, number = run.config.task, run.config.setting, run.config.scoring_demonstrations
    if task.kind == "qa":
        return prompt_answers(plm, task, rows, run.progress)
    of_texts: list[list[Prediction]] = []
    befores: list[str] = []
    if number or setting.calibration in CALIBRATIONS_ON_TEXTS:
        of_texts, _ = prompt_sets(plm, task, run.unlabelled, setting, run.progress)
    if number:
        befores = demonstrations(task, run.unlabelled, of_texts, setting, number)
    sets, cut = prompt_sets(plm, task, rows, setting, run.progress)
    for before in befores:
        assert isinstance(plm, Scorer)  # with labels' first tokens demonstrations are refused
        predictions, cut_here = demonstrated(plm, task, rows, setting, before, run.progress)
        sets.append(predictions)
        cut = max(cut, cut_here)
        if setting.calibration in CALIBRATIONS_ON_TEXTS:
            of_texts.append(demonstrated(plm, task, run.unlabelled, setting, before, run.progress)[0])
    return calibrated(run, sets, lambda: of_texts), cut
