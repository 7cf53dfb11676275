"""Silence Lightning's own messages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence what Lightning says of itself (devices, tips, loader workers): nothing that a user can act on."""
    import warnings

    names = ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.distributed")
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in levels:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\..*")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
