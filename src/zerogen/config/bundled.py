"""Find the bundled options and task files, and read them without Hydra."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from zerogen.config.task import expand_paths, normalise_task
from zerogen.config.task_schema import TaskConfig
from zerogen.config.yaml_files import read_yaml, typed
from zerogen.errors import unknown
from zerogen.support.files import expanded

T = TypeVar("T")


def conf_dir() -> Path:
    """Return the folder of the configuration groups: inside the installed package, else in the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


def bundled_option(group: str, name: str, schema: type[T]) -> T | None:
    """Read a bundled option of a configuration group; return None if there is none of that name."""
    path = conf_dir() / group / f"{name}.yaml"
    return typed(read_yaml(path), schema, str(path)) if path.is_file() else None


def load_task(name: str | Path) -> TaskConfig:
    """Load a bundled task by its name, or a task from a YAML file, and check it.

    Raises `UserError` for an unknown name, a malformed file, or an invalid field.
    """
    path = Path(expanded(str(name), "task"))
    if path.suffix not in (".yaml", ".yml"):
        path = conf_dir() / "task" / f"{name}.yaml"
        if not path.is_file():
            raise unknown("task", name, sorted(file.stem for file in path.parent.glob("*.yaml")))
    task = typed(read_yaml(path), TaskConfig, f"task file {path}")
    expand_paths(task)
    normalise_task(task)
    return task
