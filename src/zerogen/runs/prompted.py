"""What PROMPTING says of texts in all ways that a task asks: stored, since several runs and seeds need the same."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zerogen.config.schema import SettingConfig
from zerogen.config.task import priors_of
from zerogen.data.records import Example, Prediction
from zerogen.runs.identity import prompted_key
from zerogen.runs.run import Run
from zerogen.support.files import append_line, exclusive
from zerogen.support.hashes import short_hash

if TYPE_CHECKING:
    from zerogen.plm.protocol import Writer

ALL_PROMPTS = SettingConfig("prompting", prompts="all")
_BLOCK = 512  # texts per line of the file of predictions, the unit of resuming


@dataclass(frozen=True)
class _Block:
    """What PROMPTING says of some texts: probabilities [sets of prompts, texts, labels], and what that took."""

    probabilities: list[list[list[float]]]
    seconds: float
    tokens: int


def prompted(
    run: Run, texts: Sequence[Example], plm: Callable[[], Writer], stage: str, what: str
) -> tuple[list[list[Prediction]], int]:
    """Return PROMPTING's predictions of texts by each set of prompts, and how many tokens were scored.

    They are stored block by block; what is there already is read, and its seconds count as those of this run, as those
    of a stage. what: asks for them, for errors.
    """
    from zerogen.plm.open import as_scorer
    from zerogen.plm.prompting import prompt_sets

    config = run.config
    name = short_hash([prompted_key(config, run.device), _BLOCK, [row.content for row in texts]])
    folder = run.task_folder / f"unlabelled_{config.plm.name}_{name}"
    path = folder / "prompting.jsonl"
    with exclusive(folder, run.progress):
        labels, number = config.task.labels, 1 + len(config.task.further_scoring)
        stored = _stored(path, len(texts), number, len(labels))
        missing = [start for start in range(0, len(texts), _BLOCK) if start not in stored]
        if missing:
            scorer = as_scorer(plm(), config.plm, what)
            with run.progress.bar("asking by all prompts", len(texts), "texts") as advance:
                advance(sum(len(block.probabilities[0]) for block in stored.values()))
                for start in missing:
                    begun, tokens = time.perf_counter(), scorer.tokens
                    sets, _ = prompt_sets(scorer, config.task, texts[start : start + _BLOCK], ALL_PROMPTS)
                    stored[start] = _Block(
                        [
                            [[one.probabilities[label] for label in labels] for one in predictions]
                            for predictions in sets
                        ],
                        round(time.perf_counter() - begun, 3),
                        scorer.tokens - tokens,
                    )
                    append_line(json.dumps({"start": start, **asdict(stored[start])}), path)
                    advance(len(sets[0]))
    run.seconds[stage] = sum(block.seconds for block in stored.values())
    by_set = [
        [
            Prediction.of(dict(zip(labels, row, strict=True)))
            for start in sorted(stored)
            for row in stored[start].probabilities[place]
        ]
        for place in range(number)
    ]
    return by_set, sum(block.tokens for block in stored.values())


def _stored(path: Path, texts: int, sets: int, labels: int) -> dict[int, _Block]:
    """Read whole blocks by the place of their first text; those of damaged lines are scored again."""
    blocks: dict[int, _Block] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            fields = json.loads(line)
            start, by_set = fields["start"], fields["probabilities"]
            whole = len(by_set) == sets and all(len(rows) == min(_BLOCK, texts - start) for rows in by_set)
            shares = [row for rows in by_set for row in rows]
            if whole and all(len(row) == labels and all(0 <= share <= 1 for share in row) for row in shares):
                blocks[start] = _Block(by_set, float(fields["seconds"]), int(fields["tokens"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return blocks


def asked(run: Run, rows: Sequence[Example], plm: Callable[[], Writer]) -> dict[str, dict[str, float]]:
    """Return the score of each label for each row, by uid: what PROMPTING says in all ways, brought to one scale.

    Each way is shifted to the priors, as for self-training.
    """
    from zerogen.metrics.priors import log_scores
    from zerogen.metrics.pseudo_labels import combined

    labels = run.config.task.labels
    sets, _ = prompted(run, rows, plm, "ask", f"select={run.config.select}")
    scores = combined([log_scores(one, labels) for one in sets], priors_of(run.config.task))
    return {row.uid: dict(zip(labels, of_row, strict=True)) for row, of_row in zip(rows, scores.tolist(), strict=True)}
