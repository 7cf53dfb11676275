"""Shift predictions to class priors, on texts that nothing is reported on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zerogen.config.schema import CALIBRATIONS_ON_TEXTS, Config
from zerogen.config.task import priors_of
from zerogen.data.records import Example, Prediction
from zerogen.errors import Unavailable, UserError
from zerogen.estimate import Probe
from zerogen.runs.run import Run

if TYPE_CHECKING:
    from zerogen.tam.tam import Tam

_ASK_NO_PLM = {"similarity": "has no PLM", "zerogen": "trains a TAM"}  # settings that predict by something else


def calibrated(
    run: Run,
    sets: Sequence[Sequence[Prediction]],
    of_texts: Callable[[], Sequence[Sequence[Prediction]]],
) -> list[Prediction]:
    """Return predictions of the reported rows, averaged over sets of them and calibrated as `setting.calibration` says.

    of_texts: returns predictions of the unlabelled texts in the same ways.
    """
    from zerogen.metrics.priors import averaged, log_scores, predictions_of, shifted
    from zerogen.metrics.pseudo_labels import Combination

    way, labels = run.config.setting.calibration, run.config.task.labels
    if way not in CALIBRATIONS_ON_TEXTS:
        return averaged(sets, labels)
    texts = of_texts()
    shift = shift_of(run, averaged(texts, labels))
    if way == "priors" and len(sets) > 1:  # each set is shifted and scaled by itself
        fitted = Combination.fit([log_scores(one, labels) for one in texts], priors_of(run.config.task))
        return predictions_of(fitted.apply([log_scores(one, labels) for one in sets]), labels)
    return shifted(averaged(sets, labels), shift)


def shift_of(run: Run, predictions: Sequence[Prediction], trained: Sequence[float] = ()) -> dict[str, float]:
    """Return what is added to the log-probability of each label, from the predictions of the unlabelled texts.

    trained: the shares of labels that probabilities stand for; equal ones by default.
    """
    from zerogen.metrics.priors import estimated_priors, log_scores, offsets

    way, labels = run.config.setting.calibration, run.config.task.labels
    if way == "em":
        priors, shift = estimated_priors(predictions, labels, trained or [1 / len(labels)] * len(labels))
    else:
        priors = priors_of(run.config.task)
        shift = offsets(log_scores(predictions, labels), priors)
    said = ", ".join(f"{label} {share:.1%}" for label, share in zip(labels, priors, strict=True))
    run.progress.say(
        f"labels are shifted so that of {len(predictions):,} unlabelled texts these shares have them: {said}"
    )
    return dict(zip(labels, shift.tolist(), strict=True))


def calibrate_tam(run: Run, tam: Tam, rows: Sequence[Example]) -> None:
    """Shift the labels of a TAM trained on rows in its weights, where the configuration calibrates on texts."""
    from zerogen.tam.shift import shift_labels

    if run.config.setting.calibration not in CALIBRATIONS_ON_TEXTS:
        return
    with run.stage("calibrate"):
        inputs = tam.inputs_of(run.unlabelled)
        weights = [sum(row.weight for row in rows if row.label == label) for label in run.config.task.labels]
        trained = [weight / sum(weights) for weight in weights] if all(weights) else []
        shift_labels(tam, shift_of(run, tam.predict(inputs, progress=run.progress), trained), inputs[0])


def check_calibration(config: Config) -> None:
    """Check that there is what a calibration needs. Raises `UserError`."""
    way, setting = config.setting.calibration, config.setting.name
    synthetic = setting == "zerogen"  # which has other uses for them
    if way == "prior" and setting in _ASK_NO_PLM:
        raise UserError(
            f"setting.calibration=prior: subtracts what a PLM says without a text; setting={setting} "
            f"{_ASK_NO_PLM[setting]}; allowed are none, priors and em"
        )
    shows = config.scoring_demonstrations and setting == "prompting"
    if config.unlabelled and not synthetic and not shows and way not in CALIBRATIONS_ON_TEXTS:
        reads, sets = "calibration", f"setting.calibration={' or '.join(CALIBRATIONS_ON_TEXTS)}"
        if setting == "prompting":
            reads, sets = "calibration and demonstrations", f"{sets}, or scoring_demonstrations"
        raise UserError(
            f"unlabelled={config.unlabelled}: setting={config.setting.name} reads it for {reads} only; set "
            f"{sets}, or leave it out"
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
