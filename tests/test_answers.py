"""Answers are spans of their passages, and passages take turns."""

import random
from itertools import pairwise

import pytest

from zerogen.data.records import Answer, Example
from zerogen.errors import UserError
from zerogen.generation.answers import AnsweredContexts, rule_spans
from zerogen.generation.extractors import SpacySpans, _bare, chosen, extractor
from zerogen.support.progress import Progress

PASSAGE = (
    'On 3 March 1887 Anne Sullivan, who had read "The Story of My Life", came to the small town of Tuscumbia. '
    "Her teacher paid $25.50 a month. It was the 19th century; 40 percent of the children never saw a school."
)


def test_rules_find_dates_titles_numbers_names_and_noun_phrases() -> None:
    assert [answer.text for answer in rule_spans(PASSAGE)] == [
        "3 March 1887",
        "Anne Sullivan",
        "The Story of My Life",
        "small town",
        "Tuscumbia",
        "teacher paid",
        "$25.50",
        "month",
        "19th century",
        "40 percent",
        "children",
        "school",
    ]


def test_spans_stand_where_they_say_and_do_not_overlap() -> None:
    drawn = random.Random(0)
    pieces = [
        "The ",
        "Élan",
        " ",
        "3,5",
        "“q q”",
        '"',
        "\n",
        "’s",
        "U.S.",
        "中文",
        "a",
        "-",
        "July",
        "1999",
        ".",
        "\u202e",
        "New York",
    ]
    for _ in range(300):
        passage = "".join(drawn.choices(pieces, k=40))
        spans = rule_spans(passage)
        assert all(span.text and passage[span.start :].startswith(span.text) for span in spans)
        ends = [(span.start, span.start + len(span.text)) for span in spans]
        assert all(end <= start for (_, end), (start, _) in pairwise(ends))
        assert len({span.text.casefold() for span in spans}) == len(spans)


def test_passages_take_turns_and_begin_again() -> None:
    passages = [
        f"{name} met {other} in {1900 + i}."
        for i, (name, other) in enumerate([("Ann", "Bob"), ("Eve", "Dan"), ("Kim", "Lea")])
    ]
    stream = AnsweredContexts(passages, rule_spans, seed=1)
    pairs = stream.take(0, 9, Progress())
    assert sorted({passage for passage, _ in pairs[:3]}) == sorted(passages)
    assert (
        len({(passage, answer) for passage, answer in pairs}) == 6
    )  # two of each: a first word may only begin a sentence
    assert all(passage[answer.start :].startswith(answer.text) for passage, answer in pairs)
    again = AnsweredContexts(passages, rule_spans, seed=1)
    assert again.take(0, 4, Progress()) + again.take(4, 9, Progress()) == pairs  # whatever is asked for at a time
    assert AnsweredContexts(passages, rule_spans, seed=2).take(0, 9, Progress()) != pairs


def test_passages_are_searched_when_their_turn_comes() -> None:
    searched: list[str] = []

    def find(passage: str) -> list[Answer]:
        searched.append(passage)
        return [Answer(passage, 0)]

    AnsweredContexts([str(i) for i in range(100)], find, seed=1).take(0, 5, Progress())
    assert len(searched) == 5


def test_no_answer_anywhere_is_an_error() -> None:
    with pytest.raises(UserError, match="answers: none was found in 2 contexts"):
        AnsweredContexts(["nothing here", "or there"], rule_spans, seed=1).take(0, 5, Progress())


def test_gold_answers_are_those_of_the_passage() -> None:
    rows = [
        Example("1", "Who?", "question", "Ann met Bob.", answers=(Answer("Ann", 0), Answer("Ann met", 0))),
        Example("2", "Whom?", "question", "Ann met Bob.", answers=(Answer("Bob", 8),)),
        Example("3", "Why?", "question", "Ann met Bob.", answers=()),
    ]
    find = extractor("gold", rows)
    assert find("Ann met Bob.") == [Answer("Ann", 0), Answer("Bob", 8)]
    assert find("Nobody met.") == []


def test_spacy_is_an_error_where_it_is_missing_and_auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(
        UserError, match="answers=spacy: en_core_web_sm is not installed .*pip install spacy && python -m"
    ):
        extractor("spacy", [])
    monkeypatch.setattr("zerogen.generation.extractors.find_spec", lambda name: None)
    assert chosen("auto") == "rules"
    assert extractor("auto", []) is rule_spans
    monkeypatch.setattr("zerogen.generation.extractors.find_spec", lambda name: object())
    assert chosen("auto") == "spacy"


def test_rare_kinds_do_not_have_all_passages_searched() -> None:
    searched: list[str] = []

    def find(passage: str) -> list[Answer]:
        searched.append(passage)
        return [Answer(passage, 0)]

    shares = {"number": 1.0, "quoted": 1.0}  # of which there is none
    pairs = AnsweredContexts([str(i) for i in range(1000)], find, 1, shares).take(0, 30, Progress())
    assert len(set(pairs)) == 30
    assert len(searched) < 1000


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("the old museum.", "old museum"),
        ("U.S.", "U.S."),
        ("C++", "C++"),
        ("5€", "5€"),
        ("“Old Hall", "Old Hall"),
        ("[1990]", "1990"),
        ("Portugal's", "Portugal"),
        ("James'", "James"),
    ],
)
def test_spans_of_spacy_are_bared(text: str, bare: str) -> None:
    passage = f"See {text} there"
    assert _bare(passage, 4, 4 + len(text)) == Answer(bare, passage.index(bare))


def test_spacy_finds_entities_and_noun_phrases() -> None:
    if chosen("auto") != "spacy":
        pytest.skip("spaCy and its model en_core_web_sm are not installed")
    passage = "Anna Keller sold the old museum of the city to Portugal's king in 1990. She left."
    entities, phrases = (extractor("spacy", [], phrases) for phrases in (False, True))
    assert {answer.text for answer in entities(passage)} == {"Anna Keller", "Portugal's", "1990"} or {
        answer.text for answer in entities(passage)
    } == {"Anna Keller", "Portugal", "1990"}
    found = phrases(passage)
    assert {"Anna Keller", "old museum", "old museum of the city", "Portugal", "1990"} <= {one.text for one in found}
    assert all(passage[one.start :].startswith(one.text) for one in found)
    assert "She" not in {one.text for one in found}
    assert isinstance(phrases, SpacySpans)
    assert [phrases.label(passage, one) for one in found if one.text in ("Portugal", "old museum")] == ["", "GPE"]
