"""Shift predictions to class priors, on texts that nothing is reported on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zerogen.config.schema import CALIBRATIONS_ON_TEXTS, Config
from zerogen.config.task import priors_of
from zerogen.data.records import Example, Prediction
from zerogen.errors import Unavailable, UserError
from zerogen.estimate import Probe
from zerogen.runs.run import Run


def calibrated(
    run: Run,
    sets: Sequence[Sequence[Prediction]],
    predict: Callable[[Sequence[Example]], Sequence[Sequence[Prediction]]],
) -> list[Prediction]:
    """Return predictions of the reported rows, averaged over sets of them and calibrated as `setting.calibration` says.

    predict: predicts other rows in the same ways.
    """
    from zerogen.metrics.priors import averaged, estimated_priors, log_scores, offsets, predictions_of, shifted
    from zerogen.metrics.pseudo_labels import Combination

    way, labels = run.config.setting.calibration, run.config.task.labels
    if way not in CALIBRATIONS_ON_TEXTS:
        return averaged(sets, labels)
    texts = predict(run.unlabelled)
    priors = priors_of(run.config.task)
    if way == "em":
        priors, shift = estimated_priors(averaged(texts, labels), labels, [1 / len(labels)] * len(labels))
    said = ", ".join(f"{label} {share:.1%}" for label, share in zip(labels, priors, strict=True))
    run.progress.say(f"labels are shifted so that of {len(texts[0]):,} unlabelled texts these shares have them: {said}")
    if way == "priors" and len(sets) > 1:  # each set is shifted and scaled by itself
        fitted = Combination.fit([log_scores(one, labels) for one in texts], priors)
        return predictions_of(fitted.apply([log_scores(one, labels) for one in sets]), labels)
    if way == "priors":
        shift = offsets(log_scores(texts[0], labels), priors)
    return shifted(averaged(sets, labels), dict(zip(labels, shift.tolist(), strict=True)))


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


def rows_to_predict(probe: Probe) -> int:
    """Return how many rows a run that is estimated predicts: those reported on, and those that it calibrates on."""
    calibrates = probe.config.setting.calibration in CALIBRATIONS_ON_TEXTS
    return probe.evaluated + (len(unlabelled_of(probe)) if calibrates else 0)


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
