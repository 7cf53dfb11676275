"""PROMPTING: classify a text by the label whose filled prompt the PLM finds most probable."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zerogen.config import TaskConfig
from zerogen.errors import UserError
from zerogen.plm.model import Plm
from zerogen.progress import Quiet
from zerogen.records import Prediction
from zerogen.template import render_within


def prompt_labels(plm: Plm, task: TaskConfig, texts: Sequence[str], progress: Quiet | None = None) -> list[Prediction]:
    """Predict the label of each text; its probabilities are the softmax over labels of mean token log-probabilities.

    The mean runs over the whole filled prompt but its first token, as in Ye et al. (2022). A text that is too long for
    the PLM is cut at its end. Raises `UserError` when the task has no scoring prompts.
    """
    if not task.scoring:
        raise UserError(
            f"task '{task.name}': scoring is empty; setting=prompting needs one for each of {', '.join(task.labels)}"
        )
    scores = [0.0] * len(texts) * len(task.labels)
    try:
        prompts = [
            render_within(task.scoring[label], {"X": text}, "X", plm.max_positions, plm.encode, plm.decode)
            for text in texts
            for label in task.labels
        ]
        with (progress or Quiet()).bar("scoring filled prompts", len(prompts), "prompts") as advance:
            for index, score in plm.logprob(prompts):
                scores[index] = score
                advance(1)
    except ValueError as error:
        raise UserError(f"task '{task.name}': scoring: {error}") from error
    width = len(task.labels)
    return [
        Prediction.of(softmax(dict(zip(task.labels, scores[i : i + width], strict=True))))
        for i in range(0, len(scores), width)
    ]


def softmax(scores: dict[str, float]) -> dict[str, float]:
    """Turn scores into probabilities that sum to 1."""
    top = max(scores.values())
    weights = {label: math.exp(score - top) for label, score in scores.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}
