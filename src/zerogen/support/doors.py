"""Resolve names in a configuration to code: an entry of a table, or the user's own `module:attribute`."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zerogen.errors import UserError, nearest, unknown

OWN = "your own module:attribute"


def is_own(name: str) -> bool:
    """Tell whether a name is a `module:attribute` of the user's own, not an entry of a table."""
    return ":" in name


def load(what: str, name: str, table: Mapping[str, str]) -> Any:
    """Return the object that `name` stands for: the table's dotted name for it, or the user's own `module:attribute`.

    what: the key that holds the name. The user's module may be in the working directory or installed. Raises
    `UserError` for a name that is neither, a module that cannot be imported, or a missing attribute.
    """
    if not is_own(name):
        if name not in table:
            raise unknown(what, name, [*table, OWN])
        module, _, attribute = table[name].rpartition(".")
        return getattr(import_module(module), attribute)
    module, _, attribute = name.partition(":")
    _add_working_directory()
    try:
        imported_module = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            near = nearest(module, [path.stem for path in Path.cwd().glob("*.py")])
            raise UserError(f"{what}={name}: there is no module '{module}', here or installed{near}") from error
        raise UserError(f"{what}={name}: {module} cannot be imported: {error}") from error
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{what}={name}: {module} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(imported_module, attribute):
        raise unknown(f"{what}={name}: attribute", attribute, [key for key in vars(imported_module) if key[0] != "_"])
    return getattr(imported_module, attribute)


def call(what: str, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call what a name stands for. Raises `UserError`, in one line with its place, for what the user's own code raises.

    what: the key that holds the name.
    """
    try:
        return function(*arguments)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if not is_own(name):
            raise
        reason, place = " ".join(str(error).split()), traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(place.filename).name}:{place.lineno}"
        raise UserError(f"{what}={name}: raised {type(error).__name__}: {reason} ({at})") from error


def fingerprint(name: str) -> str:
    """Identify the code of a name, for hashes: the name, and for the user's own code a hash of its source file too."""
    if not is_own(name):
        return name
    _add_working_directory()
    try:
        spec = find_spec(name.partition(":")[0])
    except (ImportError, ValueError):
        spec = None
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    content = origin.read_bytes() if origin is not None and origin.is_file() else b""
    return f"{name}@{hashlib.sha256(content).hexdigest()[:16]}"


def _add_working_directory() -> None:
    """Make modules in the working directory importable, as `python -m` does and a console script does not."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
