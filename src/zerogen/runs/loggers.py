"""Record the course of a run: always in CSV files, on request in TensorBoard or Weights & Biases."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zerogen.config.keys import keys_of
from zerogen.config.schema import LOGGER_MODES, Config
from zerogen.data.records import Example
from zerogen.errors import UserError, unknown
from zerogen.metrics import scalars
from zerogen.runs.settings import setting_of
from zerogen.support.process import Stopped
from zerogen.support.progress import Progress

if TYPE_CHECKING:
    from zerogen.runs.result import Result

PROJECT = "ZeroGen"
_SHOWN = 50  # texts in a sample table


class Log:
    """Records nothing: the default of a run that no command started."""

    uploads = False  # whether it takes the files of the run folder, pages included

    def training(self, name: str, going_on: bool) -> list[Any]:
        """Return Lightning's loggers for a training; its name is the number of its rows, or that of a round.

        going_on: it was stopped and goes on; then what it recorded before is kept beside.
        """
        return []

    def point(self, n: int, metrics: dict[str, Any], rows: Sequence[Example]) -> None:
        """Record the metrics of a TAM that was trained on n rows; rows are those, empty where they are known before."""

    def finish(self, result: Result, measures: dict[str, Any] | None) -> None:
        """Record what a finished run has come to, and what was measured of its rows."""

    def close(self, code: int) -> None:
        """End the record. code: 0, or what the process will exit with."""


class Csv(Log):
    """Records the losses and learning rates of each training as `training/<name>/metrics.csv` of a run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def training(self, name: str, going_on: bool) -> list[Any]:
        from pytorch_lightning.loggers import CSVLogger

        place = self.folder / "training"
        parts = sorted(place.glob(f"{name}-[0-9]*")) + [path for path in [place / name] if path.exists()]
        if not going_on:
            for part in parts:
                shutil.rmtree(part)
            parts = []
        return [CSVLogger(self.folder, "training", f"{name}-{len(parts) + 1}" if parts else name)]


class TensorBoard(Csv):
    """Also writes TensorBoard's events, into `tensorboard/` of the run folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._trend = self._logger("trend", going_on=False)

    def training(self, name: str, going_on: bool) -> list[Any]:
        return [*super().training(name, going_on), self._logger(f"training-{name}", going_on)]

    def point(self, n: int, metrics: dict[str, Any], rows: Sequence[Example]) -> None:
        self._trend.log_metrics({f"trend/{name}": value for name, value in scalars(metrics).items()}, n)

    def close(self, code: int) -> None:
        self._trend.finalize("success")

    def _logger(self, version: str, going_on: bool) -> Any:
        from pytorch_lightning.loggers import TensorBoardLogger

        if not going_on:
            shutil.rmtree(self.folder / "tensorboard" / version, ignore_errors=True)
        return TensorBoardLogger(self.folder, "tensorboard", version)


class Wandb(Csv):
    """Also records a run of Weights & Biases: trend, losses, sample texts, measures, and the files as an artifact."""

    uploads = True

    def __init__(self, folder: Path, config: Config, models: tuple[str, str], mode: str, progress: Progress) -> None:
        super().__init__(folder)
        import wandb

        place, setting = Path(config.output_dir), setting_of(config).name
        place.mkdir(parents=True, exist_ok=True)
        self._progress = progress
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=place,
            name=folder.name,
            group=config.task.name,
            job_type=setting,
            tags=[setting, *(name for name in models if name != "none")],
            config=keys_of(config),
            mode="online" if mode == "online" else "offline",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        self._run.define_metric("n", hidden=True)
        if mode == "online":
            progress.say(f"recorded at {self._run.url}")

    def training(self, name: str, going_on: bool) -> list[Any]:
        from pytorch_lightning.loggers import WandbLogger

        logger = WandbLogger(experiment=self._run, prefix=f"training-{name}")
        logger.LOGGER_JOIN_CHAR = "/"  # what a section of the page is named by
        return [*super().training(name, going_on), logger]

    def point(self, n: int, metrics: dict[str, Any], rows: Sequence[Example]) -> None:
        import wandb

        logged: dict[str, Any] = {"n": n}
        for name, value in scalars(metrics).items():
            self._run.define_metric(f"trend/{name}", step_metric="n")
            logged[f"trend/{name}"] = value
        if rows:
            some = rows[:: max(1, len(rows) // _SHOWN)][:_SHOWN]
            logged["samples"] = wandb.Table(
                columns=["label or answer", "text", "context", "logprob", "uid"],
                data=[
                    [row.answers[0].text if row.answers else row.label, row.text, row.context, row.logprob, row.uid]
                    for row in some
                ],
            )
        self._run.log(logged)

    def finish(self, result: Result, measures: dict[str, Any] | None) -> None:
        import wandb

        for name, value in result.scalars.items():
            self._run.summary[name] = value
        self._run.summary.update({"n_train": result.n_train, "n_eval": result.n_eval})
        if measures is not None:
            parts = ("diversity", "match", "correctness", "confidence")
            self._run.summary.update({name: measures[name] for name in parts})
        artifact = wandb.Artifact(artifact_name(self.folder.name), "run")
        for path in sorted(self.folder.rglob("*")):
            relative = path.relative_to(self.folder)
            if path.is_file() and relative.parts[0] not in ("training", "tensorboard") and path.name[0] != ".":
                # Immutable: taken from here when it is uploaded, not from a copy.
                artifact.add_file(str(path), str(relative), policy="immutable")
        self._run.log_artifact(artifact)

    def close(self, code: int) -> None:
        place = Path(self._run.dir).parent
        offline = self._run.offline
        self._run.finish(exit_code=code)
        if offline:
            self._progress.say(f"recorded offline; to upload it: wandb sync {place}")


def artifact_name(name: str) -> str:
    """Return a name that Weights & Biases takes: ASCII letters, digits, `-`, `_` and `.`, at most 128 of them."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[-128:]


def mode_of(config: Config) -> str:
    """Return the mode of Weights & Biases: that of the configuration, else of WANDB_MODE, else online."""
    mode = config.logger.mode or os.environ.get("WANDB_MODE", "online")
    mode = {"disabled": "off", "dryrun": "offline"}.get(mode, mode)
    if mode not in LOGGER_MODES:
        raise unknown("WANDB_MODE", mode, LOGGER_MODES)
    return mode


def require_logger(config: Config) -> None:
    """Find out before any work that a logger cannot record. Raises `UserError`."""
    if config.logger.name == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError("logger=tensorboard: needs the package tensorboard; pip install tensorboard")
    if config.logger.name != "wandb" or mode_of(config) != "online":
        return
    import wandb

    host = urlsplit(wandb.setup().settings.base_url).hostname
    proxy = any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"))
    if not proxy:
        try:
            socket.getaddrinfo(host, 443)
        except OSError as error:
            raise UserError(
                f"logger=wandb: {host} cannot be reached; allowed without a network is logger.mode=offline"
            ) from error
    try:
        known = wandb.login(prompt=False)
    except wandb.errors.AuthenticationError as error:
        raise UserError(f"logger=wandb: {str(error).splitlines()[0]}") from error
    if not known:
        raise UserError(
            "logger=wandb: there is no key; set WANDB_API_KEY, call `wandb login`, or record with logger.mode=offline"
        )


@contextmanager
def recorded(config: Config, folder: Path, models: tuple[str, str], progress: Progress) -> Iterator[Log]:
    """Open the record of a run and close it however the block ends.

    models: names of PLM and TAM, `none` for one that is not used. Raises `UserError` where nothing can be recorded.
    """
    require_logger(config)
    log: Log
    if config.logger.name == "wandb" and (mode := mode_of(config)) != "off":
        log = Wandb(folder, config, models, mode, progress)
    else:
        log = (TensorBoard if config.logger.name == "tensorboard" else Csv)(folder)
    code = 1
    try:
        yield log
        code = 0
    except UserError:
        code = 2
        raise
    except Stopped as stopped:
        code = 128 + stopped.number
        raise
    finally:
        log.close(code)
