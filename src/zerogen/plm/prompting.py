"""PROMPTING: the PLM predicts without training, by scoring filled prompts or by completing an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zerogen.config.schema import DecodingConfig, SettingConfig
from zerogen.config.task_schema import DebiasConfig, TaskConfig
from zerogen.config.template import placeholders, render, shortened
from zerogen.data.records import AnswerPrediction, Example, Prediction, Request, Stop
from zerogen.errors import UserError
from zerogen.plm.protocol import ChunkRequest, Scorer, Writer
from zerogen.support.progress import Progress

_ANSWERS_AT_A_TIME = 512


def prompt_labels(
    plm: Scorer,
    task: TaskConfig,
    rows: Sequence[Example],
    setting: SettingConfig | None = None,
    progress: Progress | None = None,
    further: dict[str, str] | None = None,
    before: str = "",
) -> tuple[list[Prediction], int]:
    """Predict the label of each row; return the predictions and how many rows were too long for the PLM.

    further: prompts of the labels in place of those of `task.scoring`. Where these begin alike up to the text, the
    mean runs over what follows it: all before is equally probable for every label.
    before: stands before every prompt, such as `demonstrations`, and is not scored.

    The probabilities are the softmax over labels of mean token log-probabilities. The mean runs over the whole filled
    prompt but its first token, as in Ye et al. (2022); with scope=text over the text and what comes after it. With
    calibration=prior the same mean for the prompt with an empty text is subtracted, as in ProGen (Ye et al., 2022,
    https://arxiv.org/abs/2210.12329). A prompt that is too long is cut at the end of its context, or of its text if it
    has no context, at the same place for all labels. Raises `UserError` when the task has no scoring prompts, or
    when nothing would be scored without a text.
    """
    setting = setting or SettingConfig()
    if not task.scoring:
        raise UserError(
            f"task '{task.name}': scoring is empty; setting=prompting needs one for each of {', '.join(task.labels)}"
        )
    templates = [(further or task.scoring)[label] for label in task.labels]
    prior, after = setting.calibration == "prior", further is not None and _differ_after_the_text(templates)
    if prior and setting.scope == "text":
        _refuse_nothing_to_score(task, templates)
    part = "C" if any("C" in placeholders(template) for template in templates) else "X"
    prompts: list[str] = []
    begins: list[int] = []
    cut = 0
    progress = progress or Progress()
    positions = plm.max_positions - (len(plm.encode(before + "x")) if before else 0)
    if 4 * positions < plm.max_positions:
        raise UserError(
            f"scoring_demonstrations: those of {len(task.labels)} labels take {plm.max_positions - positions:,} of the "
            f"{plm.max_positions:,} tokens that the PLM reads; allowed is scoring_demonstrations=0"
        )
    try:
        with progress.bar("filling prompts", len(rows), "rows") as advance:
            for row in rows:
                values = {"C": row.context or "", "X": row.text}
                shorter = shortened(templates, values, part, positions, plm.encode, plm.decode)
                cut += shorter != values[part]
                for template in templates:
                    for blank in ({}, {"X": ""}) if prior else ({},):
                        filled = {**values, part: shorter, **blank}
                        prompts.append(before + render(template, filled))
                        rest = template[template.index("<X>") + (len("<X>") if after else 0) :]
                        within = after or setting.scope == "text"
                        begins.append(len(prompts[-1]) - len(render(rest, filled)) if within else len(before))
                advance(1)
        scores = [0.0] * len(prompts)
        for index, score in plm.logprob(prompts, begins=begins, progress=progress):
            scores[index] = score
    except ValueError as error:
        raise UserError(f"task '{task.name}': scoring: {error}") from error
    if prior:
        scores = [own - without for own, without in zip(scores[::2], scores[1::2], strict=True)]
    width = len(task.labels)
    return [
        Prediction.of(softmax(dict(zip(task.labels, scores[i : i + width], strict=True))))
        for i in range(0, len(scores), width)
    ], cut


def _differ_after_the_text(templates: Sequence[str]) -> bool:
    """Tell whether prompts of several labels are the same up to the text, and something follows it in each."""
    starts = {template.partition("<X>")[0] for template in templates}
    return len(starts) == 1 and not any(template.endswith("<X>") for template in templates)


def _refuse_nothing_to_score(task: TaskConfig, templates: Sequence[str]) -> None:
    """Raise `UserError` for a prompt of which nothing follows the text: without a text there is nothing to compare."""
    for label, template in zip(task.labels, templates, strict=True):
        if template.endswith("<X>"):
            raise UserError(
                f"setting.calibration=prior with setting.scope=text: task '{task.name}': scoring.{label} ends in <X>, "
                'so that without a text nothing is left to score; let something follow, such as a closing quote: <X>"'
            )


def prompt_sets(
    plm: Scorer, task: TaskConfig, rows: Sequence[Example], setting: SettingConfig, progress: Progress | None = None
) -> tuple[list[list[Prediction]], int]:
    """Predict the label of each row by each set of scoring prompts; return them, and how many rows were too long."""
    sets, cut = [], 0
    for prompts in asked_prompts(task, setting):
        predictions, cut_here = prompt_labels(plm, task, rows, setting, progress, prompts)
        sets.append(predictions)
        cut = max(cut, cut_here)
    return sets, cut


def demonstrated(
    plm: Scorer,
    task: TaskConfig,
    rows: Sequence[Example],
    setting: SettingConfig,
    before: str,
    progress: Progress | None = None,
) -> tuple[list[Prediction], int]:
    """Predict labels as `prompt_labels` does, by the last set of scoring prompts that is asked after demonstrations."""
    return prompt_labels(plm, task, rows, setting, progress, asked_prompts(task, setting)[-1], before)


def asked_prompts(task: TaskConfig, setting: SettingConfig) -> list[dict[str, str] | None]:
    """Return the sets of scoring prompts that are asked; None stands for that of `task.scoring`."""
    return [None, *(task.further_scoring if setting.prompts == "all" else ())]


def prompt_answers(
    plm: Writer, task: TaskConfig, rows: Sequence[Example], progress: Progress | None = None, name: str = "answers"
) -> tuple[list[AnswerPrediction], int]:
    """Let the PLM complete the answer to each question: greedily, up to a closing quote or else to the end of the line.

    Return the answers and how many contexts were too long for the PLM, which are cut at their end. An answer starts
    where its text first stands in the context; its probability is that of the mean token. name: of the chunks, unique
    within a pool. Raises `UserError` when the task has no scoring prompt.
    """
    if not task.scoring:
        raise UserError(f"task '{task.name}': scoring is empty; setting=prompting needs one, for question")
    template = task.scoring[task.labels[0]]
    stops = [Stop('"'), Stop("\n")]
    budget = plm.max_positions - task.answer_tokens
    requests, cut = [], 0
    progress = progress or Progress()
    try:
        with progress.bar("filling prompts", len(rows), "rows") as advance:
            for row in rows:
                values = {"C": row.context or "", "X": row.text}
                context = shortened([template], values, "C", budget, plm.encode, plm.decode)
                cut += context != values["C"]
                requests.append(Request(row.uid, render(template, {**values, "C": context})))
                advance(1)
    except ValueError as error:
        raise UserError(f"task '{task.name}': scoring: {error}") from error
    greedy = DecodingConfig(top_k=1)
    parts = [requests[start : start + _ANSWERS_AT_A_TIME] for start in range(0, len(rows), _ANSWERS_AT_A_TIME)]
    chunks = [
        ChunkRequest(f"{name}-{index:06d}", part, stops, task.answer_tokens, 0, greedy, DebiasConfig())
        for index, part in enumerate(parts)
    ]
    answers: list[AnswerPrediction] = []
    with progress.bar("answering", len(rows), "rows") as advance:
        written = (continuation for output in plm.write(chunks, advance) for continuation in output.continuations)
        for row, continuation in zip(rows, written, strict=True):
            text = continuation.text.strip()
            place = (row.context or "").find(text) if text else -1
            answers.append(AnswerPrediction(text, place, math.exp(continuation.logprob)))
    return answers, cut


def softmax(scores: dict[str, float]) -> dict[str, float]:
    """Turn scores into probabilities that sum to 1."""
    top = max(scores.values())
    weights = {label: math.exp(score - top) for label, score in scores.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}
