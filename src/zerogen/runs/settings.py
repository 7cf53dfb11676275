"""`Setting`: a way to get from a configuration to metrics, and all that others need to know of it; their table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zerogen.config.rules import check_name
from zerogen.config.schema import CALIBRATIONS_ON_TEXTS, Config
from zerogen.config.task import asks_plm
from zerogen.errors import UserError, unknown
from zerogen.generation.select import needs
from zerogen.support.doors import is_own, load

if TYPE_CHECKING:
    from zerogen.estimate import Probe
    from zerogen.runs.result import Result
    from zerogen.runs.run import Outcome, Run

# In the order of a table of results. None of these modules loads torch when it is imported.
SETTINGS = {
    "supervised": "zerogen.runs.supervised.SUPERVISED",
    "prompting": "zerogen.runs.prompting.PROMPTING",
    "similarity": "zerogen.runs.similarity.SIMILARITY",
    "zerogen": "zerogen.runs.zerogen.ZEROGEN",
}
# The keys that not every setting reads, and `gold`: the gold training rows.
PARTS = frozenset({"gold", "plm", "tam", "trainer", "train", "decoding", "filter", "n", "log_every", "limit", "seed"})
PARTS |= {"demonstrations", "scoring_demonstrations", "select", "dataset", "dataset_labels", "contexts", "answers"}
UNLABELLED = frozenset({"unlabelled", "unlabelled_column", "unlabelled_limit"})
PARTS |= UNLABELLED | {"descriptions", "further_scoring", "calibration", "self_training", "overgenerate", "gold_rows"}


def no_estimate(probe: Probe) -> None:
    """Say that the setting gives no estimate of what it takes."""
    probe.say(f"setting {probe.run.setting.name}: gives no estimate of what it takes")
    probe.expected.unknown.append("setting")


def check_nothing(config: Config) -> None:
    """Accept every configuration."""


@dataclass(frozen=True)
class Setting:
    """One way to get from a configuration to metrics.

    name: short and safe in file names; it stands in folder names and tables.
    reads: which of `PARTS` it reads. Run folders are named after them, and tables compare runs by them.
    estimate: adds to `probe.expected` what a run will take.
    synthetic: whether its training rows are synthetic ones; then they are measured, and no gold data is needed.
    check: raises `UserError` for a configuration that it cannot serve.
    """

    name: str
    run: Callable[[Run], Outcome]
    reads: frozenset[str]
    estimate: Callable[[Probe], None] = no_estimate
    synthetic: bool = False
    check: Callable[[Config], None] = check_nothing

    @property
    def grows(self) -> bool:
        """Whether it trains at several sizes, which are a trend."""
        return "log_every" in self.reads

    @property
    def writes(self) -> bool:
        """Whether it samples texts from the PLM, which a pool keeps."""
        return {"plm", "decoding"} <= self.reads

    def starts_afresh(self, config: Config) -> bool:
        """Tell whether neither existing rows nor a trained TAM replace its first step."""
        return not ("dataset" in self.reads and config.dataset) and not ("tam" in self.reads and config.tam.checkpoint)

    def models(self, config: Config) -> tuple[str, str]:
        """Return the names of the PLM and the TAM that it uses, `none` for one that it does not."""
        uses_plm = "plm" in self.reads and self.starts_afresh(config) and self._asks_plm(config)
        uses_tam = "tam" in self.reads and (config.train or bool(config.tam.checkpoint))
        return (config.plm.name if uses_plm else "none"), (config.tam.name if uses_tam else "none")

    def _asks_plm(self, config: Config) -> bool:
        """Tell whether rows are written, checked, scored or labelled by a PLM, or rules alone make them."""
        if "decoding" not in self.reads or is_own(self.name):
            return True
        teaches = config.self_training.rounds and "prompting" in config.self_training.teachers
        scores = needs(config.select) & {"confidence", "asked"}
        return bool(asks_plm(config.task, config.filter) or teaches or scores)

    def draws(self, config: Config) -> bool:
        """Tell whether another seed may give other figures."""
        return "seed" in self.reads and not config.tam.checkpoint

    def measured(self, config: Config) -> bool:
        """Tell whether a run has synthetic rows to measure."""
        return self.synthetic and not config.tam.checkpoint

    def asked_for(self, config: Config) -> dict[str, Any]:
        """Return what distinguishes runs that share a folder."""
        return {
            "n": config.n if "n" in self.reads and self.starts_afresh(config) else None,
            "log_every": config.log_every if self.grows else None,
            "train": config.train,
        }

    def record(self) -> dict[str, Any] | None:
        """Return what result.json must say of a setting of the user's own, for readers that lack its module."""
        return None if self.name in SETTINGS else {"reads": sorted(self.reads), "synthetic": self.synthetic}


def setting_of(config: Config) -> Setting:
    """Return the setting that a configuration names. Raises `UserError` for one that cannot be had."""
    name = config.setting.name
    setting: Setting = load("setting.name", name, SETTINGS)
    if is_own(name):
        _check_own(f"setting.name={name}", setting)
    return setting


def recorded_setting(result: Result) -> Setting | None:
    """Return the setting of a result, without importing a user's own; None for one that is unknown."""
    name, record = result.setting, result.own_setting
    if name in SETTINGS:
        setting: Setting = load("setting", name, SETTINGS)
        return setting
    if not isinstance(record, dict) or not isinstance(record.get("reads"), list):
        return None
    return Setting(name, _cannot_run, frozenset(map(str, record["reads"])), synthetic=bool(record.get("synthetic")))


def check_setting(config: Config) -> None:
    """Check that the setting of a configuration can be had and has something to do. Raises `UserError`."""
    setting = setting_of(config)
    name = setting.name
    if not config.task.gold and (not setting.synthetic or config.tam.checkpoint):
        raise UserError(
            f"setting={name}: task '{config.task.name}' has no gold data (task.gold); "
            "without any, setting=zerogen still generates and trains"
        )
    if config.dataset and "dataset" not in setting.reads:
        raise UserError(f"dataset={config.dataset}: setting={name} does not read it; allowed is setting=zerogen")
    if not config.train and "train" not in setting.reads:
        raise UserError(f"train=false: setting={name} never trains; leave it out")
    generates = setting.writes and setting.starts_afresh(config)
    if not config.train and not generates and setting.models(config) == ("none", "none"):
        raise UserError("train=false: nothing would be done; set tam.checkpoint=FOLDER to evaluate one")
    for part, key, value in (
        ("unlabelled", "unlabelled", config.unlabelled),
        ("self_training", "self_training.rounds", config.self_training.rounds),
        ("gold_rows", "gold_rows", config.gold_rows),
        ("scoring_demonstrations", "scoring_demonstrations", config.scoring_demonstrations),
        ("calibration", "setting.calibration", config.setting.calibration in CALIBRATIONS_ON_TEXTS),
    ):
        if value and part not in setting.reads:
            shown = config.setting.calibration if part == "calibration" else value
            raise UserError(f"{key}={shown}: setting={name} does not read it; leave it out")
    setting.check(config)


def _check_own(what: str, setting: Any) -> None:
    if not isinstance(setting, Setting):
        raise UserError(f"{what}: is a {type(setting).__name__}; allowed is a Setting (zerogen.runs.settings)")
    check_name(f"{what}: name", setting.name)
    if setting.name in SETTINGS:
        raise UserError(f"{what}: name={setting.name}: allowed is another name than {', '.join(SETTINGS)}")
    for part in sorted(setting.reads - PARTS):
        raise unknown(f"{what}: reads", part, sorted(PARTS))


def _cannot_run(run: Run) -> Outcome:
    raise NotImplementedError("a setting that was read from a result.json has no code")
