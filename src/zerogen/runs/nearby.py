"""Folders beside that of a run which differ from it in one key: the run may have been meant to go on there."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import yaml

from zerogen.config.keys import completed, flat, keys_of
from zerogen.errors import UserError
from zerogen.runs.run import Run
from zerogen.runs.store import CONFIG, read_config, write_config
from zerogen.support.files import LOCK

# What names no folder.
_SERVER = "base_url key_variable concurrency timeout retries price_in price_out"
_FREE = {"n", "log_every", "output_dir", "gpu", "processes", "seeds", "logger", "metrics", "method"}
_FREE |= {"confidence", "diversity", "correctness", *(f"plm.{key}" for key in _SERVER.split())}


def differs_in(run: Run) -> str | None:
    """Return in one line what key alone makes the folder of a run another than one that is there; None for several."""
    mine = _naming(keys_of(run.config))
    for path in sorted(run.task_folder.glob(f"{run.setting.name}_*/{CONFIG}")):
        try:
            keys = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        except (OSError, ValueError, yaml.YAMLError):
            continue
        theirs = _naming(completed(keys)) if isinstance(keys, dict) else {}
        different = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        # Each seed is meant to have a folder of its own.
        if len(different) != 1 or different == ["seed"] or different[0] not in mine:
            continue
        (key,) = different
        with suppress(UserError):
            other = replace(read_config(path.parent), output_dir=run.config.output_dir)
            # Files that are hashed, too, may have been changed since.
            if Run(other, run.devices).folder() == path.parent != run.folder():
                values = (textwrap.shorten(str(keys.get(key)), 60) for keys in (mine, theirs))
                told = "{key}={} makes another folder than {folder}, where it is {}"
                return str(UserError(told.format(*values, key=key, folder=path.parent)))
    return None


@contextmanager
def begun(run: Run) -> Iterator[None]:
    """Write down what a new run is of; say which key alone keeps it apart from another. Its folder must be there.

    What ends before anything is done leaves nothing.
    """
    path = run.folder() / CONFIG
    new = not path.exists()
    if new:
        if said := differs_in(run):
            run.progress.say(said)
        write_config(run.config, run.folder())
    try:
        yield
    except BaseException:
        left = {one.name for one in run.folder().iterdir()} if run.folder().is_dir() else set[str]()
        if new and left <= {CONFIG, LOCK}:
            path.unlink(missing_ok=True)
        raise


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _naming(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that may name a folder, by dotted key."""
    return {key: value for key, value in flat(keys) if not {key, key.partition(".")[0]} & _FREE}
