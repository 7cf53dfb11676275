"""Self-training for questions without answers: teachers answer them; a fresh TAM learns from the surest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.data.overlap import f1
from zerogen.data.records import Answer, AnswerPrediction, Example
from zerogen.errors import UserError
from zerogen.runs.identity import prompted_key
from zerogen.runs.run import Outcome, Run, describe
from zerogen.support.files import append_line, exclusive
from zerogen.support.hashes import short_hash

if TYPE_CHECKING:
    from zerogen.plm.protocol import Writer

ANSWERERS = ("prompting", "tam")
_AGREE = 0.5  # F1 from which on two answers count as the same
_BLOCK = 512  # questions per line of the file of answers, the unit of resuming


def train_on_answers(
    run: Run, rows: Sequence[Example], outcome: Outcome, with_synthetic: Callable[[int], bool]
) -> None:
    """Train a fresh TAM in each round on what teachers answer to the unlabelled questions; keep the last one.

    rows: those that the TAM of `outcome` was trained on; with_synthetic: whether a round that learns from a number of
    questions trains on them, too.
    """
    settings, questions = run.config.self_training, run.unlabelled
    teachers: dict[str, Sequence[AnswerPrediction]] = {}
    if "prompting" in settings.teachers:
        teachers["prompting"], outcome.tokens["prompt"] = plm_answers(run, run.open_plm)
    if "tam" in settings.teachers:
        teachers["tam"] = _tam_answers(run, outcome)
    for number in range(1, settings.rounds + 1):
        answered = surest_answers(questions, list(teachers.values()), settings.share)
        if not answered:
            names = ", ".join(teachers)
            raise UserError(f"self_training.teachers: {names} answer none of {len(questions):,} questions alike")
        outcome.pseudo_labelled = answered
        more = rows if with_synthetic(len(answered)) else ()
        run.progress.say(
            f"round {number}: {len(answered):,} of {len(questions):,} unlabelled questions, answered by "
            f"{', '.join(teachers)}" + (f", and {len(more):,} synthetic rows" if more else "")
        )
        run.train([*answered, *more], outcome, f"round-{number}")
        learned = _tam_answers(run, outcome)
        agreements = {name: _agreement(learned, its) for name, its in teachers.items()}
        outcome.rounds.append(
            {"round": number, "unlabelled": len(answered), "synthetic": len(more)}
            | {"metrics": outcome.metrics, "agreement": agreements}
        )
        run.progress.say(describe(outcome))
        if "tam" in settings.teachers:
            teachers["tam"] = learned


def surest_answers(
    questions: Sequence[Example], teachers: Sequence[Sequence[AnswerPrediction]], share: float
) -> list[Example]:
    """Return a share of the questions with the answer of the last teacher: those that all teachers answer alike.

    Alike means an F1 of 0.5 or more with the answer of each. Of these, the last teacher is surest of the ones that are
    returned, in the order of the questions. An answer that does not stand in the passage cannot be learned.
    """
    *others, last = teachers
    alike = [
        place
        for place, answer in enumerate(last)
        if answer.text and answer.start >= 0 and all(f1(its[place].text, answer.text) >= _AGREE for its in others)
    ]
    best = sorted(alike, key=lambda place: -last[place].probability)[: round(share * len(questions))]
    return [
        replace(questions[place], label="question", answers=(Answer(last[place].text, last[place].start),))
        for place in sorted(best)
    ]


def plm_answers(run: Run, plm: Callable[[], Writer]) -> tuple[list[AnswerPrediction], int]:
    """Return what PROMPTING answers to the unlabelled questions, and how many tokens that took; stored, block by block.

    What is stored already is read, and its seconds count as those of this run.
    """
    from zerogen.plm.prompting import prompt_answers
    from zerogen.plm.protocol import used

    config, questions = run.config, run.unlabelled
    content = [prompted_key(config, run.device), config.task.answer_tokens, [row.content for row in questions]]
    folder = run.task_folder / f"unlabelled_{config.plm.name}_{short_hash(content)}"
    path = folder / "answers.jsonl"
    with exclusive(folder, run.progress):
        blocks = _stored(path, len(questions))
        for start in range(0, len(questions), _BLOCK):
            if start in blocks:
                continue
            writer = plm()
            begun, tokens = time.perf_counter(), writer.tokens
            block, name = questions[start : start + _BLOCK], f"unlabelled-{start:06d}"
            with used(writer) as usage:
                answers, _ = prompt_answers(writer, config.task, block, run.progress, name)
            blocks[start] = {
                "start": start,
                "answers": [asdict(answer) for answer in answers],
                "seconds": round(time.perf_counter() - begun, 3),
                "tokens": writer.tokens - tokens,
                "usage": usage,
            }
            append_line(json.dumps(blocks[start], ensure_ascii=False), path)
    for its in blocks.values():
        run.use("prompt", its.get("usage", {}))
    run.seconds["prompt"] = sum(block["seconds"] for block in blocks.values())
    answers = [AnswerPrediction(**one) for start in sorted(blocks) for one in blocks[start]["answers"]]
    return answers, sum(block["tokens"] for block in blocks.values())


def _stored(path: Path, questions: int) -> dict[int, dict[str, Any]]:
    """Read whole blocks by the place of their first question; those of damaged lines are asked again."""
    blocks: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            block = json.loads(line)
            answers = [AnswerPrediction(**one) for one in block["answers"]]
            if len(answers) == min(_BLOCK, questions - block["start"]):
                blocks[block["start"]] = {**block, "seconds": float(block["seconds"]), "tokens": int(block["tokens"])}
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return blocks


def _tam_answers(run: Run, outcome: Outcome) -> Sequence[AnswerPrediction]:
    """Return the answers of the outcome's TAM to the unlabelled questions."""
    assert outcome.tam is not None
    with run.stage("teach"):
        found = outcome.tam.predict(outcome.tam.inputs_of(run.unlabelled), progress=run.progress)
    return [one for one in found if isinstance(one, AnswerPrediction)]


def _agreement(answers: Sequence[AnswerPrediction], teacher: Sequence[AnswerPrediction]) -> float:
    """Return the share of questions that a TAM and a teacher answer alike."""
    alike = [f1(one.text, other.text) >= _AGREE for one, other in zip(answers, teacher, strict=True)]
    return sum(alike) / len(alike)
