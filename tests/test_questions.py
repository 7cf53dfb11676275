"""Sentences end where they end, and questions by template ask for their answer in the words of its clause."""

import random

import pytest

from zerogen.data.records import Answer
from zerogen.generation.answers import ANSWER_KINDS, answer_kind, rule_spans
from zerogen.generation.english import base_form, content_words, is_english, is_past, sentences
from zerogen.generation.questions import sentence_of, template_question, varied

PASSAGE = (
    "In 1889 Gustave Eiffel opened the tower on the Champ de Mars. It cost 7.8 million francs, and U.S. engineers came "
    'to see it. "Nobody believed it," wrote Dr. Smith in the Tribune.[3] The tower has 1,665 steps.'
)


def test_sentences_end_before_capitals_but_not_after_abbreviations() -> None:
    assert [PASSAGE[start:stop] for start, stop in sentences(PASSAGE)] == [
        "In 1889 Gustave Eiffel opened the tower on the Champ de Mars.",
        "It cost 7.8 million francs, and U.S. engineers came to see it.",
        '"Nobody believed it," wrote Dr. Smith in the Tribune.[3]',
        "The tower has 1,665 steps.",
    ]
    assert sentences("") == sentences(" \n ") == []
    assert [(start, stop) for start, stop in sentences("one\n two ")] == [(0, 3), (5, 8)]


def test_sentences_cover_a_text_in_order() -> None:
    drawn = random.Random(0)
    pieces = ["A b", ". ", "? ", "\n", " c", "Dr. ", '." ', "é", "1", "...", "中文。"]
    for _ in range(300):
        text = "".join(drawn.choices(pieces, k=30))
        spans = sentences(text)
        rest = text
        for start, stop in reversed(spans):
            assert text[start:stop].strip() == text[start:stop] != ""
            rest = rest[:start] + rest[stop:]
        assert not rest.strip()
        assert spans == sorted(spans)


def test_english_is_told_from_other_languages() -> None:
    assert is_english([PASSAGE])
    assert not is_english(["Im Jahr 1889 eröffnete Gustave Eiffel den Turm auf dem Marsfeld, der heute allen gefällt."])
    assert not is_english(["En 1889, Gustave Eiffel inaugure la tour sur le Champ-de-Mars, qui plaît à tous."])
    assert not is_english(["1889年、ギュスターヴ・エッフェルが塔を開いた。"])
    assert not is_english([""])
    assert content_words("The tower, of which it is a part.") == ["tower", "part"]


@pytest.mark.parametrize(
    ("past", "base"),
    [
        ("moved", "move"),
        ("opened", "open"),
        ("created", "create"),
        ("defeated", "defeat"),
        ("stopped", "stop"),
        ("called", "call"),
        ("tried", "try"),
        ("changed", "change"),
        ("belonged", "belong"),
        ("defined", "define"),
        ("joined", "join"),
        ("wrote", "write"),
        ("led", "lead"),
    ],
)
def test_verbs_have_their_infinitive(past: str, base: str) -> None:
    assert is_past(past)
    assert base_form(past) == base


def asked(passage: str, answer: str) -> str | None:
    return template_question(passage, Answer(answer, passage.index(answer)))


@pytest.mark.parametrize(
    ("sentence", "answer", "question"),
    [
        ("The army defeated the Franks in 1204.", "1204", "In what year did the army defeat the Franks?"),
        ("The army defeated the Franks in 1204.", "Franks", "What did the army defeat in 1204?"),
        ("The army defeated the Franks in 1204.", "army", "What defeated the Franks in 1204?"),
        ("The mayor opened the bridge on 3 March 1887.", "3 March 1887", "When did the mayor open the bridge?"),
        ("King Henry signed the treaty at the castle.", "King Henry", "Who signed the treaty at the castle?"),
        ("The treaty was signed in Paris by both sides.", "Paris", "Where was the treaty signed by both sides?"),
        ("The museum owns 4,000 paintings by us.", "4,000", "How many paintings by us the museum owns?"),
        ("The plan cost $25 million in all.", "$25 million", "How much money did the plan cost in all?"),
        ("The vote was won by 60% of the members.", "60%", "What percentage was the vote won by of the members?"),
        ("In the spring, the council rejected the plan.", "plan", "What did the council reject in the spring?"),
        ("The team won 7 games in May.", "7 games", "How many games did the team win in May?"),
        ("Caesar was killed in 44 BC in Rome.", "44", "In what year was Caesar killed BC in Rome?"),
        ("The masons modelled the tower in May.", "tower", "What did the masons model in May?"),
        ("Anna Keller lives near the old tower.", "Anna Keller", "What lives near the old tower?"),
        ("The court heard Anna Keller's case in May.", "Anna Keller", "Whose case did the court hear in May?"),
        ("The hall (built by Anna Keller) burned down.", "Anna Keller", "Who burned down the hall built by?"),
        ("He sang the \"Song of the Sea\" in Rome.", "Sea", "What did he sing the Song of in Rome?"),
    ],
)  # fmt: skip
def test_a_question_asks_for_its_answer(sentence: str, answer: str, question: str) -> None:
    assert asked(sentence, answer) == question


@pytest.mark.parametrize(
    ("sentence", "answer", "label", "question"),
    [
        ("Keller opened the museum in May.", "Keller", "PERSON", "Who opened the museum in May?"),
        ("The Franks fled from the city.", "Franks", "NORP", "Who fled from the city?"),
        ("The Frankish army fled from the city.", "Frankish", "NORP", "Which army fled from the city?"),
        ("The king died near the Tagus in May.", "Tagus", "LOC", "Where did the king die in May?"),
        ("Portugal sent two ships in May.", "Portugal", "GPE", "What sent two ships in May?"),
        ("The king died in the early spring of 1990.", "early spring of 1990", "DATE", "When did the king die?"),
        ("The train left Rome at 5 p.m. on Sunday.", "5 p.m", "TIME", "When did the train leave Rome on Sunday?"),
        ("Anna Keller lives near the old tower.", "Anna Keller", "PERSON", "Who lives near the old tower?"),
        ("The king ruled for two years in Lisbon.", "two years", "DATE", "What did the king rule for in Lisbon?"),
        ("The city sold twelve ships to Spain.", "twelve", "CARDINAL", "How many ships did the city sell to Spain?"),
    ],
)  # fmt: skip
def test_the_labels_of_spacy_choose_the_question_word(sentence: str, answer: str, label: str, question: str) -> None:
    assert template_question(sentence, Answer(answer, sentence.index(answer)), label) == question


def test_no_question_without_words_to_ask_with() -> None:
    assert asked("It is there.", "there") is None
    assert template_question("One ends. Two begins.", Answer("ends. Two", 4)) is None  # across two sentences
    assert sentence_of("One ends. Two begins.", Answer("ends. Two", 4)) is None
    assert template_question("Stockholm", Answer("Stockholm", 0)) is None


def test_any_passage_gives_questions_or_none() -> None:
    drawn = random.Random(1)
    pieces = [
        "The ",
        "army ",
        "(",
        ") ",
        "moved ",
        ", ",
        "in 1204",
        ". ",
        '"',
        "Élan ",
        "’s ",
        "[1]",
        "\n",
        "of ",
        "$5 ",
        "中",
    ]
    for _ in range(300):
        passage = "".join(drawn.choices(pieces, k=40))
        for answer in rule_spans(passage):
            question = template_question(passage, answer)
            assert question is None or (question.endswith("?") and "\n" not in question and len(question.split()) <= 25)


def test_varied_questions_keep_the_year_that_is_asked_for() -> None:
    draws = random.Random(0)
    for _ in range(50):
        question = varied("In what year did the army defeat the Franks near Rome?", lambda word, draws: "x", draws)
        assert question.startswith("In what year ")


def test_varied_questions_keep_what_is_asked_for_and_no_more_than_half_is_new() -> None:
    question = "In what year did the army defeat the Franks near the old river crossing?"
    drawn = {varied(question, lambda word, random: "zebra", random.Random(seed)) for seed in range(50)}
    assert len(drawn) > 20
    assert all(text.startswith("In what ") and text.endswith("?") for text in drawn)
    assert any("zebra" in text for text in drawn)
    assert all(word.strip("?") in f"{question} zebra" for text in drawn for word in text.split())
    kept = varied(question, lambda word, random: word, random.Random(0))
    assert kept == varied(question, lambda word, random: word, random.Random(0))
    assert set(kept.strip("?").split()) <= set(question.strip("?").split())


def test_answers_have_kinds() -> None:
    kinds = {answer.text: answer_kind(PASSAGE, answer) for answer in rule_spans(PASSAGE)}
    assert kinds["1889"] == "date"
    assert kinds["Gustave Eiffel"] == kinds["Champ de Mars"] == "name"
    assert kinds["7.8 million"] == "number"
    assert kinds["tower"] == "phrase"
    assert kinds["Nobody believed it,"] == "quoted"
    assert set(kinds.values()) <= set(ANSWER_KINDS)
