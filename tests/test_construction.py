"""Rows made by rules: pairs and questions from passages that a user has, without a PLM."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

import zerogen
from zerogen.config.schema import DecodingConfig, FilterConfig
from zerogen.config.task import normalise_task
from zerogen.config.task_schema import ContextConfig, TaskConfig
from zerogen.data.overlap import f1
from zerogen.data.records import Continuation, Example, Request
from zerogen.errors import UserError
from zerogen.generation.answers import SHARES, AnsweredContexts, answer_kind, rule_spans
from zerogen.generation.construction import CONSTRUCTIONS, Near, Passages
from zerogen.generation.english import content_words, sentences
from zerogen.generation.generator import Generator
from zerogen.generation.hypotheses import antonym_of
from zerogen.generation.pool import Journal
from zerogen.plm.model import Plm
from zerogen.plm.protocol import ChunkOutput, ChunkRequest, Writer
from zerogen.support.doors import load
from zerogen.support.progress import Progress

PLACES = ["Lisbon", "Bergen", "Aveiro", "Tartu", "Ghent", "Split"]
PASSAGES = [
    f"In {1800 + 7 * i} the council of {place} opened a large museum near the old harbour. Anna Keller, the first "
    f"director of the museum, bought {300 + i} paintings from local artists. The museum was closed in the war because "
    f"the harbour was in danger. Today more than {20 + i} thousand people visit {place} every year."
    for i, place in enumerate(PLACES * 3)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "passages.txt"
    path.write_text("\n".join(PASSAGES))
    return path


def made(name: str, file: Path, **changes: object) -> TaskConfig:
    """Return a bundled task whose rows rules make of a file."""
    task = zerogen.load_task(name)
    assert task.context is not None
    task = replace(task, context=replace(task.context, source=str(file)), **changes)  # type: ignore[arg-type]
    normalise_task(task)
    return task


def no_plm() -> Writer:
    raise AssertionError("rules need no PLM")


def rows_of(task: TaskConfig, n: int, seed: int = 0, folder: Path | None = None) -> list[Example]:
    journal = Journal.open(folder / "texts.jsonl" if folder else None, appends=True)
    generator = Generator(task, no_plm, DecodingConfig(), FilterConfig(), seed, journal)
    for _ in generator.extend(n):
        pass
    return generator.rows(n)


@pytest.mark.parametrize("name", ["qnli", "rte", "mnli", "squad"])
def test_rules_make_exactly_n_rows_of_a_file_without_a_plm(name: str, file: Path) -> None:
    task = made(name, file)
    rows = rows_of(task, 30)
    assert Counter(row.label for row in rows) == dict.fromkeys(task.labels, 30 // len(task.labels))
    assert {row.way for row in rows} <= (
        {"template"} if name == "squad" else {way for ways in task.construction.values() for way in ways}
    )
    assert all(row.context and row.logprob is None and row.reply is None for row in rows)
    assert rows_of(task, 30) == rows
    assert rows_of(task, 30, seed=1) != rows
    for label in task.labels:
        few = [row for row in rows_of(task, 12) if row.label == label]
        assert few == [row for row in rows if row.label == label][: len(few)]


def test_a_resumed_run_equals_an_uninterrupted_one(file: Path, tmp_path: Path) -> None:
    task = made("qnli", file)
    whole = rows_of(task, 60)
    rows_of(task, 20, folder=tmp_path)
    path = tmp_path / "texts.jsonl"
    path.write_bytes(path.read_bytes()[:-9])  # killed while writing
    assert rows_of(task, 60, folder=tmp_path) == whole


def test_questions_are_paired_with_their_sentence_and_with_a_similar_one_without_the_answer(file: Path) -> None:
    rows = rows_of(made("qnli", file), 60)
    answered = {(row.text, row.context) for row in rows if row.label == "entailment"}
    others = [(row.text, row.context) for row in rows if row.label == "not_entailment"]
    assert len({text for text, _ in answered} & {text for text, _ in others}) > 20
    assert not answered & set(others)
    for text, sentence in answered | set(others):
        assert any(sentence in passage for passage in PASSAGES if sentence)
        assert set(content_words(text)) & set(content_words(sentence or ""))


def test_answers_stand_in_their_passages_and_are_of_all_kinds(file: Path) -> None:
    rows = rows_of(made("squad", file), 120)
    kinds = Counter(answer_kind(row.context or "", row.answers[0]) for row in rows)
    assert min(kinds[kind] for kind in ("date", "number", "name", "phrase")) >= 5
    for row in rows:
        (answer,) = row.answers
        assert (row.context or "")[answer.start :].startswith(answer.text)
        assert row.text.endswith("?")


def test_kinds_are_drawn_by_their_shares_and_each_answer_once() -> None:
    stream = AnsweredContexts(PASSAGES, rule_spans, 3, SHARES | {"date": 1e9})
    first = stream.take(0, len(PASSAGES), Progress())
    assert all(answer_kind(passage, answer) == "date" for passage, answer in first)
    spans = sum(len(rule_spans(passage)) for passage in PASSAGES)
    assert len(set(stream.take(0, spans, Progress()))) == spans


def test_an_answer_has_no_more_questions_than_per_label(tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("\n".join(PASSAGES[:2]))
    task = made("squad", tmp_path / "few.txt", answers="rules")
    with pytest.raises(UserError, match="asked_before"):
        rows_of(task, 500, folder=tmp_path)
    rows = list(Journal.open(tmp_path / "texts.jsonl").rows())
    counts = Counter((row.context, row.answers) for row in rows)
    assert task.context is not None
    assert max(counts.values()) == task.context.per_label == 2
    assert len(counts) == sum(len(rule_spans(passage)) for passage in PASSAGES[:2])


PREMISE = (
    "Anna Keller, the head of the museum, bought 300 large paintings in Lisbon in 1887, because the old ones were "
    "lost. The town of Bergen was rich."
)


def drawn(name: str) -> Iterator[tuple[str, str]]:
    construct = load("", name, CONSTRUCTIONS)
    passages = Passages([PREMISE, *PASSAGES], "pairs=construct")
    for seed in range(40):
        pair = construct(PREMISE, passages, Random(seed))
        if pair is not None:
            yield pair


def test_each_construction_changes_what_its_name_says() -> None:
    texts = {name: {text for _, text in drawn(name)} for name in CONSTRUCTIONS}
    assert all(texts.values())
    assert all(context == PREMISE for name in CONSTRUCTIONS if "question" not in name for context, _ in drawn(name))
    assert "Anna Keller bought 300 large paintings in Lisbon in 1887." in texts["shortened"]
    assert "Anna Keller is the head of the museum." in texts["apposition"]
    assert "Anna Keller did not buy 300 large paintings in Lisbon in 1887." in texts["negated"]
    assert "The town of Bergen was not rich." in texts["negated"]
    assert "The town of Bergen was poor." in texts["antonym"]
    assert any("large" not in text and "small" in text for text in texts["antonym"])
    for text in texts["other_number"]:
        assert sum(number in text for number in ("300", "1887")) == 1
    assert any("Lisbon" not in text and "Bergen" in text for text in texts["other_name"])
    for text in texts["similar"]:
        assert text.rstrip(".") not in PREMISE
        assert set(content_words(text)) & set(content_words(PREMISE))
    assert antonym_of("more") == "less"
    assert antonym_of("table") is None


def test_similar_sentences_share_the_rarest_words() -> None:
    texts = [f"The cat number {i} sat on the mat." for i in range(60)] + ["The quiet heron stood on the mat."]
    passages = Passages(texts, "pairs=construct")
    found = [passages.similar("A heron sat there", "", Random(seed)) for seed in range(200)]
    assert texts[-1] in found
    assert all(other != texts[0] for other in (passages.similar("A cat", texts[0], Random(seed)) for seed in range(99)))
    assert passages.similar("zebra", "", Random(0)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Der Turm wurde im Jahr 1889 eröffnet.\nDie Stadt feierte ihn sehr.", "rules for English, in which the"),
        ("塔は1889年に開かれました。", "rules for English"),
    ],
)
def test_other_languages_are_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        rows_of(made("qnli", tmp_path / "other.txt"), 4)
    assert "\n" not in str(error.value)
    assert "allowed is plm" in str(error.value)


@pytest.mark.parametrize("text", ["It is.", "The museum opened in 1887", "what\nis\nthe\nof"])
def test_passages_that_give_too_little_stop_the_run_with_the_reason(text: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text(text)
    with pytest.raises(UserError, match=r"of the last \d+ texts were accepted") as error:
        rows_of(made("qnli", tmp_path / "short.txt"), 100)
    assert "\n" not in str(error.value)


def test_a_task_says_which_constructions_it_takes(file: Path, own_modules: Path) -> None:
    with pytest.raises(UserError, match="pairs=construct: construction has none for label 'not_entailment'; add"):
        made("qnli", file, construction={"entailment": ["question"]})
    with pytest.raises(UserError, match="construction: 'maybe' is unknown; allowed"):
        made("qnli", file, construction={"maybe": ["question"]})
    with pytest.raises(UserError, match="'negate' is unknown.*did you mean 'negated'"):
        rows_of(made("qnli", file, construction={"entailment": ["question"], "not_entailment": ["negate"]}), 4)
    with pytest.raises(UserError, match="pairs: 'constuct' is unknown.*did you mean 'construct'"):
        made("qnli", file, pairs="constuct")
    with pytest.raises(UserError, match="questions=template: allowed is plm, since its kind is pair"):
        made("qnli", file, questions="template")
    with pytest.raises(UserError, match="rows are made of given contexts"):
        normalise_task(replace(made("qnli", file), context=ContextConfig(prompt="A sentence: ")))
    with pytest.raises(UserError, match="construction: makes pairs, and its kind is qa; leave it out"):
        made("squad", file, construction={"question": ["shortened"]})
    with pytest.raises(UserError, match="rewording=none: changes questions, and its kind is classification"):
        normalise_task(replace(zerogen.load_task("rotten_tomatoes"), rewording="none"))
    (own_modules / "mine.py").write_text(
        "def swapped(passage, passages, random):\n    return passage, 'Not so at all.'\n"
    )
    ways = {"entailment": ["question"], "not_entailment": ["mine:swapped"]}
    rows = rows_of(made("qnli", file, construction=ways), 8)
    assert {row.text for row in rows if row.label == "not_entailment"} == {"Not so at all."}


def test_mixed_rows_are_written_and_made(file: Path, gpt2: Plm) -> None:
    task = made("squad", file, questions="mixed", parse=replace(zerogen.load_task("squad").parse, must_end=""))
    task = replace(task, prompts={"question": "<Y> <C> "}, max_new_tokens=12)
    decoding = DecodingConfig(chunk_size=16)
    filters = FilterConfig(min_words=0, min_acceptance=0.0)
    generator = Generator(task, lambda: gpt2, decoding, filters, 0)
    for _ in generator.extend(24):
        pass
    rows = generator.rows(24)
    assert {row.way for row in rows} == {"plm", "template"}
    assert all((row.logprob is None) == (row.way == "template") for row in rows)


def test_a_label_may_have_pairs_that_the_plm_writes(file: Path, gpt2: Plm) -> None:
    ways = {"entailment": ["shortened", "plm"], "not_entailment": ["negated"]}
    prompts = {"entailment": '"<C>" In other words, "', "not_entailment": '"<C>" Never: "'}
    task = made("rte", file, construction=ways, prompts=prompts, max_new_tokens=12)
    task = replace(task, parse=replace(task.parse, fallback="sentence"))
    filters = FilterConfig(min_words=0, min_acceptance=0.0)
    generator = Generator(task, lambda: gpt2, DecodingConfig(chunk_size=16), filters, 0)
    for _ in generator.extend(24):
        pass
    drafts = [draft for index in range(len(generator.journal.heads)) for draft in generator.drafts(index)]
    assert {(row.label, row.way, bool(row.text)) for row in drafts if row.text or row.way == "plm"} == {
        ("entailment", "plm", False),
        ("entailment", "shortened", True),
        ("not_entailment", "negated", True),
    }
    assert all(row.label == "entailment" for row in generator.rows(24) if row.way == "plm")


def test_the_plm_reads_as_much_of_a_passage_as_rules_do(file: Path) -> None:
    ways = {"entailment": ["plm"], "not_entailment": ["negated"]}
    task = made("rte", file, construction=ways)
    generator = Generator(task, no_plm, DecodingConfig(), FilterConfig(), 0)
    drafts = generator.drafts(0)
    lengths = {
        label: Counter(
            len(sentences(row.context or "")) for row in drafts if row.label == label and (row.text or row.way == "plm")
        )
        for label in task.labels
    }
    assert max(lengths["entailment"]) == max(lengths["not_entailment"]) == 2  # of passages of four sentences
    for name, most in (("rte", 2), ("qnli", 1)):
        task = made(name, file, construction=zerogen.load_task(name).construction | {"entailment": ["plm"]})
        drafts = Generator(task, no_plm, DecodingConfig(), FilterConfig(), 0).drafts(0)
        assert max(len(sentences(row.context or "")) for row in drafts if row.way == "plm") == most


def test_passages_in_other_languages_give_no_rows(tmp_path: Path) -> None:
    german = "Im Jahr 1852 wurde der Turm in der Nähe des Hafens gebaut. Die Stadt war stolz auf ihn."
    (tmp_path / "both.txt").write_text("\n".join([*PASSAGES, german]))
    generator = Generator(made("squad", tmp_path / "both.txt"), no_plm, DecodingConfig(), FilterConfig(), 0)
    (warning,) = generator.warnings()
    assert warning.startswith(f"1 of {len(set(PASSAGES)) + 1} contexts do not seem to be in English")
    for _ in generator.extend(60):
        pass
    assert all(row.context != german for row in generator.rows(60))


def test_a_way_stands_for_one_label(file: Path) -> None:
    ways = {"entailment": ["question", "shortened"], "not_entailment": ["negated", "question"]}
    with pytest.raises(UserError, match="construction.not_entailment: question also makes the pairs of 'entailment'"):
        made("qnli", file, construction=ways)
    with pytest.raises(UserError, match="pairs=mixed: lets the PLM write half of all pairs, so no construction takes"):
        made("qnli", file, pairs="mixed", construction={"entailment": ["plm"], "not_entailment": ["question"]})


def test_a_round_trip_keeps_the_rows_whose_answer_the_plm_gives(file: Path, gpt2: Plm) -> None:
    task = made("squad", file, scoring={"question": "<X> <C>"[:3]}, answer_tokens=4)
    every = Generator(task, lambda: gpt2, DecodingConfig(), FilterConfig(round_trip=0.0), 0)
    for _ in every.extend(40):
        pass
    rows = every.rows(40)
    assert all(row.reply is not None for row in rows)
    scores = [max(f1(row.reply or "", answer.text) for answer in row.answers) for row in rows]
    assert [row.text for row in rows] == [row.text for row in rows_of(task, 40)]  # asking changes no question
    assert max(scores) < 1  # a random PLM
    strict = Generator(task, lambda: gpt2, DecodingConfig(), FilterConfig(round_trip=1.0, patience=64), 0)
    with pytest.raises(UserError, match="rejected were round_trip"):
        for _ in strict.extend(40):
            pass
    with pytest.raises(UserError, match=r"filter.round_trip=0.5: needs questions"):
        Generator(made("qnli", file), lambda: gpt2, DecodingConfig(), FilterConfig(round_trip=0.5), 0)


class Answering:
    """A PLM that answers every third question as the row has it; what else a writer does is not asked for."""

    name, max_positions, parallel, tokens = "answering", 10_000, 1, 0

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.answers = answers

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def write(
        self, chunks: Sequence[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        for chunk in chunks:
            yield ChunkOutput(
                [Continuation(self.reply(request), "stop", 1, -1.0) for request in chunk.requests], 0, 0.0
            )

    def reply(self, request: Request) -> str:
        question = request.prompt.split("the question")[1]
        known = next((answer for text, answer in self.answers.items() if text in question), "")
        return known if len(question) % 3 == 0 else ""

    def report_to(self, say: Callable[[str], None]) -> None: ...

    def release(self) -> None: ...


def test_a_resumed_round_trip_equals_an_uninterrupted_one(file: Path, tmp_path: Path) -> None:
    task = made("squad", file)
    every = rows_of(task, 200)
    plm = Answering({row.text: row.answers[0].text for row in every})

    def checked(n: int, folder: Path | None = None) -> list[Example]:
        journal = Journal.open(folder / "texts.jsonl" if folder else None)
        filters = FilterConfig(round_trip=0.5, min_acceptance=0.0)
        generator = Generator(task, lambda: plm, DecodingConfig(), filters, 0, journal)
        for _ in generator.extend(n):
            pass
        return generator.rows(n)

    whole = checked(60)
    for n in (5, 20, 40, 60):
        rows = checked(n, tmp_path)
        assert rows == whole[:n]
    assert all(row.reply == row.answers[0].text for row in whole)


def test_statistics_give_no_questions_and_no_error(tmp_path: Path) -> None:
    lines = ["1990 – – –", "1990 - - -.", "The 1990 - - - of - -", *PASSAGES[:2]]
    (tmp_path / "table.txt").write_text("\n".join(lines))
    for name in ("squad", "qnli"):
        rows = rows_of(made(name, tmp_path / "table.txt"), 10)
        assert all(len(row.text.split()) >= 3 for row in rows)
    passages = Passages(["The Wall Street of the old town was slow.", *PASSAGES], "pairs=construct")
    texts = set()
    for seed in range(40):
        pair = load("", "antonym", CONSTRUCTIONS)(passages.texts[0], passages, Random(seed))
        texts |= {pair[1]} if pair else set()
    assert texts and all("Wall Street" in text for text in texts)


def test_sentences_of_a_premise_are_not_its_whole_when_it_is_long() -> None:
    long = " ".join(PASSAGES[:3])
    construct = load("", "shortened", CONSTRUCTIONS)
    premises = {construct(long, Passages(PASSAGES, ""), Random(seed))[0] for seed in range(30)}
    assert all(len(sentences(premise)) <= 2 for premise in premises)


def test_questions_are_reworded_by_near_words_by_any_or_not_at_all(file: Path) -> None:
    seen: list[str] = []

    def near(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
        seen.extend(words)
        return {"museum": ("gallery",), "harbour": ("port",)}

    def texts(rewording: str, near: Near | None = None) -> list[str]:
        generator = Generator(
            made("squad", file, rewording=rewording), no_plm, DecodingConfig(), FilterConfig(), 0, near=near
        )
        for _ in generator.extend(60):
            pass
        return [row.text for row in generator.rows(60)]

    plain, similar, anyhow = texts("none"), texts("similar", near), texts("random")
    assert texts("auto", near) == similar
    assert texts("auto") == anyhow
    assert seen == [*dict.fromkeys(seen)] * 2  # asked once for each run
    given = {word.casefold() for passage in PASSAGES for word in content_words(passage)}
    said = {word for text in plain for word in content_words(text)}
    assert said - {"year", "money", "percentage"} <= given | {"open", "buy", "close", "visit"}
    assert {word for text in similar for word in content_words(text)} - said <= {"gallery", "port"}
    assert any("gallery" in text for text in similar)
    assert not any("gallery" in text for text in anyhow)
    with pytest.raises(
        UserError, match="rewording=similar: needs a TAM that is an encoder; allowed are random and none"
    ):
        texts("similar")
    with pytest.raises(UserError, match="rewording: 'simlar' is unknown.*did you mean 'similar'"):
        made("squad", file, rewording="simlar")
