"""Read YAML files as plain values, without interpolation, and convert them to typed configurations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from zerogen.errors import UserError

T = TypeVar("T")


def read_yaml(path: Path) -> Any:
    """Read a YAML file as dictionaries, lists, strings, numbers, booleans and None, as OmegaConf understands them.

    Raises `UserError`, naming the file and, if known, the line, for a file that is missing, not UTF-8 or not YAML.
    """
    from omegaconf._utils import get_yaml_loader  # the loader of `OmegaConf.load`: 1e3 is a number, no key comes twice

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
    """Convert a plain value to an instance of a schema class. Raises `UserError` if the schema does not allow it.

    where: the file or key of the value, for errors.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(value, dict):
        raise UserError(f"{where}: holds no keys and values")
    try:
        instance = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), literal(value)))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from error
    assert isinstance(instance, schema)
    return instance


def literal(value: Any) -> Any:
    """Escape the texts of a value so that OmegaConf returns them unchanged: `${price}` is then no interpolation."""
    # Before ${, OmegaConf reads a pair of backslashes as one, and a single backslash as an escape of the ${.
    return _with_texts(value, lambda text: re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + "\\${", text))


def as_text(value: Any) -> Any:
    """Undo `literal`; an interpolation that was never escaped becomes text, too."""

    def unescape(match: re.Match[str]) -> str:
        return match[1][: len(match[1]) // 2] + "${"

    return _with_texts(value, lambda text: re.sub(r"(\\*)\\\$\{", unescape, text))


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value with `change` applied to every text in nested dictionaries and lists, except keys."""
    if isinstance(value, dict):
        return {key: _with_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def texts_of(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, text) for every text in nested dictionaries and lists, including keys."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield key, str(name)
            yield from texts_of(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item, key)
