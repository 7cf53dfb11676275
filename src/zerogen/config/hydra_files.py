"""How Hydra reads files: task texts stay literal, and untrusted files cannot set Hydra's own keys."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from zerogen.config.bundled import conf_dir
from zerogen.config.yaml_files import literal, read_yaml, texts_of
from zerogen.errors import UserError

TRUST = "--trust-config"
_RESOLVER = re.compile(r"\$\{[^}]*[:$]")  # matches ${oc.env:KEY} and nested interpolations, not ${seed}


def read_configuration_by(trusted: bool) -> None:
    """Make Hydra read its files through `ConfigFiles` or, if `trusted`, the unrestricted `TrustedFiles`."""
    Plugins.instance()  # registers Hydra's own source, and would refuse to after ours
    # Hydra offers no other way to replace the source of a scheme.
    SourcesRegistry.instance().types["file"] = TrustedFiles if trusted else ConfigFiles


class _Composing(BasicLauncher):
    """Composes the jobs of a sweep in this process, whatever launcher is to run them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()


def compose_before_launching() -> None:
    """Make Hydra compose all jobs of a sweep here, with any launcher: it would compose each where it runs."""
    plugins = Plugins.instance()
    for launcher in plugins.discover(Launcher):
        plugins.class_name_to_class[f"{launcher.__module__}.{launcher.__name__}"] = _Composing


class TrustedFiles(FileConfigSource):
    """A source that reads files with `read_yaml` and keeps the texts of `task` literal, without interpolation."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(os.path.realpath(Path(self.path, self._normalize_file_name(config_path))))
        if not path.exists():
            raise ConfigLoadError(f"Config not found : {path}")
        content = read_yaml(path)
        header = self._get_header_dict(path.read_text(encoding="utf-8-sig")[:512])
        package = str(header.get("package") or "")
        if content is None:
            content = {}
        if not isinstance(content, dict):
            raise UserError(f"{path}: allowed are keys and values, found {type(content).__name__}")
        self.check(path, config_path, package, content)
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=OmegaConf.create(_literal_task(config_path, package, content)),
            header=header,
        )

    def check(self, path: Path, config_path: str, package: str, content: dict[Any, Any]) -> None:
        """Raise `UserError` for a file that sets a launcher where Hydra ignores it; allow everything else."""
        if "/" not in config_path or config_path.startswith("hydra/"):
            return
        inner = content.get("hydra", {})
        names = [name for name in _hydra_defaults(content.get("defaults")) if "hydra/launcher" in name]
        if names or (isinstance(inner, dict) and "launcher" in inner):
            raise UserError(
                f"{path}: sets '{names[0] if names else 'hydra.launcher'}', which Hydra ignores in such a file "
                "(facebookresearch/hydra#2946); write hydra/launcher=NAME hydra.launcher.KEY=VALUE on the command line"
            )


class ConfigFiles(TrustedFiles):
    """A source that refuses unsafe files in the user's folders.

    Unsafe files set Hydra's own keys, some of which name objects that Hydra instantiates, or ask for something outside
    of the configuration, such as an environment variable.
    """

    def check(self, path: Path, config_path: str, package: str, content: dict[Any, Any]) -> None:
        """Raise `UserError` for a file that reaches Hydra's own configuration, or beyond, in any way."""
        if self.provider == "main" and Path(self.path) == conf_dir():
            return
        if config_path.startswith("experiment/"):  # trust would not help
            super().check(path, config_path, package, content)
        keys = [*_hydra_keys(content), *_hydra_defaults(content.get("defaults"))]
        if "hydra" in package.split(".") or config_path.startswith("hydra/"):
            keys.append(package or config_path)
        if keys:
            raise UserError(
                f"{path}: sets '{keys[0]}', and what Hydra is told may run any code; if you trust every file of that "
                f"folder, add {TRUST}"
            )
        texts = [text for _, text in texts_of({key: value for key, value in content.items() if key != "task"})]
        if not _of_task(config_path, package) and (text := next(filter(_RESOLVER.search, texts), None)):
            raise UserError(
                f"{path}: '{text}' asks for something outside of the configuration, which would be written into "
                f"results; if you trust every file of that folder, add {TRUST}"
            )


def _hydra_keys(content: dict[Any, Any]) -> list[str]:
    """Return Hydra's own keys that a file sets, except the values of a sweep (hydra.sweeper.params)."""
    hydra = content.get("hydra", {})
    if not isinstance(hydra, dict):
        return ["hydra"]
    sweeper = hydra.get("sweeper", {})
    params = sweeper.get("params", {}) if isinstance(sweeper, dict) and set(sweeper) <= {"params"} else None
    if not isinstance(params, dict):
        return ["hydra.sweeper"]
    return [f"hydra.{key}" for key in hydra if key != "sweeper"] + [str(key) for key in params if "hydra" in str(key)]


def _hydra_defaults(defaults: Any) -> list[str]:
    """Return the entries of a defaults list that name one of Hydra's groups or packages, or interpolate a name."""
    entries = defaults if isinstance(defaults, list) else []
    names = [str(key) for entry in entries for key in (entry if isinstance(entry, dict) else [entry])]
    matches = []
    for name in names:
        group, _, package = name.partition("@")
        first = group.rpartition(" ")[2].lstrip("/").partition("/")[0]  # after "override" and "optional"
        if first == "hydra" or "hydra" in package.split(".") or "${" in name:
            matches.append(name)
    return matches


def _of_task(config_path: str, package: str) -> bool:
    """Return whether all keys of a file belong to the task."""
    return package.split(".")[0] == "task" or (config_path.startswith("task/") and package in ("", "_group_"))


def _literal_task(config_path: str, package: str, content: dict[Any, Any]) -> dict[Any, Any]:
    """Return a file's content with all texts of the task escaped by `literal`: they may hold a `${`."""
    whole = _of_task(config_path, package)
    return {
        key: literal(value) if key == "task" or (whole and key != "defaults") else value
        for key, value in content.items()
    }
