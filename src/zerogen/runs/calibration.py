"""Shift predictions to class priors, on texts that nothing is reported on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zerogen.config.schema import CALIBRATIONS_ON_TEXTS, Config
from zerogen.config.task import priors_of
from zerogen.data.records import Example, Prediction
from zerogen.errors import Unavailable, UserError
from zerogen.estimate import Probe
from zerogen.runs.run import Run


def calibrated(
    run: Run, predictions: Sequence[Any], predict: Callable[[Sequence[Example]], Sequence[Prediction]]
) -> Sequence[Any]:
    """Return predictions of the reported rows, calibrated as `setting.calibration` says.

    predict: predicts other rows in the same way.
    """
    from zerogen.metrics.priors import estimated_priors, log_scores, offsets, shifted

    way, task = run.config.setting.calibration, run.config.task
    if way not in CALIBRATIONS_ON_TEXTS:
        return predictions
    texts = predict(run.unlabelled)
    if way == "priors":
        priors = priors_of(task)
        shift = offsets(log_scores(texts, task.labels), priors)
    else:
        equal = [1 / len(task.labels)] * len(task.labels)
        priors, shift = estimated_priors(texts, task.labels, equal)
    said = ", ".join(f"{label} {share:.1%}" for label, share in zip(task.labels, priors, strict=True))
    run.progress.say(f"labels are shifted so that of {len(texts):,} unlabelled texts these shares have them: {said}")
    return shifted(predictions, dict(zip(task.labels, shift.tolist(), strict=True)))


def check_calibration(config: Config) -> None:
    """Check that there is what a calibration needs. Raises `UserError`."""
    way = config.setting.calibration
    if config.unlabelled and way not in CALIBRATIONS_ON_TEXTS:
        ways = " or ".join(CALIBRATIONS_ON_TEXTS)
        raise UserError(
            f"unlabelled={config.unlabelled}: setting={config.setting.name} reads it for calibration only; set "
            f"setting.calibration={ways}, or leave it out"
        )
    if way in CALIBRATIONS_ON_TEXTS and not config.unlabelled:
        raise UserError(f"setting.calibration={way}: needs texts without labels; set unlabelled=FILE, or gold")
    if way in CALIBRATIONS_ON_TEXTS and config.task.kind == "qa":
        raise UserError(f"setting.calibration={way}: is about labels; task '{config.task.name}' is {config.task.kind}")


def unlabelled_of(probe: Probe) -> list[Example]:
    """Return the unlabelled texts of a run that is estimated; none where they cannot be had, which is said."""
    config = probe.config
    key = ["unlabelled", config.unlabelled, config.unlabelled_limit, config.task.name]
    try:
        texts: list[Example] = probe.once(key, lambda: probe.run.unlabelled)
    except Unavailable:
        probe.missing(f"unlabelled={config.unlabelled}", "unlabelled texts")
        return []
    probe.say_once(f"unlabelled texts of {config.task.name}: {len(texts):,}")
    return texts
