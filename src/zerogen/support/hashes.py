"""Short hashes of values, and of the content of files and folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def short_hash(value: Any) -> str:
    """Return eight characters that identify a JSON value."""
    return hashlib.sha256(json.dumps(_with_text_keys(value), sort_keys=True).encode()).hexdigest()[:8]


def short_hash_of_list(values: Iterable[Any]) -> str:
    """Return what `short_hash` returns of a list of JSON values, without holding it."""
    state = hashlib.sha256(b"[")
    for place, value in enumerate(values):
        state.update((", " * bool(place) + json.dumps(_with_text_keys(value), sort_keys=True)).encode())
    state.update(b"]")
    return state.hexdigest()[:8]


def _with_text_keys(value: Any) -> Any:
    """Return a value whose dictionaries have text keys: 0 and "no" cannot be sorted together."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, (list, tuple)) else value


def digest(path: str) -> str:
    """Identify the content of a file, or of a folder by its files; a missing one is an empty string."""
    place = Path(path)
    if path and place.is_dir():
        return short_hash([[file.name, digest(str(file))] for file in sorted(place.rglob("*")) if file.is_file()])
    if not place.is_file():
        return ""
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
