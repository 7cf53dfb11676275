"""`Result`: what result.json holds, and the only code that reads and writes that file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from zerogen.config.schema import Config
from zerogen.errors import UserError
from zerogen.metrics import OWN, Reported, scalars
from zerogen.support.files import write_whole

# Left out where they are empty.
_OPTIONAL = ("selected_from", "own_setting", "further_metrics", "rounds", "gold_rows", "labels_alone", "server")


@dataclass(frozen=True)
class Result:
    """What result.json holds, in its order; what an earlier version did not say has a default.

    plm and tam are `none` where the setting does not use one; so are their weights None. metrics: shares of 1 and, for
    labels, `confusion` as {gold label: {predicted label: count}}; empty where there is no gold data. seconds, tokens:
    by stage. requests, rejects: texts asked for, and those rejected by reason. cut: contexts that were too long. blank:
    gold rows without a text, by split. asked_for: what distinguishes runs that share a folder. pool: its folder, None
    where nothing was generated. evaluator: it was trained to judge synthetic rows, and nobody asked for its figures.
    selected_from: rows before a selection or self-training, 0 without them. rounds: of self-training, with their rows
    and metrics. gold_rows: how many rows of `n_train` are gold ones beside synthetic ones. labels_alone: what models
    reach that were trained on gold rows alone, with their rows and metrics. server: what one was asked for, by stage,
    what it calls the PLM, how labels were scored, and what that cost where prices are known. own_setting: what a
    setting of the user's own reads, and whether its rows are synthetic. further_metrics: by name.
    """

    setting: str
    task: str
    plm: str
    tam: str
    weights: dict[str, str | None] = field(default_factory=dict, kw_only=True)  # its place in the file
    seed: int
    n_train: int
    n_eval: int
    evaluated_on: str | None
    metrics: dict[str, Any]
    best_epoch: int | None = None
    heldout_accuracy: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    cut: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    blank: dict[str, int] = field(default_factory=dict)
    answers: str | None = None
    peak_memory_mb: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    asked_for: Any = None
    command: list[str] | None = None
    pool: str | None = None
    folder: Path = Path()
    evaluator: bool = False
    selected_from: int = 0
    own_setting: dict[str, Any] | None = None
    further_metrics: dict[str, Reported] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    gold_rows: int = 0
    labels_alone: list[dict[str, Any]] = field(default_factory=list)
    server: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, said: Any, where: str, folder: Path | None = None) -> Result:
        """Build one from the JSON value of a result.json.

        where: names the file in errors. folder: where it lies now, since outputs may have been moved; else as it says.
        Raises `UserError` where it is not what a run writes.
        """
        _check(said, where)
        values = {one.name: said[one.name] for one in fields(cls) if one.name in said}
        if isinstance(values.get("tokens"), int):  # as earlier versions wrote it
            values["tokens"] = {"generate": values["tokens"]}
        try:
            further = {name: Reported(**one) for name, one in values.pop("further_metrics", {}).items()}
            values["folder"] = folder or Path(values.get("folder", ""))
        except (TypeError, AttributeError) as error:
            raise UserError(f"{where}: is damaged; delete it to run again") from error
        return cls(**values, further_metrics=further)

    @property
    def scalars(self) -> dict[str, float]:
        """The metrics that are numbers, the main one first."""
        return scalars(self.metrics)

    def write(self) -> None:
        """Write result.json into the folder of the run."""
        said = asdict(self) | {"folder": str(self.folder)}
        said = {key: value for key, value in said.items() if value or key not in _OPTIONAL}
        write_whole(json.dumps(said, indent=2, ensure_ascii=False) + "\n", self.folder / "result.json")


@dataclass(frozen=True)
class Failed:
    """A run that failed, and why, in one line."""

    config: Config
    reason: str


def title(config: Config) -> str:
    """Name a run in one line."""
    return f"setting={config.setting.name} task={config.task.name} seed={config.seed}"


def asked_of_server(result: Result) -> Counter[str]:
    """Return what a server was asked for in all stages, by name, see `zerogen.plm.protocol.Usage`."""
    asked: Counter[str] = Counter()
    for usage in result.server.get("usage", {}).values():
        asked.update(usage)
    return asked


_TYPES: dict[str, type | tuple[type, ...]] = {
    "setting": str,
    "task": str,
    "plm": str,
    "tam": str,
    "seed": int,
    "n_train": int,
    "n_eval": int,
    "evaluated_on": (str, type(None)),
    "metrics": dict,
}


def _check(said: Any, where: str) -> None:
    """Raise `UserError` where a JSON value is not what a run writes."""
    if not isinstance(said, dict):
        raise UserError(f"{where}: is damaged; delete it to run again")
    for key, kind in _TYPES.items():
        if key not in said:
            raise UserError(
                f"{where}: does not say '{key}': another version of zerogen wrote it; delete it to run again"
            )
        if not isinstance(said[key], kind):
            raise UserError(f"{where}: {key}={said[key]!r} is not what a run writes; delete it to run again")
    figures = {name: value for name, value in said["metrics"].items() if name in OWN}
    for key, values in (("metrics", figures), ("seconds", said.get("seconds", {}))):
        if not isinstance(values, dict) or not all(type(value) in (int, float) for value in values.values()):
            raise UserError(f"{where}: {key}={said[key]!r} is not what a run writes; delete it to run again")
