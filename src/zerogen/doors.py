"""Names in a configuration that stand for code: a line of a table, or a user's own `module:attribute`."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zerogen.errors import UserError, unknown

OWN = "your own module:attribute"


def load(what: str, name: str, table: Mapping[str, str]) -> Any:
    """Return the object that `name` stands for: by the table's dotted name, or by its own `module:attribute`.

    what: the key that holds the name. A module of the user's own may lie in the working directory. Raises
    `UserError` for a name that is neither, a module that cannot be imported, and an attribute that it does not have.
    """
    if ":" not in name:
        if name not in table:
            raise unknown(what, name, [*table, OWN])
        module, _, attribute = table[name].rpartition(".")
        return getattr(import_module(module), attribute)
    module, _, attribute = name.partition(":")
    _look_here()
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{what}={name}: there is no module '{module}', here or installed") from error
        raise UserError(f"{what}={name}: {module} cannot be imported: {error}") from error
    except Exception as error:  # whatever the user's code raises
        raise UserError(f"{what}={name}: {module} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(loaded, attribute):
        raise unknown(f"{what}={name}: attribute", attribute, [one for one in vars(loaded) if one[0] != "_"])
    return getattr(loaded, attribute)


def fingerprint(name: str) -> str:
    """Identify what a name stands for, for hashes: the name, and for a user's own also what its file holds."""
    if ":" not in name:
        return name
    _look_here()
    try:
        spec = find_spec(name.partition(":")[0])
    except (ImportError, ValueError):
        spec = None
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    content = origin.read_bytes() if origin is not None and origin.is_file() else b""
    return f"{name}@{hashlib.sha256(content).hexdigest()[:16]}"


def _look_here() -> None:
    """Let imports find modules of the working directory, as `python -m` does and a console script does not."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
