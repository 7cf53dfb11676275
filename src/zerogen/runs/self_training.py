"""Self-training: teachers label unlabelled texts; a fresh TAM learns from those that they are surest of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from zerogen.config.schema import ENOUGH_LABELLED, Config
from zerogen.config.task import priors_of
from zerogen.data.records import Example, Prediction
from zerogen.errors import UserError, unknown
from zerogen.runs.answer_training import ANSWERERS, train_on_answers
from zerogen.runs.calibration import calibrate_tam
from zerogen.runs.prompted import prompted
from zerogen.runs.run import Outcome, Run, describe
from zerogen.runs.similarity import check_similarity, open_embedder, similar

if TYPE_CHECKING:
    from zerogen.metrics.priors import Scores
    from zerogen.plm.protocol import Writer

TEACHERS = ("prompting", "similarity", "tam")
PROMPTING = "self_training.teachers=[prompting]"


def self_train(run: Run, rows: Sequence[Example], outcome: Outcome) -> None:
    """Train a fresh TAM in each round on what teachers make of unlabelled texts, and on `rows`; keep the last one.

    rows: those that the TAM of `outcome`, the first teacher of its kind, was trained on. The figures of each round are
    added to `outcome`.
    """
    from zerogen.metrics.priors import log_scores
    from zerogen.metrics.pseudo_labels import agreement, combined, surest

    if run.config.task.kind == "qa":
        train_on_answers(run, rows, outcome, lambda answered: trains_on_synthetic(run.config, answered))
        return
    task, settings = run.config.task, run.config.self_training
    texts, priors = run.unlabelled, priors_of(task)
    teachers = {}
    if "prompting" in settings.teachers:
        sets, outcome.tokens["prompt"] = ask_teacher(run, run.open_plm)
        for number, predictions in enumerate(sets, 1):  # each set of prompts is a teacher of its own
            name = "prompting" if number == 1 else f"prompting {number}"
            teachers[name] = log_scores(predictions, task.labels)
    if "similarity" in settings.teachers:
        embedder = open_embedder(run)
        with run.stage("similarity"):
            teachers["similarity"] = log_scores(similar(embedder, run, texts), task.labels)
    if "tam" in settings.teachers:
        teachers["tam"] = _tam_scores(run, outcome)
    for number in range(1, settings.rounds + 1):
        scores = combined(list(teachers.values()), priors)
        chosen = surest(scores, priors, settings.share)
        if not chosen:
            raise UserError(f"self_training.share={settings.share}: of {len(texts):,} texts that is not one of a label")
        labelled = [replace(texts[place], label=task.labels[label]) for place, label in chosen]
        outcome.pseudo_labelled = labelled
        with_synthetic = trains_on_synthetic(run.config, len(labelled))
        training = [*labelled, *(rows if with_synthetic else ())]
        run.progress.say(
            f"round {number}: {len(labelled):,} of {len(texts):,} unlabelled texts, labelled by {', '.join(teachers)}"
            + (f", and {len(rows):,} synthetic rows" if with_synthetic else "")
        )
        run.train(training, outcome, f"round-{number}", calibrate_tam)
        learned = _tam_scores(run, outcome)
        agreements = {name: agreement(learned, its, priors) for name, its in teachers.items()}
        outcome.rounds.append(
            {"round": number, "unlabelled": len(labelled), "synthetic": len(training) - len(labelled)}
            | {"metrics": outcome.metrics, "agreement": agreements}
        )
        run.progress.say(describe(outcome))
        said = ", ".join(f"{name} on {share:.1%}" for name, share in agreements.items())
        run.progress.say(f"it agrees with {said} of the unlabelled texts (all may be wrong about the same ones)")
        if "tam" in settings.teachers:
            teachers["tam"] = learned


def _tam_scores(run: Run, outcome: Outcome) -> Scores:
    """Return the log-probabilities [N, L] of labels of the unlabelled texts by the outcome's TAM."""
    from zerogen.metrics.priors import log_scores

    assert outcome.tam is not None
    with run.stage("teach"):
        predictions = outcome.tam.predict(outcome.tam.inputs_of(run.unlabelled), progress=run.progress)
    return log_scores(predictions, run.config.task.labels)


def ask_teacher(run: Run, plm: Callable[[], Writer]) -> tuple[list[list[Prediction]], int]:
    """Return what PROMPTING says of the labels of the unlabelled texts, as `prompted` has it."""
    return prompted(run, run.unlabelled, plm, "prompt", PROMPTING)


def trains_on_synthetic(config: Config, labelled: int) -> bool:
    """Tell whether a round trains on the synthetic rows, too, beside a number of labelled texts."""
    wanted = config.self_training.synthetic
    return labelled < ENOUGH_LABELLED if wanted == "auto" else bool(wanted)


def teaches(config: Config, teacher: str) -> bool:
    """Tell whether a run trains itself by a teacher."""
    return bool(config.self_training.rounds) and config.train and teacher in config.self_training.teachers


def check_self_training(config: Config) -> None:
    """Check that self-training has all that it needs. Raises `UserError`."""
    settings, task = config.self_training, config.task
    if not settings.rounds:
        return
    what = f"self_training.rounds={settings.rounds}"
    if not config.train:
        raise UserError(f"{what}: trains; train=false does not")
    if not config.unlabelled:
        otherwise = " (method=part/asked needs none)" if config.method == "best" else ""
        raise UserError(f"{what}: needs texts without labels; set unlabelled=FILE, or gold{otherwise}")
    for teacher in settings.teachers:
        if teacher not in TEACHERS:
            raise unknown("self_training.teachers", teacher, TEACHERS)
    if not settings.teachers or len(set(settings.teachers)) != len(settings.teachers):
        raise UserError(f"self_training.teachers={settings.teachers}: allowed are one or more of {', '.join(TEACHERS)}")
    if settings.rounds > 1 and "tam" not in settings.teachers:
        raise UserError(f"{what}: without the teacher tam each round would be the same; allowed is 1")
    if "prompting" in settings.teachers and not task.scoring:
        raise UserError(f"self_training.teachers=[prompting]: task '{task.name}' has no scoring prompts")
    if task.kind == "qa" and set(settings.teachers) - set(ANSWERERS):
        raise UserError(
            f"self_training.teachers=[{','.join(settings.teachers)}]: similarity is about labels; task '{task.name}' "
            f"is qa; allowed are {' and '.join(ANSWERERS)}"
        )
    if "prompting" in settings.teachers and config.dataset:
        raise UserError(
            f"self_training.teachers=[prompting]: no PLM is used with dataset={config.dataset}; allowed are similarity "
            "and tam"
        )
    if "similarity" in settings.teachers:
        others = ", ".join(teacher for teacher in TEACHERS if teacher != "similarity")
        check_similarity(f"self_training.teachers=[{','.join(settings.teachers)}]: similarity", config, others)
