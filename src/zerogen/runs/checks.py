"""Check that every name that stands for code, bundled or the user's own, leads to something usable."""

from __future__ import annotations

from collections.abc import Iterable

from zerogen.config.rules import check_ensembling
from zerogen.config.schema import Config, PlmConfig
from zerogen.config.task import counters_of
from zerogen.errors import UserError
from zerogen.generation.demonstrations import Demonstrations
from zerogen.generation.filters import Filter
from zerogen.generation.select import EMBEDDING, needs
from zerogen.generation.selections import ABOUT_LABELS
from zerogen.metrics import further_metrics
from zerogen.plm.confidence import comparable
from zerogen.plm.open import opener
from zerogen.runs.settings import check_setting, setting_of
from zerogen.runs.similarity import check_embeddable
from zerogen.tam.losses import loss_of
from zerogen.tam.table import check_kind


def check_code(configs: Iterable[Config]) -> None:
    """Check each name, and what it stands for against the rest of its configuration. Raises `UserError`.

    This imports the user's own modules, and with them maybe torch.
    """
    for config in configs:
        check_setting(config)
        check_kind(config.tam, config.task.kind)
        if "trainer" in setting_of(config).reads:
            check_ensembling(config.trainer, config.task)
        loss_of(config.trainer.loss)
        Filter(config.filter)
        demonstrations = Demonstrations.of(config.demonstrations)
        if "demonstrations" in setting_of(config).reads:
            demonstrations.require(config.unlabelled)
            if demonstrations.among:
                check_embeddable(f"demonstrations={config.demonstrations}:", config)
        if config.plm.writer != PlmConfig.writer:  # what opens transformers' models loads torch
            opener(config.plm)
        further_metrics(config.metrics, config.task.kind)
        _check_scoring_demonstrations(config)
        _check_select(config)


def _check_scoring_demonstrations(config: Config) -> None:
    """Check that something asks with demonstrations, and that there are texts to draw them from."""
    setting, task = setting_of(config), config.task
    what = f"scoring_demonstrations={config.scoring_demonstrations}"
    if not config.scoring_demonstrations or "scoring_demonstrations" not in setting.reads:
        return
    if task.kind == "qa":
        raise UserError(f"{what}: is about labels; task '{task.name}' is {task.kind}")
    # Other teachers than those of method=best need not be told apart from it.
    if setting.name == "zerogen" and not config.self_training.rounds and "asked" not in needs(config.select):
        raise UserError(
            f"{what}: nothing asks the PLM; set self_training.rounds with the teacher prompting, or select=[asked], or "
            "leave it out"
        )
    if setting.name == "prompting" and not config.unlabelled:
        raise UserError(f"{what}: draws on texts without labels; set unlabelled=FILE, or gold")


def _check_select(config: Config) -> None:
    if config.overgenerate != 1 and (not config.select or config.dataset):
        why = f"dataset={config.dataset} is not generated" if config.dataset else "nothing selects: set select"
        raise UserError(f"overgenerate={config.overgenerate}: {why}, or leave it out")
    if not config.select:
        return
    scores, setting, task = needs(config.select), setting_of(config), config.task
    if "select" not in setting.reads or config.tam.checkpoint:
        raise UserError(f"select={config.select}: setting={setting.name} trains on no generated rows; leave it out")
    if config.dataset and scores & {"confidence", "asked"}:
        raise UserError(f"select={config.select}: needs the PLM's confidence, which rows of a dataset do not have")
    if task.kind == "qa" and (about := [name for name in config.select if name in ABOUT_LABELS]):
        raise UserError(f"select=[{about[0]}]: is about labels; task '{task.name}' is {task.kind}")
    if "asked" in scores and not task.scoring:
        raise UserError(f"select={config.select}: asks by scoring prompts; task '{task.name}' has none")
    if "confidence" in scores and not comparable(task):
        raise UserError(f"select={config.select}: needs the PLM's confidence; task '{task.name}' has no scoring prompt")
    if "margin" in scores and not config.dataset and not counters_of(task):
        raise UserError(
            f"select={config.select}: needs margins, which only task.debias.decay above 0 or a task.contrast.guidance "
            "other than 1 gives"
        )
    if EMBEDDING in scores:
        check_embeddable(f"select={config.select}:", config)
