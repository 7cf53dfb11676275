"""Contexts from gold rows or a file, which the PLM need not write, and warnings about prompts."""

from __future__ import annotations

from collections.abc import Iterator

from zerogen.config.task import made_by, plm_writes, prompts_of
from zerogen.config.task_schema import TaskConfig
from zerogen.data.gold import load_gold, read_contexts
from zerogen.data.records import PLM
from zerogen.errors import UserError
from zerogen.generation.answers import SHARES, AnsweredContexts
from zerogen.generation.contexts import GivenContexts
from zerogen.generation.extractors import GET_SPACY, SpacySpans, chosen, extractor


def given_contexts(task: TaskConfig, seed: int) -> GivenContexts | AnsweredContexts:
    """Return the contexts of gold rows or of a file, with their answers for question answering.

    Raises `UserError` if they cannot be read, or if there are none.
    """
    assert task.context is not None
    by_gold = task.context.source == "gold"
    if task.kind == "qa" and task.answers == "gold" and not task.gold:
        raise UserError(f"answers=gold: task '{task.name}' has no gold data; allowed are auto, spacy and rules")
    gold = load_gold(task, "train") if by_gold or (task.kind == "qa" and task.answers == "gold") else []
    if by_gold:
        texts = [row.context for row in gold if row.context and row.context.strip()]
        if not texts:
            raise UserError(f"contexts=gold: the training rows of task '{task.name}' have no context that is not empty")
    else:
        texts = read_contexts(task)
    if task.kind != "qa":
        return GivenContexts(texts, seed)
    if made_by(task) == PLM:
        return AnsweredContexts(texts, extractor(task.answers, gold), seed)
    find = extractor(task.answers, gold, phrases=True)
    return AnsweredContexts(texts, find, seed, SHARES, find.label if isinstance(find, SpacySpans) else None)


def prompt_warnings(task: TaskConfig) -> Iterator[str]:
    """Yield warnings: prompts whose texts end only by chance, equal prompts, answers not found as in the paper."""
    if not plm_writes(task) or not task.prompts:
        return
    if task.kind == "qa" and task.answers == "auto" and chosen(task.answers) == "rules":
        yield f"answers are found by rules; named entities, as in the paper, need {GET_SPACY}"
    for key, prompts in prompts_of(task).items():
        for place, label in enumerate(task.labels):
            if all(stop.text == '"' for stop in task.parse.stop) and not prompts[label].endswith('"'):
                yield (
                    f"task '{task.name}': {key}.{label} does not end in an opening quote (\"): the PLM has no "
                    "reason to write the closing quote that ends a text; for another one set parse.stop"
                )
            for other in task.labels[:place]:
                if prompts[label] == prompts[other]:
                    yield f"task '{task.name}': {key}.{label} and {key}.{other} are the same: so will be their texts"
