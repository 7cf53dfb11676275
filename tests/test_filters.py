import pytest

from zerogen.config import FilterConfig, ParseConfig
from zerogen.filters import Filter, parse
from zerogen.records import Continuation, Example


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


def test_a_rejected_text_is_not_remembered() -> None:
    filters = Filter(FilterConfig(min_words=3))
    assert filters.reason(row("two words")) == "too_short"
    assert filters.labels == {}


@pytest.mark.parametrize(
    ("text", "finish", "fallback", "expected"),
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
def test_parse(text: str, finish: str, fallback: str, expected: tuple[str, str | None]) -> None:
    found = parse(Continuation(text, finish, 5, -1.0), ParseConfig(fallback=fallback))
    assert found == expected
