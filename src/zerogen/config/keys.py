"""A configuration as nested keys, and the help texts of the schema's attributes."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from zerogen.config.schema import Config


def keys_of(config: Config) -> dict[str, Any]:
    """Return a configuration as nested keys and values, as a config.yaml holds them."""
    keys = asdict(config)
    for key in ("command", "launcher", "dry_run", "on_error", "pool", "engine"):  # how it is run, and not what
        del keys[key]
    return keys


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a config.yaml with those that are newer than it, which had their defaults."""
    completed = keys_of(Config()) | config
    for group, defaults in keys_of(Config()).items():
        if isinstance(defaults, dict) and isinstance(config.get(group), dict):
            completed[group] = defaults | config[group]
    return completed


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested keys; lists, and dictionaries that hold nothing, as JSON."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, json.dumps(value) if isinstance(value, (list, dict)) else value


def help_of(schema: type) -> dict[str, str]:
    """Return attribute name to docstring of a schema class, in order, for the attributes that have one."""
    body = ast.parse(inspect.getsource(schema)).body[0].body  # type: ignore[attr-defined]
    return {
        node.target.id: " ".join(str(text.value.value).split())
        for node, text in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
