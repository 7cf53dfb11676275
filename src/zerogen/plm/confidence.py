"""The PLM's confidence in the label of each row: what can be said of labels without gold data."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zerogen.config.task_schema import TaskConfig
from zerogen.config.template import shortened, without_attributes
from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.plm.chat import filled, in_chat
from zerogen.plm.prompting import softmax
from zerogen.plm.protocol import Scorer
from zerogen.support.progress import Progress


def comparable(task: TaskConfig) -> bool:
    """Return whether there is anything to compare: several labels, or for questions a scoring prompt."""
    return bool(task.scoring) if task.kind == "qa" else len(task.labels) > 1


def label_probabilities(
    plm: Scorer, task: TaskConfig, rows: Sequence[Example], progress: Progress | None = None
) -> list[dict[str, float]] | None:
    """Return the probability of every label of each row, given its text: softmax over labels of log p(text | prompt).

    The log-probability is summed over the tokens of the text and the first stop string, after the prompt that asks for
    texts of a label; all labels count as equally frequent. In whatever words a text was asked for, that is the prompt
    in `task.prompts`, without attributes, which are the same for all labels. For a question, whose label stands for its
    answer, it is the mean token's probability of the answer after the scoring prompt. None where there is nothing to
    compare: a single label, or questions without a scoring prompt or an answer. A text or context that is too long is
    cut, at the same place for all labels.
    """
    progress = progress or Progress()
    if task.kind == "qa":
        if not comparable(task) or not all(row.answers for row in rows):
            return None
        template = task.scoring[task.labels[0]] + "<Y>"
        values = [{"C": row.context or "", "X": row.text, "Y": row.answers[0].text + '"'} for row in rows]
        around = [(row.answers[0].start, row.answers[0].start + len(row.answers[0].text)) for row in rows]
        scored = _scores(plm, [template], values, around, "Y", False, progress)
        return [{task.labels[0]: math.exp(score)} for (score,) in scored]
    if not comparable(task):
        return None
    stop = task.parse.stop[0]
    ending = "" if stop.keep else stop.text
    prompts = in_chat(task, plm).prompts
    templates = [without_attributes(prompts[label]) + "<X>" for label in task.labels]
    values = [{"C": row.context or "", "X": row.text + ending} for row in rows]
    by_label = _scores(plm, templates, values, [(0, 0)] * len(rows), "X", True, progress)
    return [softmax(dict(zip(task.labels, scores, strict=True))) for scores in by_label]


def label_confidence(
    plm: Scorer, task: TaskConfig, rows: Sequence[Example], progress: Progress | None = None
) -> list[float] | None:
    """Return the probability of each row's own label, as `label_probabilities` has it."""
    by_row = label_probabilities(plm, task, rows, progress)
    if by_row is None:
        return None
    return [probabilities[row.label] for row, probabilities in zip(rows, by_row, strict=True)]


def _scores(
    plm: Scorer,
    templates: Sequence[str],
    values: Sequence[dict[str, str]],
    around: Sequence[tuple[int, int]],
    part: str,
    total: bool,
    progress: Progress,
) -> list[list[float]]:
    """Return for each row the log-probability of its `part`, at the end of each template: the sum or the mean."""
    prompts: list[str] = []
    begins: list[int] = []
    longest = max(len(template.encode()) for template in templates)
    with progress.bar("filling prompts", len(values), "rows") as advance:
        for filling, span in zip(values, around, strict=True):
            # A token is at least one byte: tokens are counted only where there may be too many.
            if longest + sum(len(value.encode()) for name, value in filling.items() if name != "C") > plm.max_positions:
                text = shortened(templates, {**filling, "C": ""}, "X", plm.max_positions, plm.encode, plm.decode)
                filling = {**filling, "X": text}
            context = shortened(templates, filling, "C", plm.max_positions, plm.encode, plm.decode, span)
            for template in templates:
                prompts.append(filled(plm, template, {**filling, "C": context}, part)[0])
                begins.append(len(prompts[-1]) - len(filling[part]))
            advance(1)
    scores = [0.0] * len(prompts)
    try:
        for index, score in plm.logprob(prompts, begins=begins, total=total, progress=progress):
            scores[index] = score
    except ValueError as error:
        raise UserError(f"confidence: {error}; allowed is confidence.rows=0") from error
    width = len(templates)
    return [scores[i : i + width] for i in range(0, len(scores), width)]
