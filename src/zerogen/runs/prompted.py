"""What PROMPTING says of texts in all ways that a task asks: stored, since several runs and seeds need the same."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zerogen.config.schema import SettingConfig
from zerogen.config.task import priors_of
from zerogen.config.task_schema import TaskConfig
from zerogen.config.template import render
from zerogen.data.records import Example, Prediction
from zerogen.runs.identity import prompted_key
from zerogen.runs.run import Run
from zerogen.support.files import append_line, exclusive
from zerogen.support.hashes import short_hash

if TYPE_CHECKING:
    from zerogen.plm.protocol import LabelScorer, Scorer, Writer

ALL_PROMPTS = SettingConfig("prompting", prompts="all")
_SUREST = 0.1  # share of the texts from which demonstrations are drawn
_SHOWN_WORDS, _SHOWN, _SHOWN_IN_ALL = 50, 400, 6000  # words and characters of a text, characters of all
_BLOCK = 512  # texts per line of the file of predictions, the unit of resuming


@dataclass(frozen=True)
class _Block:
    """What PROMPTING says of some texts: probabilities [sets of prompts, texts, labels], and what that took."""

    probabilities: list[list[list[float]]]
    seconds: float
    tokens: int
    usage: dict[str, int] = field(default_factory=dict)


def prompted(
    run: Run, texts: Sequence[Example], plm: Callable[[], Writer], stage: str, what: str
) -> tuple[list[list[Prediction]], int]:
    """Return PROMPTING's predictions of texts by each set of prompts, and how many tokens were scored.

    With `scoring_demonstrations` those of the last set follow, after demonstrations that are drawn from the texts. All
    are stored block by block; what is there already is read, and its seconds count as those of this run, as those of a
    stage. what: asks for them, for errors.
    """
    from zerogen.plm.open import as_scorer
    from zerogen.plm.prompting import demonstrated, prompt_sets

    config, task = run.config, run.config.task
    name = short_hash([prompted_key(config, run.device), _BLOCK, [row.content for row in texts]])
    folder = run.task_folder / f"unlabelled_{config.plm.name}_{name}"
    asking = _Asking(run, stage, texts, lambda: as_scorer(plm(), config.plm, what))
    with exclusive(folder, run.progress):
        sets = asking.stored(
            folder / "prompting.jsonl",
            1 + len(task.further_scoring),
            "asking by all prompts",
            lambda scorer, rows: prompt_sets(scorer, task, rows, ALL_PROMPTS)[0],
        )
        number = config.scoring_demonstrations
        shown = demonstrations(task, texts, sets, ALL_PROMPTS, number) if number else []

        def ask_after(before: str) -> Callable[[Scorer, Sequence[Example]], list[list[Prediction]]]:
            return lambda scorer, rows: [demonstrated(scorer, task, rows, ALL_PROMPTS, before)[0]]

        for draw, before in enumerate(shown, 1):
            title = f"asking after demonstrations, {draw} of {len(shown)}"
            path = folder / f"demonstrated-{short_hash(before)}.jsonl"  # they depend on the priors, too
            sets += asking.stored(path, 1, title, ask_after(before))
    run.seconds[stage] = asking.seconds
    return sets, asking.tokens


@dataclass
class _Asking:
    """Asks a PLM about texts, and counts the seconds and tokens that it took, now or before."""

    run: Run
    stage: str
    texts: Sequence[Example]
    open: Callable[[], Scorer]
    seconds: float = 0.0
    tokens: int = 0

    def stored(
        self,
        path: Path,
        number: int,
        title: str,
        ask: Callable[[Scorer, Sequence[Example]], Sequence[Sequence[Prediction]]],
    ) -> list[list[Prediction]]:
        """Return a number of sets of predictions of the texts from a file, after asking for those that it lacks."""
        from zerogen.plm.protocol import used

        labels = self.run.config.task.labels
        blocks = _stored(path, len(self.texts), number, len(labels))
        missing = [start for start in range(0, len(self.texts), _BLOCK) if start not in blocks]
        if missing:
            scorer = self.open()
            with self.run.progress.bar(title, len(self.texts), "texts") as advance:
                advance(sum(len(block.probabilities[0]) for block in blocks.values()))
                for start in missing:
                    begun, tokens = time.perf_counter(), scorer.tokens
                    with used(scorer) as usage:
                        sets = ask(scorer, self.texts[start : start + _BLOCK])
                    probabilities = [[[one.probabilities[label] for label in labels] for one in its] for its in sets]
                    seconds = round(time.perf_counter() - begun, 3)
                    blocks[start] = _Block(probabilities, seconds, scorer.tokens - tokens, usage)
                    append_line(json.dumps({"start": start, **asdict(blocks[start])}), path)
                    advance(len(sets[0]))
        self.seconds += sum(block.seconds for block in blocks.values())
        self.tokens += sum(block.tokens for block in blocks.values())
        for block in blocks.values():
            self.run.use(self.stage, block.usage)
        return [
            [
                Prediction.of(dict(zip(labels, row, strict=True)))
                for start in sorted(blocks)
                for row in blocks[start].probabilities[place]
            ]
            for place in range(number)
        ]


def demonstrations(
    task: TaskConfig,
    rows: Sequence[Example],
    sets: Sequence[Sequence[Prediction]],
    setting: SettingConfig,
    number: int,
) -> list[str]:
    """Return a number of texts to stand before prompts: in each, a filled scoring prompt for every label.

    Universal self-adaptive prompting (Wan et al. 2023, https://arxiv.org/abs/2305.14926), reduced to what labels need:
    the row of a label is drawn from a tenth of its share of rows by the priors, those that it wins by most in the mean
    of all sets of predictions. Labels take turns in standing first. The draw is the same for every seed, and that of a
    larger number begins alike. Of a text the first 50 words are shown, of that and of its context 400 characters or,
    with more than 15 labels, fewer.
    """
    import numpy as np

    from zerogen.metrics.priors import log_scores
    from zerogen.metrics.pseudo_labels import combined
    from zerogen.plm.prompting import asked_prompts

    prompts, priors = asked_prompts(task, setting)[-1] or task.scoring, priors_of(task)
    scores = combined([log_scores(one, task.labels) for one in sets], priors)
    surest: list[list[int]] = []
    for place, prior in enumerate(priors):
        leads = scores[:, place] - np.delete(scores, place, axis=1).max(axis=1)
        order = np.argsort(-leads, kind="stable")
        won = max(1, int((leads > 0).sum()))  # even if it wins none
        surest.append(order[: min(won, max(1, round(prior * _SUREST * len(rows))))].tolist())
    most = min(_SHOWN, _SHOWN_IN_ALL // len(task.labels))
    found = []
    for draw in range(number):
        rng = random.Random(draw)
        drawn = [rows[rng.choice(places)] for places in surest]
        filled = [
            render(prompts[label], {"C": (row.context or "")[:most], "X": _first_words(row.text)[:most]}) + "\n\n"
            for label, row in zip(task.labels, drawn, strict=True)
        ]
        first = draw % len(filled)
        found.append("".join((*filled[first:], *filled[:first])))
    return found


def _first_words(text: str) -> str:
    words = text.split()
    return text if len(words) <= _SHOWN_WORDS else " ".join(words[:_SHOWN_WORDS])


def seconds_to_ask(
    scorer: Scorer | LabelScorer, task: TaskConfig, rows: Sequence[Example], setting: SettingConfig, number: int
) -> tuple[float, float]:
    """Return the seconds that PROMPTING takes for a text, and those after a number of demonstrations, timed on rows."""
    from zerogen.plm.prompting import demonstrated, prompt_sets
    from zerogen.plm.protocol import Scorer

    started = time.perf_counter()
    sets, _ = prompt_sets(scorer, task, rows, setting)
    asked = time.perf_counter()
    for before in demonstrations(task, rows, sets, setting, min(number, 1)):
        assert isinstance(scorer, Scorer)
        demonstrated(scorer, task, rows, setting, before)
    return (asked - started) / len(rows), number * (time.perf_counter() - asked) / len(rows)


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
                blocks[start] = _Block(by_set, float(fields["seconds"]), int(fields["tokens"]), fields.get("usage", {}))
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
