from dataclasses import replace

import pytest

from zerogen.config.schema import FilterConfig
from zerogen.config.task_schema import ParseConfig
from zerogen.data.records import Answer, Continuation, Example
from zerogen.generation.filters import Filter, parse


def row(text: str, label: str = "good", context: str | None = None) -> Example:
    return Example("u", text, label, context)


def test_of_equal_texts_the_first_stays() -> None:
    filters = Filter(FilterConfig(min_words=1))
    assert filters.reason(row("A fine film")) is None
    assert filters.reason(row("a  FINE film")) == "duplicate"
    assert filters.reason(row("A fine film", "bad")) == "label_conflict"


def test_rows_accepted_earlier_count_too() -> None:
    filters = Filter(FilterConfig(min_words=1), [row("A fine film")])
    assert filters.reason(row("A fine film", "bad")) == "label_conflict"


def test_duplicates_can_be_kept() -> None:
    filters = Filter(FilterConfig(min_words=1, duplicates=True))
    assert [filters.reason(row("A fine film")) for _ in range(2)] == [None, None]


def test_word_bounds_and_copies() -> None:
    filters = Filter(FilterConfig(min_words=3, max_words=4))
    assert filters.reason(row("two words")) == "too_short"
    assert filters.reason(row("one two three four five")) == "too_long"
    assert filters.reason(row("The  Long Night", context="the long night")) == "copies_context"
    assert filters.reason(row("three words here")) is None


def test_a_character_is_a_word_where_a_script_has_no_spaces() -> None:
    filters = Filter(FilterConfig(min_words=5, max_words=9))
    assert filters.reason(row("这部电影很好看。")) is None
    assert filters.reason(row("很好看！！！")) == "too_short"
    assert filters.reason(row("这部电影的故事很感人")) == "too_long"
    assert filters.reason(row("我用 Python 写代码")) is None


def test_a_question_in_characters_must_not_hold_its_answer() -> None:
    asked = Example("u", "北京是哪个国家的首都？", "question", "passage", answers=(Answer("北京", 0),))
    assert Filter(FilterConfig()).reason(asked) == "holds_answer"


def test_a_rejected_text_is_not_remembered() -> None:
    filters = Filter(FilterConfig(min_words=3))
    assert filters.reason(row("two words")) == "too_short"
    assert filters.memory.meaning(filters._key(row("two words"))) is None


@pytest.mark.parametrize(
    ("text", "finish_reason", "fallback", "expected"),
    [
        (" a  text\nhere ", "stop", "none", ("a text here", None)),
        ("", "stop", "none", ("", "empty")),
        (" \n", "stop", "none", ("", "empty")),
        ("cut off", "length", "none", ("cut off", "unfinished")),
        ("cut off", "eos", "none", ("cut off", "unfinished")),
        ("First line\nsecond. third", "length", "sentence", ("First line", None)),
        ("One. Two is cut", "length", "sentence", ("One.", None)),
        ("no end", "eos", "sentence", ("no end", "unfinished")),
        ("", "eos", "none", ("", "empty")),
    ],
)
def test_parse(text: str, finish_reason: str, fallback: str, expected: tuple[str, str | None]) -> None:
    found = parse(Continuation(text, finish_reason, 5, -1.0), ParseConfig(fallback=fallback))
    assert found == expected


def test_a_text_that_ends_otherwise_is_rejected() -> None:
    rule = ParseConfig(must_end="?")
    assert parse(Continuation("Who was it?", "stop", 5, -1.0), rule) == ("Who was it?", None)
    assert parse(Continuation("It was he", "stop", 5, -1.0), rule) == ("It was he", "wrong_end")
    assert parse(Continuation("It was", "length", 5, -1.0), rule) == ("It was", "unfinished")


def test_a_question_must_not_hold_its_answer() -> None:
    filters = Filter(FilterConfig())
    asked = Example("u", "Who was Ann Lee's friend in 1900?", "question", "passage", answers=(Answer("ann lee", 0),))
    assert filters.reason(asked) == "holds_answer"
    assert filters.reason(replace(asked, answers=(Answer("19", 0),))) is None  # no whole word
    assert filters.reason(replace(asked, text="Who?", answers=(Answer("(A+", 0),))) is None


def test_equal_questions_about_other_passages_stay() -> None:
    filters = Filter(FilterConfig(), paired=True)
    asked = Example("u", "Who was it?", "question", "one passage", answers=(Answer("one", 0),))
    assert filters.reason(asked) is None
    assert filters.reason(replace(asked, context="another passage")) is None
    assert filters.reason(asked) == "duplicate"
    assert filters.reason(replace(asked, answers=(Answer("passage", 4),))) == "label_conflict"


def test_the_task_says_how_many_words_if_the_filter_does_not() -> None:
    assert Filter(FilterConfig(), min_words=4).reason(row("three words here")) == "too_short"
    assert Filter(FilterConfig(min_words=2), min_words=4).reason(row("three words here")) is None
