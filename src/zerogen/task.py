"""Tasks: what a task file must hold, and how one is read without Hydra."""

from __future__ import annotations

from pathlib import Path

from zerogen.config import TaskConfig, check_name
from zerogen.errors import UserError, nearest, unknown
from zerogen.template import placeholders

# Of load_dataset's arguments those that say which data: the split is ours, and a token must not be written to a file.
HUB_ARGUMENTS = ("path", "name", "data_dir", "data_files", "revision", "cache_dir")


def conf_dir() -> Path:
    """Return the folder of the configuration groups: inside an installed wheel, else in the checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


def load_task(name: str | Path) -> TaskConfig:
    """Read a task by the name of a bundled one or from a YAML file, and check it.

    Raises `UserError` for an unknown name, a malformed file, or a field that is wrong.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = conf_dir() / "task" / f"{name}.yaml"
        if not path.is_file():
            raise unknown("task", name, sorted(file.stem for file in path.parent.glob("*.yaml")))
    if not path.is_file():
        raise UserError(f"task file {path}: there is no such file")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TaskConfig), OmegaConf.load(path))
        task = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"task file {path}: {error}") from error
    assert isinstance(task, TaskConfig)
    check_task(task)
    return task


def check_task(task: TaskConfig) -> None:
    """Check labels, prompts and gold sources against each other. Raises `UserError` naming task, field and value."""
    where = f"task '{task.name}'"
    check_name("task.name", task.name)
    if len(task.labels) < 2 or len(set(task.labels)) != len(task.labels):
        raise UserError(f"{where}: labels={task.labels}: allowed is a list of two or more different names")
    for field, prompts, needed, allowed in (
        ("prompts", task.prompts, set(), {"C"}),
        ("scoring", task.scoring, {"X"}, {"X"}),
    ):
        if not prompts:
            continue  # the setting that needs them says so
        for label in task.labels:
            if label not in prompts:
                raise UserError(f"{where}: {field} has none for label '{label}'{nearest(label, prompts)}")
        for label, prompt in prompts.items():
            if label not in task.labels:
                raise unknown(f"{where}: {field}", label, task.labels)
            if not prompt.strip():
                raise UserError(f"{where}: {field}.{label} is empty")
            found = set(placeholders(prompt))
            for name in sorted(found - allowed):
                options = [f"<{option}>" for option in sorted(allowed)]
                raise unknown(f"{where}: {field}.{label}: placeholder", f"<{name}>", options)
            if needed - found:
                raise UserError(f"{where}: {field}.{label}: '{prompt}' must hold <X>, the text to score")
            if "C" in found and task.context is None:
                raise UserError(f"{where}: {field}.{label} holds <C>, but the task has no context.prompt to write it")
    if task.context is not None:
        if not task.context.prompt or placeholders(task.context.prompt):
            raise UserError(f"{where}: context.prompt='{task.context.prompt}': allowed is a text without placeholders")
        if task.context.per_label < 1 or task.context.max_new_tokens < 1:
            raise UserError(f"{where}: context.per_label and context.max_new_tokens: allowed is 1 or more")
        if not any("C" in placeholders(prompt) for prompt in task.prompts.values()):
            raise UserError(f"{where}: context.prompt is set, but none of the prompts holds <C>")
    if task.max_new_tokens < 1 or task.max_length < 2:
        raise UserError(f"{where}: allowed is max_new_tokens >= 1 and max_length >= 2")
    if task.parse.fallback not in ("none", "sentence"):
        raise unknown(f"{where}: parse.fallback", task.parse.fallback, ("none", "sentence"))
    if not task.parse.stop or not all(stop.text for stop in task.parse.stop):
        raise UserError(f"{where}: parse.stop: allowed is a list of one or more non-empty strings")
    if task.gold_source is not None and task.gold_source not in task.gold:
        raise unknown(f"{where}: gold_source", task.gold_source, task.gold)
    for name, gold in task.gold.items():
        given = [key for key in ("hub", "files", "folder", "package") if getattr(gold, key)]
        if len(given) != 1:
            raise UserError(
                f"{where}: gold.{name} has {' and '.join(given) or 'no source'}; "
                "allowed is one of hub, files, folder, package"
            )
        if gold.hub:
            if "path" not in gold.hub:
                raise UserError(f"{where}: gold.{name}.hub has no path, the id of the dataset")
            for argument in gold.hub:
                if argument not in HUB_ARGUMENTS:
                    raise unknown(f"{where}: gold.{name}.hub", argument, HUB_ARGUMENTS)
        for value, label in gold.labels.items():
            if label not in task.labels:
                raise unknown(f"{where}: gold.{name}.labels.{value}", label, task.labels)
        if gold.evaluate_on not in ("train", "validation", "test"):
            raise unknown(f"{where}: gold.{name}.evaluate_on", gold.evaluate_on, ("train", "validation", "test"))
        if gold.holdout is not None and gold.holdout.rows < 1:
            raise UserError(f"{where}: gold.{name}.holdout.rows={gold.holdout.rows}: allowed is 1 or more")
