"""The head that answers questions: windows over long passages, and the best span among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zerogen.data.records import Answer, AnswerPrediction, Example, Input
from zerogen.tam.batches import by_length, inputs_of, reads_types, refuse_nan

if TYPE_CHECKING:
    from zerogen.config.task_schema import TaskConfig
    from zerogen.support.progress import Advance
    from zerogen.tam.table import Head
    from zerogen.tam.tam import Tam

STRIDE = 128  # tokens that neighbouring windows share
WORD_LENGTH = 16  # characters of a word that are read, where they are
_BEST = 20  # starts and ends of a window that are combined


@dataclass(frozen=True, slots=True)
class Window:
    """A question and a part of its passage, as token ids.

    row: which question. offsets: characters (start, end) of each token in the passage, None for one that is not of it;
    the first token stands for no answer. words: text of the tokens, empty where the model does not spell them. start,
    end: first and last token of the answer. weight: of the question's row in the training loss.
    """

    row: int
    ids: list[int]
    types: list[int]
    offsets: list[tuple[int, int] | None]
    words: list[str]
    start: int = 0
    end: int = 0
    weight: float = 1.0


def windows_of(
    tokenizer: Any,
    questions: Sequence[str],
    passages: Sequence[str],
    answers: Sequence[Answer | None] = (),
    spelled: bool = False,
) -> list[Window]:
    """Cut each passage into windows that fit the tokenizer's maximum beside the question.

    Neighbouring windows share STRIDE tokens, or half of what the question leaves for the passage where that is less. A
    question takes at most half of a window. answers: one per row, to learn from; a window that does not hold all of it
    has none. spelled: whether windows have `words`. A row whose passage has no token has one window all the same.
    """
    if not questions:
        return []
    longest = tokenizer.model_max_length
    special = tokenizer.num_special_tokens_to_add(pair=True)
    most = max(1, longest // 2 - special)
    asked = tokenizer(
        list(questions), add_special_tokens=False, return_offsets_mapping=True, truncation=True, max_length=longest
    )["offset_mapping"]
    questions = [
        question if len(places) <= most else question[: places[most - 1][1]]
        for question, places in zip(questions, asked, strict=True)
    ]
    by_stride: dict[int, list[int]] = {}
    for row, places in enumerate(asked):
        room = longest - special - min(most, len(places))
        by_stride.setdefault(min(STRIDE, room // 2), []).append(row)
    made: list[Window] = []
    for stride, members in by_stride.items():
        encoded = tokenizer(
            [questions[row] for row in members],
            [passages[row] for row in members],
            truncation="only_second",
            max_length=longest,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )
        rows = [members[place] for place in encoded["overflow_to_sample_mapping"]]
        for i, row in enumerate(rows):
            offsets, sequence = encoded["offset_mapping"][i], encoded.sequence_ids(i)
            places = [tuple(place) if of == 1 else None for place, of in zip(offsets, sequence, strict=True)]
            words: list[str] = []
            if spelled:
                texts = {None: "", 0: questions[row], 1: passages[row]}
                words = [texts[of][first:last] for (first, last), of in zip(offsets, sequence, strict=True)]
            answer = answers[row] if answers else None
            start, end = 0, 0
            if answer is not None:
                open_left, open_right = rows[i - 1 : i] != [row], rows[i + 1 : i + 2] != [row]
                start, end = _tokens_of(answer, places, open_left, open_right)
            made.append(Window(row, encoded["input_ids"][i], encoded["token_type_ids"][i], places, words, start, end))
    return sorted(made, key=lambda window: window.row)


def _tokens_of(answer: Answer, places: Sequence[tuple[int, int] | None], begins: bool, ends: bool) -> tuple[int, int]:
    """Return the first and the last token of an answer; (0, 0) where not all of it is in the window.

    begins, ends: whether the window is the first or the last one of its passage. White space, and what else a tokenizer
    drops at the edges of an answer, need not be covered.
    """
    first, last = answer.start, answer.start + len(answer.text)
    inside = [i for i, place in enumerate(places) if place is not None]
    touched = [i for i in inside if places[i][0] < last and places[i][1] > first]  # type: ignore[index]
    if not touched:
        return 0, 0
    start, end = touched[0], touched[-1]
    # Only at the edge of a window that was cut there may a part of the answer be missing.
    cut_left = start == inside[0] and not begins and places[start][0] > first  # type: ignore[index]
    cut_right = end == inside[-1] and not ends and places[end][1] < last  # type: ignore[index]
    return (0, 0) if cut_left or cut_right else (start, end)


def collate_windows(
    windows: Sequence[Window], pad: int, types: bool, characters: dict[str, int] | None
) -> dict[str, Tensor]:
    """Pad windows to input_ids, attention_mask and inside [B, T], and starts, ends and weights [B].

    types: whether the model wants token_type_ids [B, T]. inside: where an answer may begin or end, see
    `span_logits`. characters: of a model that spells its words, which then gets characters [B, T, WORD_LENGTH].
    """
    width = max(len(window.ids) for window in windows)

    def padded(rows: Sequence[list[Any]], filler: Any) -> Tensor:
        return torch.tensor([row + [filler] * (width - len(row)) for row in rows])

    batch = {
        "input_ids": padded([window.ids for window in windows], pad),
        "attention_mask": padded([[1] * len(window.ids) for window in windows], 0),
        "inside": padded([[True, *(place is not None for place in window.offsets[1:])] for window in windows], False),
        "starts": torch.tensor([window.start for window in windows]),
        "ends": torch.tensor([window.end for window in windows]),
        "weights": torch.tensor([window.weight for window in windows], dtype=torch.float32),
    }
    if types:
        batch["token_type_ids"] = padded([window.types for window in windows], 0)
    if characters is not None:
        batch["characters"] = padded([character_ids(window.words, characters) for window in windows], [0] * WORD_LENGTH)
    return batch


def character_ids(words: Sequence[str], known: dict[str, int]) -> list[list[int]]:
    """Return WORD_LENGTH ids for each word: 0 is padding, 1 an unknown character, 2 and more are `known`."""
    return [
        [known.get(one, 1) for one in word[:WORD_LENGTH]] + [0] * (WORD_LENGTH - len(word[:WORD_LENGTH]))
        for word in words
    ]


def span_logits(outputs: Any, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 start and end logits [B, T], -inf where an answer can neither begin nor end.

    inside: bool [B, T], true for tokens of the passage and for the first token, which stands for no answer.
    """
    found = outputs.start_logits.float(), outputs.end_logits.float()
    return found[0].masked_fill(~inside, -torch.inf), found[1].masked_fill(~inside, -torch.inf)


def best_spans(
    starts: Tensor, ends: Tensor, window: Window, longest: int
) -> tuple[list[tuple[float, int, int]], float]:
    """Return the candidates (score, first character, last character) of a window, and the score of no answer.

    starts, ends: logits [T] of the window's tokens, -inf where an answer can neither begin nor end. Of the 20 best
    starts and ends, those pairs count that are in order and at most `longest` tokens long.
    """
    starts, ends = starts[: len(window.ids)], ends[: len(window.ids)]  # without padding
    none = float(starts[0] + ends[0])
    found = []
    count = min(_BEST, len(starts))
    best_ends = ends.topk(count).indices.tolist()
    for start in starts.topk(count).indices.tolist():
        for end in best_ends:
            if not start or not end or end < start or end - start >= longest:
                continue
            first, last = window.offsets[start], window.offsets[end]
            if first is None or last is None:
                continue
            found.append((float(starts[start] + ends[end]), first[0], last[1]))
    return found, none


def pick(candidates: Sequence[tuple[float, int, int]], none: float | None, passage: str) -> AnswerPrediction:
    """Return the span with the highest score among all windows of a passage, with its share of the softmax.

    none: score of no answer, which wins where it is higher; None where there always is one.
    """
    by_place: dict[tuple[int, int], float] = {}
    for score, first, last in candidates:  # two windows may hold the same span
        by_place[first, last] = max(score, by_place.get((first, last), -math.inf))
    scores = [*by_place.values(), *([] if none is None else [none])]
    if not scores:
        return AnswerPrediction("", -1, 1.0)
    top = max(scores)
    total = sum(math.exp(score - top) for score in scores)
    if (none is not None and none == top) or not by_place:
        return AnswerPrediction("", -1, 1 / total)
    (first, last), _ = max(by_place.items(), key=lambda item: item[1])
    return AnswerPrediction(passage[first:last], first, 1 / total)


def spells(model: Any) -> bool:
    """Tell whether a model reads the characters of words."""
    return hasattr(model.config, "characters")


class SpanHead:
    """Points at the first and the last token of an answer; see `zerogen.tam.table.Head`."""

    pair = True
    spans = True
    unit = "windows"
    auto_model = "AutoModelForQuestionAnswering"

    def config(self, labels: Sequence[str]) -> dict[str, Any]:
        return {}

    def labels(self, config: Any) -> list[str]:
        return []

    def unanswered(self, rows: Sequence[Example]) -> bool:
        return any(not row.answers for row in rows)

    def items(self, rows: Sequence[Example], task: TaskConfig, model: Any, tokenizer: Any) -> list[Window]:
        answers = [row.answers[0] if row.answers else None for row in rows]
        windows = _windows(inputs_of(rows, self.pair), model, tokenizer, answers)
        return [replace(window, weight=rows[window.row].weight) for window in windows]

    def collate(self, items: Sequence[Window], model: Any, tokenizer: Any) -> dict[str, Tensor]:
        characters = {one: i + 2 for i, one in enumerate(model.config.characters)} if spells(model) else None
        return collate_windows(items, tokenizer.pad_token_id, reads_types(tokenizer), characters)

    def outputs(self, model: Any, batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        ours = ("starts", "ends", "inside", "weights")
        inputs = {name: tensor for name, tensor in batch.items() if name not in ours}
        starts, ends = span_logits(model(**inputs), batch["inside"])
        return [(starts, batch["starts"]), (ends, batch["ends"])]

    def predict(self, tam: Tam, inputs: Sequence[Input], batch_size: int, advance: Advance) -> list[AnswerPrediction]:
        windows = _windows(inputs, tam.model, tam.tokenizer)
        candidates: list[list[tuple[float, int, int]]] = [[] for _ in inputs]
        none = [float("inf")] * len(inputs)
        left = [0] * len(inputs)
        for window in windows:
            left[window.row] += 1
        for batch in by_length([len(window.ids) for window in windows], batch_size):
            (starts, _), (ends, _) = tam.outputs([windows[i] for i in batch])
            refuse_nan(starts + ends)
            for i, first, last in zip(batch, starts.cpu(), ends.cpu(), strict=True):
                row = windows[i].row
                spans, no_answer = best_spans(first, last, windows[i], tam.spec.answer_tokens)
                candidates[row] += spans
                none[row] = min(none[row], no_answer)
                left[row] -= 1
                advance(int(not left[row]))
        return [
            pick(candidates[row], none[row] if tam.spec.none else None, one[1])  # the passage
            for row, one in enumerate(inputs)
        ]


def _windows(
    inputs: Sequence[Input], model: Any, tokenizer: Any, answers: Sequence[Answer | None] = ()
) -> list[Window]:
    questions, passages = [one[0] for one in inputs], [one[1] for one in inputs]
    return windows_of(tokenizer, questions, passages, answers, spells(model))


SPANS: Head = SpanHead()
