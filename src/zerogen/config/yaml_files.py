"""Read YAML files as plain values, without interpolation, and convert them to typed configurations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from zerogen.errors import UserError, nearest

T = TypeVar("T")
# Words of OmegaConf's messages, and what they ask for.
_KINDS = {
    "Integer": "a whole number",
    "Float": "a number",
    "bool": "true or false",
    "to string": "a text",
    "ListConfig": "a list: {key}=[{value}]",
    "to Dict[": "values by their names: {key}={{NAME: VALUE}}",
}


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
    except OmegaConfBaseException as error:
        said = refusal(error) if error.full_key else str(error).splitlines()[0]
        raise UserError(f"{where}: {said}") from error
    except ValueError as error:
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from error
    assert isinstance(instance, schema)
    if wrong := misplaced(instance):
        raise UserError(f"{where}: {wrong}")
    return instance


def misplaced(instance: Any) -> str | None:
    """Say in one line which value of a configuration is not of the kind that its schema wants; None for none.

    OmegaConf takes `${a}` for a value of any kind, and a list for a text in a dictionary.
    """
    for key, value in _misplaced(instance, type(instance), ""):
        return f"{key}={value}: is a value of another kind than is allowed here"
    return None


def _misplaced(value: Any, hint: Any, key: str) -> Iterator[tuple[str, Any]]:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if Any in kinds:
        return
    nested = isinstance(value, (list, dict))
    if (isinstance(value, str) and str not in kinds) or (nested and set(kinds) <= {str, NoneType}):
        yield key, value
    elif is_dataclass(value):
        hints = get_type_hints(type(value))
        for field in fields(value):
            yield from _misplaced(getattr(value, field.name), hints[field.name], f"{key}.{field.name}".lstrip("."))
    elif nested:
        inner = next((get_args(kind)[-1] for kind in kinds if get_origin(kind) in (list, dict)), Any)
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _misplaced(item, inner, f"{key}.{name}")


def is_schema(node: Any) -> bool:
    """Return whether a node of a configuration has the keys of a schema alone."""
    from omegaconf import OmegaConf

    return OmegaConf.is_dict(node) and is_dataclass(OmegaConf.get_type(node))


def refusal(error: Any, given: str = "") -> str:
    """Say in one line what OmegaConf refuses of a key, with the nearest match.

    error: an `OmegaConfBaseException` with a `full_key`. given: the value, where it is known.
    """
    key, parent = str(error.full_key), error.parent_node
    options = [str(option) for option in parent] if is_schema(parent) else []
    if options and str(error.key) not in options:
        return f"{key}: is not a key; allowed here: {', '.join(options)}{nearest(error.key, options)}"
    text = str(error).splitlines()[0]
    if "missing mandatory value" in text:
        return f"{key}: has no value"
    if isinstance(error.key, (bool, int)) and "incompatible with (str)" in str(error):
        return f"{key}: {text}; quote it in the file: YAML reads an unquoted yes as true and 1 as a number"
    allowed = next((kind for word, kind in _KINDS.items() if word in text), None)
    if allowed is None:
        return f"{key}: {text}"
    value = re.search(r"[Vv]alue '(.*?)'", text)
    given = value[1] if value else given
    return f"{key}{given and f'={given}'}: allowed is {allowed.format(key=key, value=given or '...')}"


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
