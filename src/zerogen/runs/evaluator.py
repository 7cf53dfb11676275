"""The evaluator: a TAM trained on gold rows, against which the labels of synthetic rows are checked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zerogen.config.bundled import bundled_option, require_weights
from zerogen.config.schema import SelfTrainingConfig, SettingConfig, TamConfig, TrainerConfig
from zerogen.runs.run import Run
from zerogen.support.files import exclusive, file_name

if TYPE_CHECKING:
    from zerogen.runs.result import Result
    from zerogen.tam.tam import Tam

_EVALUATOR_SEED = 42  # the default seed of a run, so that the user's own SUPERVISED run is reused


def evaluator_run(run: Run) -> Run:
    """Return the SUPERVISED run whose TAM checks the rows of `run`: it uses all gold training rows and a fixed seed.

    Raises `UserError` for an evaluator that is neither a bundled option, a Hub id nor a folder.
    """
    config, name = run.config, str(run.config.correctness.evaluator)
    tam = bundled_option("tam", name, TamConfig)
    if tam is None:
        require_weights("correctness.evaluator", "tam", name, "null (off)")
        tam = TamConfig(name=file_name(name.rstrip("/").rpartition("/")[2]), model=name)
    trainer = bundled_option("trainer", name, TrainerConfig) or TrainerConfig()
    return Run(
        replace(
            config,
            setting=SettingConfig(name="supervised"),
            tam=tam,
            trainer=trainer,
            seed=_EVALUATOR_SEED,
            seeds=None,
            limit=None,
            eval_limit=None,
            dataset=None,
            log_every=None,
            metrics=[],
            select=[],
            overgenerate=1.0,
            scoring_demonstrations=0,
            unlabelled=None,
            unlabelled_column=None,
            unlabelled_limit=None,
            self_training=SelfTrainingConfig(),
            gold_rows=None,
            gold_weight=1.0,
            train=True,
            command=[],  # the user's command started another run
        ),
        run.devices[:1],
        run.progress,
        evaluator=True,
    )


def require_measures(run: Run) -> None:
    """Raise `UserError`, before hours of generation, if rows cannot be measured as the configuration says."""
    from zerogen.metrics.diversity import tokenizer
    from zerogen.runs.supervised import gold_training_rows

    tokenizer(run.config.diversity.tokenizer)
    if run.config.correctness.evaluator:
        other = evaluator_run(run)
        other.require_tam()
        gold_training_rows(other)


def evaluator(run: Run) -> tuple[Tam, Result]:
    """Return the evaluator and the result of its run; train it if it is not finished yet, else reuse it."""
    from zerogen.runs.loggers import Csv
    from zerogen.runs.store import finished, write_run
    from zerogen.runs.supervised import supervised
    from zerogen.tam.tam import load_tam

    other = evaluator_run(run)
    folder = other.folder()
    with exclusive(folder, run.progress):  # if several runs need it at once, only one trains it
        result = finished(other)
        if result is None:
            other.log = Csv(folder)
            run.progress.say(f"training the evaluator, {other.config.tam.name}, on gold rows")
            result = write_run(other, supervised(other))
        return load_tam(folder / "tam", other.device, other.config.tam.dtype), result
