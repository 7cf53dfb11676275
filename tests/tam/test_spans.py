"""The span reader: windows over a passage, and the span that is picked."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from zerogen.data.records import Answer, AnswerPrediction
from zerogen.tam.lstm import word_tokenizer
from zerogen.tam.spans import Window, best_spans, pick, windows_of
from zerogen.tam.tam import Tam, TamSpec


def word_reader(length: int) -> PreTrainedTokenizerFast:
    tokenizer = word_tokenizer(
        ["what is it was the word of number Rome " + " ".join(map(str, range(400)))], 1000, reading=True
    )
    tokenizer.model_max_length = length
    return tokenizer


def test_windows_cover_a_passage_and_hold_the_answer_at_its_place() -> None:
    passage = "".join(f"word {i}, " for i in range(300))
    answer = Answer("word 150", passage.index("word 150"))
    windows = windows_of(word_reader(64), ["what is it"], [passage], [answer], spelled=True)
    assert len(windows) > 10
    assert all(len(window.ids) <= 64 for window in windows)
    covered = {place for window in windows for place in window.offsets if place}
    assert all(any(first <= i < last for first, last in covered) for i in range(len(passage)) if passage[i].isalnum())
    holding = [window for window in windows if window.start]
    assert holding
    for window in holding:
        first, last = window.offsets[window.start], window.offsets[window.end]
        assert first is not None
        assert last is not None
        assert passage[first[0] : last[1]] == "word 150"
        assert window.words[window.start : window.end + 1] == ["word", "150"]
    for window in windows:
        places = [place for place in window.offsets if place]
        if places[0][0] <= answer.start and places[-1][1] >= answer.start + len(answer.text):
            assert window in holding


def test_a_long_question_leaves_room_for_the_passage() -> None:
    (window,) = windows_of(word_reader(32), ["what is it " * 40], ["the word"], spelled=True)
    assert len(window.ids) <= 32
    assert [word for word, place in zip(window.words, window.offsets, strict=True) if place] == ["the", "word"]


def test_windows_of_a_row_do_not_depend_on_the_others() -> None:
    passage = " ".join(f"word {i}" for i in range(300))
    rows = [("what is it", passage), ("what is it " * 10, passage), ("was it", "the word")]
    tokenizer = word_reader(64)
    questions, passages = zip(*rows, strict=True)
    whole = windows_of(tokenizer, questions, passages)
    assert [window.row for window in whole] == sorted(window.row for window in whole)
    for row, (question, text) in enumerate(rows):
        alone = windows_of(tokenizer, [question], [text])
        assert [replace(window, row=0) for window in whole if window.row == row] == alone


def test_the_best_span_among_windows() -> None:
    candidates = [(1.0, 0, 2), (3.0, 4, 6), (3.0, 4, 6), (2.0, 0, 2)]
    span = pick(candidates, None, "ab cdef")
    assert (span.text, span.start) == ("de", 4)
    assert span.probability == pytest.approx(1 / (1 + torch.tensor(-1.0).exp().item()))  # equal ones count once
    assert pick(candidates, 5.0, "ab cdef").text == ""
    assert pick([], None, "") == AnswerPrediction("", -1, 1.0)


@pytest.mark.parametrize(("length", "asked", "shared"), [(384, 3, 128), (384, 300, 96), (40, 3, 18)])
def test_windows_share_tokens(length: int, asked: int, shared: int) -> None:
    """128 of 384, as in the paper; less beside a long question or in small windows."""
    passage = " ".join(map(str, range(400)))
    windows = windows_of(word_reader(length), ["what is it " * (asked // 3)], [passage])
    for one, two in pairwise(windows):
        places = [place for place in one.offsets if place]
        assert len(places) - places.index(next(place for place in two.offsets if place)) == shared
    assert len(windows) > 1


@pytest.mark.parametrize("text", ["Rome", " Rome", "Rome ", "\u200bRome", " Rome "])
def test_what_a_tokenizer_drops_at_the_edge_of_an_answer_does_not_hide_it(text: str) -> None:
    passage = "it was \u200bRome of the word" if "\u200b" in text else "it was Rome of the word"
    (window,) = windows_of(word_reader(64), ["what"], [passage], [Answer(text, passage.index(text))], spelled=True)
    assert window.words[window.start : window.end + 1] == ["Rome"]


@pytest.mark.parametrize("edge", [0, -1])
def test_an_answer_at_the_edge_of_its_passage_is_whole(edge: int) -> None:
    passage = "  " + " ".join(map(str, range(100))) + "  "
    answer = (Answer("  0 1", 0), Answer("98 99  ", passage.index("98 99")))[edge]
    windows = windows_of(word_reader(40), ["what"], [passage], [answer], spelled=True)
    assert [window.start > 0 for window in windows] == [window is windows[edge] for window in windows]
    found = windows[edge]
    assert " ".join(found.words[found.start : found.end + 1]) == answer.text.strip()


def test_a_window_that_cuts_the_answer_has_none() -> None:
    passage = " ".join(map(str, range(100)))
    for first in range(0, 90, 7):
        answer = Answer(text := " ".join(map(str, range(first, first + 10))), passage.index(text))
        for window in windows_of(word_reader(24), ["what"], [passage], [answer], spelled=True):
            words = [word for word, place in zip(window.words, window.offsets, strict=True) if place]
            whole = str(first) in words and str(first + 9) in words
            assert (window.start > 0) == whole
            if whole:
                assert " ".join(window.words[window.start : window.end + 1]) == text


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_spans_are_those_of_all_pairs(longest: int) -> None:
    """Of 50 tokens, 20 starts and ends count, none of the question, none backwards, none too long."""
    size, question = 50, 6
    offsets: list[tuple[int, int] | None] = [(3 * i, 3 * i + 2) for i in range(size)]
    offsets[:question] = [None] * question
    window = Window(0, list(range(size)), [0] * size, offsets, [])
    random = torch.Generator().manual_seed(longest)
    starts, ends = torch.randn(2, size + 7, generator=random)  # some padding, never to be read
    starts[1:question] = ends[1:question] = -torch.inf
    starts[size:] = ends[size:] = 99.0
    found, none = best_spans(starts, ends, window, longest)
    top = [{int(i) for i in sorted(range(size), key=lambda i: -side[i])[:20]} for side in (starts, ends)]
    expected = {
        (3 * i, 3 * j + 2): float(starts[i] + ends[j])
        for i in range(question, size)
        for j in range(i, min(size, i + longest))
        if i in top[0] and j in top[1]
    }
    assert {(first, last): score for score, first, last in found} == pytest.approx(expected)
    assert none == pytest.approx(float(starts[0] + ends[0]))


@pytest.mark.parametrize(("scores", "answer"), [((9.0, 1.0), "word"), ((9.0, 9.0), "")])
def test_no_answer_must_win_in_every_window(scores: tuple[float, float], answer: str) -> None:
    """The score of no answer is its lowest among the windows."""
    tokenizer = word_reader(24)

    class Reader(torch.nn.Module):
        device = torch.device("cpu")
        config = type("Config", (), {})
        calls = 0

        def forward(self, input_ids: torch.Tensor, **_: object) -> object:
            logits = (input_ids == tokenizer.convert_tokens_to_ids("word")).float() * 2
            # The word stands in the second window only.
            logits[:, 0] = torch.where((logits > 0).any(1), scores[1] / 2, scores[0] / 2)
            return type("Outputs", (), {"start_logits": logits, "end_logits": logits})

    tam = Tam(Reader(), tokenizer, [], TamSpec("qa", ["text", "context"], "float32", 5, none=True))
    (span,) = tam.predict([("what", " ".join(map(str, range(25))) + " word 7")])
    assert span.text == answer


def test_a_score_that_is_nan_is_an_error() -> None:
    tokenizer = word_reader(24)

    class Reader(torch.nn.Module):
        device = torch.device("cpu")
        config = type("Config", (), {})

        def forward(self, input_ids: torch.Tensor, **_: object) -> object:
            logits = torch.where(input_ids > 5, math.nan, 0.0)
            return type("Outputs", (), {"start_logits": logits, "end_logits": logits})

    tam = Tam(Reader(), tokenizer, [], TamSpec("qa", ["text", "context"], "float32"))
    with pytest.raises(FloatingPointError, match="NaN"):
        tam.predict([("what", "the word of 7")])
