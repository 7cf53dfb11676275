from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerogen.config.schema import FilterConfig
from zerogen.config.task_schema import ParseConfig
from zerogen.data.records import Answer, Continuation, Example
from zerogen.generation.filters import Filter, Memory, key, parse


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


class Reference:
    """What a filter decides of repetitions, with dictionaries of whole texts."""

    def __init__(self, duplicates: bool, paired: bool, per_answer: int) -> None:
        self.duplicates, self.paired, self.per_answer = duplicates, paired, per_answer
        self.labels: dict[tuple[str, str], tuple[str, ...]] = {}
        self.asked = Counter[tuple[str | None, Answer]]()

    def key(self, row: Example) -> tuple[str, str]:
        return key(row.context or "") if self.paired else "", key(row.text)

    def reason(self, row: Example) -> str | None:
        meaning = (row.label, *(answer.text for answer in row.answers))
        if not self.duplicates and self.key(row) in self.labels:
            return "duplicate" if self.labels[self.key(row)] == meaning else "label_conflict"
        questions = [(row.context, answer) for answer in row.answers if row.way != "plm"]
        if any(self.asked[question] >= self.per_answer for question in questions):
            return "asked_before"
        self.labels[self.key(row)] = meaning
        self.asked.update(questions)
        return None

    def forget(self, row: Example) -> None:
        self.labels.pop(self.key(row), None)
        if row.way != "plm":
            self.asked.subtract((row.context, answer) for answer in row.answers)


ANSWERS = [(), (Answer("one", 0),), (Answer("two", 4), Answer("one", 0)), (Answer("one", 8),)]
EXAMPLES = st.builds(
    Example,
    uid=st.just("u"),
    text=st.sampled_from(["a b c d", "A  b c D", "a b c\ud800 d", "a b c d e", "a\nb c d", "a\x00b c d e"]),
    label=st.sampled_from(["good", "bad", "good\x00", "'"]),
    context=st.sampled_from([None, "", "the context", "The  context", "a"]),
    answers=st.sampled_from(ANSWERS),
    way=st.sampled_from(["plm", "template"]),
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(EXAMPLES, st.booleans()), max_size=40),
    st.lists(EXAMPLES, max_size=5),
    st.booleans(),
    st.booleans(),
    st.integers(1, 2),
)
def test_repetitions_are_told_as_if_whole_texts_were_remembered(
    rows: list[tuple[Example, bool]], earlier: list[Example], duplicates: bool, paired: bool, per_answer: int
) -> None:
    reference = Reference(duplicates, paired, per_answer)
    for one in earlier:
        reference.labels[reference.key(one)] = (one.label, *(answer.text for answer in one.answers))
        reference.asked.update((one.context, answer) for answer in one.answers if one.way != "plm")
    config = FilterConfig(min_words=1, duplicates=duplicates)
    filters = Filter(config, earlier, paired=paired, per_answer=per_answer)
    for one, forgotten in rows:
        expected = reference.reason(one)
        assert filters.reason(one) == expected
        if forgotten and expected is None:
            reference.forget(one)
            filters.forget(one)


def test_what_is_remembered_stands_in_no_folder_and_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    memory = Memory()
    memory.database.execute("PRAGMA cache_size = 10")  # pages
    keys = [number.to_bytes(16, "little") for number in range(20_000)]
    for number in keys:
        memory.remember(number, number)
    assert not list(tmp_path.iterdir())
    assert all(memory.meaning(number) == number for number in keys)
    assert memory.meaning(b"another") is None
