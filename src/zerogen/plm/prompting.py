"""PROMPTING: the PLM predicts without training, by scoring filled prompts or by completing an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zerogen.config.schema import DecodingConfig, SettingConfig
from zerogen.config.task_schema import DebiasConfig, TaskConfig
from zerogen.config.template import placeholders, render, shortened
from zerogen.data.records import AnswerPrediction, Example, Prediction, Request, Stop
from zerogen.errors import UserError
from zerogen.plm.chat import filled
from zerogen.plm.protocol import ChunkRequest, LabelScorer, Scorer, Writer
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
    prompt but its first token, as in Ye et al. (2022), of a chat over the answer; with scope=text over the text and
    what comes after it. With
    calibration=prior the same mean for the prompt with an empty text is subtracted, as in ProGen (Ye et al., 2022,
    https://arxiv.org/abs/2210.12329). A prompt that is too long is cut at the end of its context, or of its text if it
    has no context, at the same place for all labels. Raises `UserError` when the task has no scoring prompts, or
    when nothing would be scored without a text.
    """
    setting = setting or SettingConfig()
    _require_scoring(task)
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
                        its = {**values, part: shorter, **blank}
                        prompt, begin = filled(plm, template, its, "X", before)
                        rest = template[template.index("<X>") + (len("<X>") if after else 0) :]
                        if after or setting.scope == "text":
                            begin = max(begin, len(prompt) - len(render(rest, its)))
                        prompts.append(prompt)
                        begins.append(begin)
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


def _require_scoring(task: TaskConfig) -> None:
    if not task.scoring:
        raise UserError(
            f"task '{task.name}': scoring is empty; setting=prompting needs one for each of {', '.join(task.labels)}"
        )


def prompt_label_tokens(
    plm: LabelScorer, task: TaskConfig, rows: Sequence[Example], progress: Progress | None = None
) -> tuple[list[Prediction], int]:
    """Predict labels by the first tokens that may follow; return the predictions and how many rows were too long.

    Asked is the first set of scoring prompts that are the same up to a word at their end, such as `Sentiment: bad` and
    `Sentiment: good`. Raises `UserError` where there is none.
    """
    _require_scoring(task)
    for prompts in (task.scoring, *task.further_scoring):
        templates = [prompts[label] for label in task.labels]
        beginning = _common(templates)
        beginning = beginning[: max(beginning.rfind(" "), beginning.rfind("\n")) + 1]
        if "<X>" in beginning and all(template[len(beginning) :].strip() for template in templates):
            break
    else:
        raise UserError(
            f"plm.scoring=label_tokens: task '{task.name}' has no scoring prompts that differ in their last words "
            "alone; add some to further_scoring, such as: <X> All in all, it was bad."
        )
    words = [template[len(beginning) :] for template in templates]
    part = "C" if "C" in placeholders(beginning) else "X"
    asked, cut = [], 0
    for row in rows:
        values = {"C": row.context or "", "X": row.text}
        shorter = shortened([beginning], values, part, plm.max_positions - 1, plm.encode, plm.decode)
        cut += shorter != values[part]
        asked.append(filled(plm, beginning.rstrip(), {**values, part: shorter}, "X")[0])
    found: list[list[float]] = [[] for _ in rows]
    for index, scores in plm.label_logprobs(asked, words, progress):
        found[index] = scores
    return [Prediction.of(softmax(dict(zip(task.labels, scores, strict=True)))) for scores in found], cut


def _common(texts: Sequence[str]) -> str:
    """Return what texts begin with alike."""
    first, last = min(texts), max(texts)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


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
    plm: Scorer | LabelScorer,
    task: TaskConfig,
    rows: Sequence[Example],
    setting: SettingConfig,
    progress: Progress | None = None,
) -> tuple[list[list[Prediction]], int]:
    """Predict the label of each row by each set of scoring prompts; return them, and how many rows were too long.

    By a PLM of which only first tokens are known, there is one set.
    """
    if isinstance(plm, LabelScorer):
        predictions, cut = prompt_label_tokens(plm, task, rows, progress)
        return [predictions], cut
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
    where its text first stands in the context; its probability is that of the mean token, 0 where a server does not
    tell it. name: of the chunks, unique within a pool. Raises `UserError` when the task has no scoring prompt.
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
                requests.append(Request(row.uid, filled(plm, template, {**values, "C": context}, None)[0]))
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
            probability = 0.0 if continuation.logprob is None else math.exp(continuation.logprob)
            answers.append(AnswerPrediction(text, place, probability))
    return answers, cut


def softmax(scores: dict[str, float]) -> dict[str, float]:
    """Turn scores into probabilities that sum to 1."""
    top = max(scores.values())
    weights = {label: math.exp(score - top) for label, score in scores.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}
