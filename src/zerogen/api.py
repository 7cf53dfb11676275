"""The Python API: load a PLM, generate rows, fit and evaluate a TAM, without Hydra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zerogen.config.bundled import bundled_option
from zerogen.config.schema import DecodingConfig, FilterConfig, PlmConfig, TamConfig, TrainerConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.support.progress import Progress

if TYPE_CHECKING:
    import torch

    from zerogen.plm.protocol import Writer
    from zerogen.tam.tam import Tam


def load_plm(name: str = "gpt2-xl", device: str = "cpu") -> Writer:
    """Load a PLM by the name of a bundled option (`smollm2`, `gpt2-xl`, ...), a Hub id, a folder or `package:NAME`.

    Raises `UserError` if its weights are not available.
    """
    import torch

    from zerogen.plm.open import open_plm

    config = bundled_option("plm", name, PlmConfig) or PlmConfig(name=name.rpartition("/")[2], model=name)
    return open_plm(config, torch.device(device))


def generate(
    task: TaskConfig,
    plm: Writer,
    n: int,
    *,
    seed: int = 42,
    decoding: DecodingConfig | None = None,
    filters: FilterConfig | None = None,
    progress: Progress | None = None,
) -> list[Example]:
    """Generate `n` accepted examples, an equal share per label.

    For each label, the rows for a smaller `n` are the first rows for a larger one. If the task takes its contexts from
    gold data, those of the training split are read, without labels. Raises `UserError` for a prompt that is too long
    for the PLM, and if hardly any text of a label is accepted.
    """
    from zerogen.generation.generator import Generator

    generator = Generator(task, lambda: plm, decoding or DecodingConfig(), filters or FilterConfig(), seed)
    try:
        for _ in generator.extend(n, progress):
            pass
    finally:
        plm.release()
    return generator.rows(n)


def fit(
    rows: Sequence[Example],
    task: TaskConfig,
    tam: str = "distilbert",
    *,
    trainer: TrainerConfig | None = None,
    seed: int = 42,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Tam:
    """Train a TAM on rows: a bundled option (`distilbert`, `minilm`, `lstm`), or an encoder's Hub id or folder.

    The best epoch is chosen on a held-out tenth of the rows. `trainer` defaults to that of the option.
    """
    from zerogen.tam.fit import fit as train

    config = bundled_option("tam", tam, TamConfig) or TamConfig(name=tam.rpartition("/")[2], model=tam)
    trainer = trainer or bundled_option("trainer", tam, TrainerConfig) or TrainerConfig()
    model, _ = train(rows, task, config, trainer, seed=seed, device=device, progress=progress)
    return model


def evaluate(tam: Tam, rows: Sequence[Example], progress: Progress | None = None) -> dict[str, Any]:
    """Return accuracy, macro_f1 and the confusion matrix of a TAM on labelled rows; for questions, exact_match and f1.

    Raises `UserError` if there are no rows, or a row has a label that the TAM does not know.
    """
    from zerogen import metrics

    if not rows:
        raise UserError("there are no rows to evaluate on")
    kind = tam.spec.kind
    if kind != "qa" and (unknown_labels := sorted({row.label for row in rows} - set(tam.labels))):
        raise UserError(f"rows with label '{unknown_labels[0]}': the labels of this TAM are {', '.join(tam.labels)}")
    predictions = tam.predict(tam.inputs_of(rows), progress=progress)
    return metrics.evaluate(TaskConfig(kind=kind, labels=tam.labels), rows, predictions)
