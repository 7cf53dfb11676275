"""How Hydra reads files here: what a task says is text, and a stranger's file cannot make Hydra run code."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import OmegaConf

from zerogen.errors import UserError
from zerogen.task import conf_dir
from zerogen.yaml_files import literal, read_yaml, texts_of

TRUST = "--trust-config"
_RESOLVER = re.compile(r"\$\{[^}]*[:$]")  # ${oc.env:KEY}, not ${seed}; also one within another


def read_configuration_by(trusted: bool) -> None:
    """Let Hydra read its files through `ConfigFiles`; trusted: without its restrictions."""
    Plugins.instance()  # registers Hydra's own source, and would refuse to beside another
    # Hydra has no other way to replace the source of a scheme.
    SourcesRegistry.instance().types["file"] = TrustedFiles if trusted else ConfigFiles


class TrustedFiles(FileConfigSource):
    """Reads files as `read_yaml` does; of what ends up in `task`, no text is interpolated."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(os.path.realpath(Path(self.path, self._normalize_file_name(config_path))))
        if not path.exists():
            raise ConfigLoadError(f"Config not found : {path}")
        found = read_yaml(path)
        header = self._get_header_dict(path.read_text(encoding="utf-8-sig")[:512])
        package = str(header.get("package") or "")
        if found is None:
            found = {}
        if not isinstance(found, dict):
            raise UserError(f"{path}: allowed are keys and values, found {type(found).__name__}")
        self.check(path, config_path, package, found)
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=OmegaConf.create(_literal_task(config_path, package, found)),
            header=header,
        )

    def check(self, path: Path, config_path: str, package: str, found: dict[Any, Any]) -> None:
        """Allow everything."""


class ConfigFiles(TrustedFiles):
    """Refuses files of the user's folders that set keys of Hydra's own, which makes objects of what some of them name,
    and those that ask for something outside of the configuration, such as a variable of the environment.
    """

    def check(self, path: Path, config_path: str, package: str, found: dict[Any, Any]) -> None:
        """Raise `UserError` for a file that reaches Hydra's configuration, or beyond, by whatever way."""
        if self.provider == "main" and Path(self.path) == conf_dir():
            return
        keys = [*_hydra_keys(found), *_hydra_defaults(found.get("defaults"))]
        if "hydra" in package.split(".") or config_path.startswith("hydra/"):
            keys.append(package or config_path)
        if keys:
            raise UserError(
                f"{path}: sets '{keys[0]}', and what Hydra is told may run any code; if you trust every file of that "
                f"folder, add {TRUST}"
            )
        texts = [text for _, text in texts_of({key: value for key, value in found.items() if key != "task"})]
        if not _of_task(config_path, package) and (asking := next(filter(_RESOLVER.search, texts), None)):
            raise UserError(
                f"{path}: '{asking}' asks for something outside of the configuration, which would be written into "
                f"results; if you trust every file of that folder, add {TRUST}"
            )


def _hydra_keys(found: dict[Any, Any]) -> list[str]:
    """Return the keys of Hydra's own that a file sets, but for the values that a sweep goes over."""
    hydra = found.get("hydra", {})
    if not isinstance(hydra, dict):
        return ["hydra"]
    sweeper = hydra.get("sweeper", {})
    params = sweeper.get("params", {}) if isinstance(sweeper, dict) and set(sweeper) <= {"params"} else None
    if not isinstance(params, dict):
        return ["hydra.sweeper"]
    return [f"hydra.{key}" for key in hydra if key != "sweeper"] + [str(key) for key in params if "hydra" in str(key)]


def _hydra_defaults(defaults: Any) -> list[str]:
    """Return the entries of a defaults list that name Hydra's groups, or put something there."""
    entries = defaults if isinstance(defaults, list) else []
    named = [str(key) for entry in entries for key in (entry if isinstance(entry, dict) else [entry])]
    found = []
    for name in named:
        group, _, package = name.partition("@")
        first = group.rpartition(" ")[2].lstrip("/").partition("/")[0]  # after "override" and "optional"
        if first == "hydra" or "hydra" in package.split(".") or "${" in name:
            found.append(name)
    return found


def _of_task(config_path: str, package: str) -> bool:
    """Tell whether all keys of a file are the task's."""
    return package.split(".")[0] == "task" or (config_path.startswith("task/") and package in ("", "_group_"))


def _literal_task(config_path: str, package: str, found: dict[Any, Any]) -> dict[Any, Any]:
    """Return a file's content with everything literal that belongs to the task: its texts may hold a `${`."""
    whole = _of_task(config_path, package)
    return {
        key: literal(value) if key == "task" or (whole and key != "defaults") else value for key, value in found.items()
    }
