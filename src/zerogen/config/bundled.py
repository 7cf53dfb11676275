"""Find the bundled options and task files, and read them without Hydra."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from zerogen.config.schema import PlmConfig
from zerogen.config.task import expand_paths, normalise_task
from zerogen.config.task_schema import TaskConfig
from zerogen.config.yaml_files import read_yaml, typed
from zerogen.errors import UserError, unknown
from zerogen.support.files import expanded, file_name

T = TypeVar("T")
_MISSING = "???"  # a value that whoever uses an option has to give


def conf_dir() -> Path:
    """Return the folder of the configuration groups: inside the installed package, else in the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


def bundled_option(group: str, name: str, schema: type[T]) -> T | None:
    """Read a bundled option of a configuration group; return None if there is none of that name."""
    path = conf_dir() / group / f"{name}.yaml"
    return typed(read_yaml(path), schema, str(path)) if path.is_file() else None


def require_weights(what: str, group: str, name: str, *others: str) -> None:
    """Raise `UserError` for weights that are neither a Hub id nor a path, such as a misspelt option.

    Otherwise the Hub would be asked for them. what: the key; group: the configuration group of its options; others:
    further allowed values, for the message.
    """
    if "/" not in name and ":" not in name and not Path(name).exists():
        options = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
        raise unknown(what, name, [*options, "a Hub id (owner/name)", "a folder or .gguf file", *others])


def plm_option(name: str, what: str) -> PlmConfig:
    """Return the PLM of a bundled option, of a YAML file of one, or with the weights of a Hub id, folder or .gguf file.

    what: names the option of the command in errors. Raises `UserError` for anything else.
    """
    name = expanded(name, what)
    if name.endswith((".yaml", ".yml")):
        said = read_yaml(Path(name))
        # As an option of Hydra's, it is named by its file.
        return typed({"name": file_name(Path(name).stem), **said} if isinstance(said, dict) else said, PlmConfig, name)
    path = conf_dir() / "plm" / f"{name}.yaml"
    if path.is_file():
        said = read_yaml(path)
        if said.get("model") == _MISSING:
            raise UserError(
                f"{what} {name}: has no model; allowed is a YAML file with model: NAME, writer: {said['writer']} and "
                f"base_url: {said['base_url']}"
            )
        return typed(said, PlmConfig, str(path))
    require_weights(what, "plm", name)
    return PlmConfig(name=file_name(name.rstrip("/").rpartition("/")[2]), model=name)


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
