"""PROMPTING: the PLM predicts without training, by scoring filled prompts or by completing an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zerogen.config import DecodingConfig, SettingConfig, TaskConfig
from zerogen.errors import UserError
from zerogen.plm.model import Plm
from zerogen.progress import Quiet
from zerogen.records import Example, Prediction, Request, Span, Stop
from zerogen.template import placeholders, render, render_within

_ANSWERS_AT_A_TIME = 512


def prompt_labels(
    plm: Plm,
    task: TaskConfig,
    rows: Sequence[Example],
    setting: SettingConfig | None = None,
    progress: Quiet | None = None,
) -> list[Prediction]:
    """Predict the label of each row; its probabilities are the softmax over labels of mean token log-probabilities.

    The mean runs over the whole filled prompt but its first token, as in Ye et al. (2022); with scope=text over the
    text and what stands behind it. With calibration=prior the same of the prompt with an empty text is subtracted, as
    in ProGen (Ye et al., 2022, https://arxiv.org/abs/2210.12329). What is too long for the PLM is cut at the end of the
    context, in a prompt without one at the end of the text. Raises `UserError` when the task has no scoring prompts.
    """
    setting = setting or SettingConfig()
    if not task.scoring:
        raise UserError(
            f"task '{task.name}': scoring is empty; setting=prompting needs one for each of {', '.join(task.labels)}"
        )
    prompts, begins = [], []
    try:
        for row in rows:
            for label in task.labels:
                for text in (row.text, "") if setting.calibration == "prior" else (row.text,):
                    prompt, begin = _filled(plm, task.scoring[label], row.context or "", text)
                    prompts.append(prompt)
                    begins.append(begin if setting.scope == "text" else 0)
        scores = [0.0] * len(prompts)
        with (progress or Quiet()).bar("scoring filled prompts", len(prompts), "prompts") as advance:
            for index, score in plm.logprob(prompts, begins=begins):
                scores[index] = score
                advance(1)
    except ValueError as error:
        raise UserError(f"task '{task.name}': scoring: {error}") from error
    if setting.calibration == "prior":
        scores = [own - prior for own, prior in zip(scores[::2], scores[1::2], strict=True)]
    width = len(task.labels)
    return [
        Prediction.of(softmax(dict(zip(task.labels, scores[i : i + width], strict=True))))
        for i in range(0, len(scores), width)
    ]


def _filled(plm: Plm, template: str, context: str, text: str) -> tuple[str, int]:
    """Fill a scoring prompt; return it with the place of its text."""
    values = {"C": context, "X": text}
    cut = "C" if "C" in placeholders(template) else "X"
    prompt = render_within(template, values, cut, plm.max_positions, plm.encode, plm.decode)
    # Behind the text nothing else is cut: what stands there tells where the text begins.
    behind = render(template[template.index("<X>") :], values)
    return prompt, len(prompt) - len(behind) if cut == "C" else template.index("<X>")


def prompt_answers(plm: Plm, task: TaskConfig, rows: Sequence[Example], progress: Quiet | None = None) -> list[Span]:
    """Let the PLM complete the answer to each question: greedily, up to a closing quote or else to the end of the line.

    A span's place is where its text first stands in the context, its probability that of the mean token. Raises
    `UserError` when the task has no scoring prompt.
    """
    if not task.scoring:
        raise UserError(f"task '{task.name}': scoring is empty; setting=prompting needs one, for question")
    template = task.scoring[task.labels[0]]
    stops = [Stop('"'), Stop("\n")]
    budget = plm.max_positions - task.answer_tokens
    try:
        requests = [
            Request(
                row.uid,
                render_within(template, {"C": row.context or "", "X": row.text}, "C", budget, plm.encode, plm.decode),
            )
            for row in rows
        ]
    except ValueError as error:
        raise UserError(f"task '{task.name}': scoring: {error}") from error
    found: list[Span] = []
    with (progress or Quiet()).bar("answering", len(rows), "rows") as advance:
        for start in range(0, len(rows), _ANSWERS_AT_A_TIME):
            part = requests[start : start + _ANSWERS_AT_A_TIME]
            greedy = DecodingConfig(top_k=1)
            for row, written in zip(
                rows[start : start + _ANSWERS_AT_A_TIME],
                plm.generate(part, greedy, stops, task.answer_tokens, 0, on_row=advance),
                strict=True,
            ):
                text = written.text.strip()
                place = (row.context or "").find(text) if text else -1
                found.append(Span(text, place, math.exp(written.logprob)))
    return found


def softmax(scores: dict[str, float]) -> dict[str, float]:
    """Turn scores into probabilities that sum to 1."""
    top = max(scores.values())
    weights = {label: math.exp(score - top) for label, score in scores.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}
