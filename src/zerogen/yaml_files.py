"""YAML files as plain values, and those as typed ones. What stands in them is text: nothing is interpolated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from zerogen.errors import UserError

T = TypeVar("T")


def read_yaml(path: Path) -> Any:
    """Read a YAML file as dictionaries, lists, texts, numbers, booleans and None, as OmegaConf understands them.

    Raises `UserError` that names the file, and the line where it is known, for one that is not UTF-8 or not YAML.
    """
    from omegaconf._utils import get_yaml_loader  # what `OmegaConf.load` reads by: 1e3 is a number, keys differ

    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error})") from error
    try:
        return yaml.load(text, Loader=get_yaml_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}" if mark else ""
        column = f" at column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{place}: not YAML ({error.problem}{column})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not YAML ({error})") from error
    except RecursionError as error:
        raise UserError(f"{path}: not YAML that can be read (it is nested too deeply)") from error


def typed(value: Any, schema: type[T], where: str) -> T:
    """Return a plain value as an instance of a schema class. Raises `UserError` for what the schema does not allow.

    where: names the value's place.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(value, dict):
        raise UserError(f"{where}: holds no keys and values")
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), literal(value)))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from error
    assert isinstance(found, schema)
    return found


def literal(value: Any) -> Any:
    """Return a value whose texts OmegaConf gives back as they are: a `${price}` in them is no interpolation."""
    # Of backslashes before ${ each pair is one, and a single one takes away its meaning.
    return _with_texts(value, lambda text: re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + "\\${", text))


def as_text(value: Any) -> Any:
    """Return what `literal` made a value of; an interpolation that it did not see becomes text, too."""

    def halved(match: re.Match[str]) -> str:
        return match[1][: len(match[1]) // 2] + "${"

    return _with_texts(value, lambda text: re.sub(r"(\\*)\\\$\{", halved, text))


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value with every text in nested dictionaries and lists changed, but not the keys."""
    if isinstance(value, dict):
        return {key: _with_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def texts_of(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in nested dictionaries and lists, those of keys too, with its dotted place."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield key, str(name)
            yield from texts_of(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item, key)
