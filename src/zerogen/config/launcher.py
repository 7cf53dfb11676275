"""Hydra's launchers: which of them start jobs here, what each is told, and what to install for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from zerogen.errors import UserError, nearest

if TYPE_CHECKING:
    from hydra.conf import HydraConf

# The option of hydra/launcher: the class it names, and the package that brings it.
LAUNCHERS = {
    "basic": ("BasicLauncher", "hydra-core"),
    "joblib": ("JoblibLauncher", "hydra-joblib-launcher"),
    "submitit_local": ("LocalLauncher", "hydra-submitit-launcher"),
    "submitit_slurm": ("SlurmLauncher", "hydra-submitit-launcher"),
}


def launcher_of(hydra: HydraConf) -> dict[str, Any]:
    """Return what Hydra's configuration says of the launcher, and as `launcher` which it is; empty for `basic`.

    Raises `UserError` for a launcher that cannot start these jobs.
    """
    settings: dict[str, Any] = {str(key): value for key, value in _plain(hydra.launcher).items()}
    target = str(settings.pop("_target_", "")).rpartition(".")[2]
    name = next((name for name, (known, _) in LAUNCHERS.items() if known == target), None)
    if name is None:
        chosen = hydra.runtime.choices["hydra/launcher"]
        raise UserError(f"hydra/launcher={chosen}: cannot start these jobs; allowed: {', '.join(LAUNCHERS)}")
    return {} if name == "basic" else {"launcher": name, **settings}


def _plain(node: Any) -> dict[Any, Any]:
    content = OmegaConf.to_container(node, resolve=True)
    assert isinstance(content, dict)
    return content


def missing_launcher(name: str, options: Sequence[str]) -> str:
    """Say in one line what to install for a launcher that is not there, or that there is none of its name.

    options: those that are there.
    """
    if name in LAUNCHERS:
        return f"hydra/launcher={name}: is not installed; pip install {LAUNCHERS[name][1]}"
    known = list(dict.fromkeys([*LAUNCHERS, *options]))
    return f"hydra/launcher={name}: is unknown; allowed: {', '.join(known)}{nearest(name, known)}"
