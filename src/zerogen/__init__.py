"""zerogen: train a small task model on what a language model writes from prompts.

>>> task = zerogen.load_task("rotten_tomatoes")
>>> rows = zerogen.generate(task, zerogen.load_plm("smollm2"), n=500)
>>> tam = zerogen.fit(rows, task, "minilm")
>>> zerogen.evaluate(tam, zerogen.load_gold(task, "validation"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from zerogen.api import evaluate, fit, generate, load_plm
    from zerogen.config.bundled import load_task
    from zerogen.config.schema import DecodingConfig, FilterConfig, TrainerConfig
    from zerogen.config.task_schema import TaskConfig
    from zerogen.data.gold import load_gold
    from zerogen.data.records import Example, Prediction
    from zerogen.errors import UserError
    from zerogen.tam.tam import Tam, load_tam

__all__ = [
    "DecodingConfig",
    "Example",
    "FilterConfig",
    "Prediction",
    "Tam",
    "TaskConfig",
    "TrainerConfig",
    "UserError",
    "evaluate",
    "fit",
    "generate",
    "load_gold",
    "load_plm",
    "load_tam",
    "load_task",
]

_HOME = {
    "DecodingConfig": "config.schema",
    "Example": "data.records",
    "FilterConfig": "config.schema",
    "Prediction": "data.records",
    "Tam": "tam.tam",
    "TaskConfig": "config.task_schema",
    "TrainerConfig": "config.schema",
    "UserError": "errors",
    "evaluate": "api",
    "fit": "api",
    "generate": "api",
    "load_gold": "data.gold",
    "load_plm": "api",
    "load_tam": "tam.tam",
    "load_task": "config.bundled",
}


def __getattr__(name: str) -> Any:
    # Keep the import of the package instant: look a name up (and import torch) only when it is used.
    if name in _HOME:
        return getattr(import_module(f"zerogen.{_HOME[name]}"), name)
    raise AttributeError(f"module 'zerogen' has no attribute '{name}'")
