"""Label texts of any source by a PLM, as PROMPTING labels gold rows: the model that a run or a command names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config.bundled import load_task, plm_option
from zerogen.config.rules import check_plm
from zerogen.config.schema import CALIBRATIONS_ON_TEXTS, Config, SettingConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import AnswerPrediction, Example, Input, Prediction
from zerogen.errors import UserError

if TYPE_CHECKING:
    import torch


Say = Callable[[str], None]


@dataclass
class PlmModel:
    """A PLM in the place of a trained model: labels texts or pairs by its probabilities, answers questions in words.

    plm: one that tells labels, for anything but questions. say: is told when texts or passages are cut.
    """

    plm: Any
    task: TaskConfig
    setting: SettingConfig
    say: Say

    @property
    def kind(self) -> str:
        return self.task.kind

    @property
    def labels(self) -> Sequence[str]:
        return () if self.kind == "qa" else self.task.labels

    def predict(self, inputs: Sequence[Input]) -> list[Prediction] | list[AnswerPrediction]:
        """Predict the label of each text or (text, context), or the answer to each (question, passage)."""
        from zerogen.metrics.priors import averaged
        from zerogen.plm.prompting import prompt_answers, prompt_sets

        predictions: list[Prediction] | list[AnswerPrediction]
        if self.kind == "qa":
            predictions, cut = prompt_answers(self.plm, self.task, rows_of(inputs))
        else:
            sets, cut = prompt_sets(self.plm, self.task, rows_of(inputs), self.setting)
            predictions = averaged(sets, self.task.labels)
        if cut:
            self.say(f"texts that are too long for {self.plm.name} are cut at their end")
        return predictions


def rows_of(inputs: Sequence[Input]) -> list[Example]:
    """Return inputs of a model as rows without labels."""
    pairs = ((one, None) if isinstance(one, str) else one for one in inputs)
    return [Example(str(number), text, "", context) for number, (text, context) in enumerate(pairs)]


@dataclass(frozen=True)
class PromptingPlm:
    """A PLM and how it is asked. block: how many texts it should be given at a time, at most."""

    config: Config
    say: Say
    block: int = 512

    def identity(self, device: torch.device) -> Any:
        """Return a JSON value of all that shapes its predictions beside the texts."""
        from zerogen.runs.identity import PROMPTED_FORMAT, changes, plm_key

        config = self.config
        plm = [plm_key(config, device), config.plm.scoring]
        return [PROMPTED_FORMAT, changes(config.task), changes(config.setting), plm]

    def open(self, device: torch.device) -> PlmModel:
        """Load the PLM. Raises `UserError` if its weights are missing, and for one that cannot score labels."""
        from zerogen.plm.open import as_labeller, open_plm

        config, say = self.config, cache(self.say)  # of what every block would say, one line is enough
        plm = open_plm(config.plm, device)
        plm.report_to(say)
        if config.task.kind != "qa":
            as_labeller(plm, config.plm, "labelling by a PLM")
        return PlmModel(plm, config.task, config.setting, say)


def prompting_by(plm: str, task: str) -> Config:
    """Return the configuration of PROMPTING with a PLM on a task, for `--plm` and `--task`. Raises `UserError`."""
    config = Config(task=load_task(task), plm=plm_option(plm, "--plm"), setting=SettingConfig("prompting"))
    check_plm(config)
    _check_scoring(config.task)
    return config


def prompting_of(folder: Path) -> Config | None:
    """Return the configuration of a PROMPTING run, None for a folder of anything else.

    Raises `UserError` for a run whose predictions depend on its unlabelled texts: all of them would be asked again.
    """
    from zerogen.runs.store import CONFIG, read_config

    if not (folder / CONFIG).is_file():
        return None
    config = read_config(folder)
    if config.setting.name != "prompting":
        return None
    calibration, shown = config.setting.calibration, config.scoring_demonstrations
    if calibration in CALIBRATIONS_ON_TEXTS or shown:
        key = f"scoring_demonstrations={shown}" if shown else f"setting.calibration={calibration}"
        allowed = "scoring_demonstrations=0" if shown else "setting.calibration=none or prior"
        raise UserError(
            f"{folder}: {key} rests on the run's unlabelled texts, which are not asked again; allowed is {allowed}"
        )
    _check_scoring(config.task)
    return config


def _check_scoring(task: TaskConfig) -> None:
    if not task.scoring:
        raise UserError(
            f"task '{task.name}': scoring is empty; a PLM labels by one for each of {', '.join(task.labels)}"
        )
