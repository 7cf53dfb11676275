"""Self-training for questions: what teachers answer alike is learned, and asked once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import toy_questions
from tests.runs.test_rules import finished, with_task
from zerogen.config.schema import Config
from zerogen.config.task_schema import GoldConfig
from zerogen.data.records import Answer, AnswerPrediction, Example
from zerogen.data.synthetic import write_jsonl
from zerogen.errors import UserError
from zerogen.runs.answer_training import surest_answers
from zerogen.runs.settings import check_setting

PASSAGE = "The bird lives in Rome and eats rice."
QUESTIONS = [Example(f"q{i}", f"Where does it live, number {i}?", "", PASSAGE) for i in range(4)]
ROME, RICE = PASSAGE.index("Rome"), PASSAGE.index("rice")


def test_the_surest_of_those_that_all_answer_alike_are_learned() -> None:
    plm = [
        AnswerPrediction("Rome", ROME, 0.9),
        AnswerPrediction("in Rome", ROME - 3, 0.2),
        AnswerPrediction("Oslo", -1, 0.9),
        AnswerPrediction("rice", RICE, 0.1),
    ]
    tam = [
        AnswerPrediction("Rome", ROME, 0.5),
        AnswerPrediction("Rome", ROME, 0.6),
        AnswerPrediction("Rome", ROME, 0.9),
        AnswerPrediction("rice", RICE, 0.7),
    ]
    rice, rome = (Answer("rice", RICE),), (Answer("Rome", ROME),)
    both = surest_answers(QUESTIONS, [plm, tam], 0.5)
    assert [(row.uid, row.answers, row.label) for row in both] == [("q1", rome, "question"), ("q3", rice, "question")]
    assert [row.uid for row in surest_answers(QUESTIONS, [tam], 0.5)] == ["q2", "q3"]
    assert [row.uid for row in surest_answers(QUESTIONS, [plm], 1.0)] == ["q0", "q1", "q3"]  # Oslo is not there
    assert surest_answers(QUESTIONS, [[AnswerPrediction("", -1, 1.0)] * 4], 1.0) == []


@pytest.fixture
def config(tiny_config: Config, tmp_path: Path) -> Config:
    """A run by rules, with 60 questions whose answers nobody reads and 40 to report on."""
    plm = tiny_config.plm.model
    config = with_task(tiny_config, "squad", tmp_path, scoring={"question": "<C> <X>"}, answer_tokens=4)
    config.plm.model = plm
    rows = toy_questions(100)
    rows = [replace(row, text=f"{row.text[:-1]}, bird {i}?") for i, row in enumerate(rows)]
    for split, part in (("train", rows[:60]), ("validation", rows[60:])):
        write_jsonl(
            [
                {"text": row.text, "context": row.context, "answers": row.answers[0].text if split != "train" else ""}
                for row in part
            ],
            tmp_path / f"{split}.jsonl",
        )
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    config.task.gold = {"own": GoldConfig(files=files, context="context")}
    config.unlabelled, config.self_training.rounds, config.n = "gold", 1, 20
    return config


def test_a_fresh_model_learns_from_what_its_teachers_answer(config: Config) -> None:
    config.self_training.teachers, config.self_training.share = ["tam"], 0.5
    config.self_training.rounds = 2
    check_setting(config)
    result, _ = finished(config)
    assert result.plm == "none"
    assert [(one["round"], one["unlabelled"], one["synthetic"]) for one in result.rounds] == [(1, 30, 20), (2, 30, 20)]
    assert all(0 <= one["agreement"]["tam"] <= 1 and "f1" in one["metrics"] for one in result.rounds)
    assert json.loads((result.folder / "measures.json").read_text())["match"]["texts"] > 10
    lines = (result.folder / "pseudo-labels.jsonl").read_text().splitlines()
    assert len(lines) == 30
    for line in map(json.loads, lines):
        (text,), (start,) = line["answers"]["text"], line["answers"]["answer_start"]
        assert line["context"][start:].startswith(text)


def test_the_plm_is_asked_once(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.self_training.teachers = ["prompting"]
    with pytest.raises(UserError, match="answer none of 60 questions"):  # a random PLM's answers stand in no passage
        finished(config)
    (stored,) = (tmp_path / "outputs" / "squad").glob("unlabelled_tiny_*/answers.jsonl")
    content = stored.read_text()
    block = json.loads(content)
    assert len(block["answers"]) == 60

    def ask_again(*args: object, **keys: object) -> object:
        raise AssertionError("the PLM is asked again")

    # What it answered is read; here answers that stand in their passages.
    places = [row["context"].index(" in ") + 4 for row in map(json.loads, (tmp_path / "train.jsonl").open())]
    said = [{"text": "R", "start": place, "probability": 0.5} for place in places]
    stored.write_text(json.dumps(block | {"answers": said}) + "\n{damaged\n")
    monkeypatch.setattr("zerogen.plm.prompting.prompt_answers", ask_again)
    result, _ = finished(config)
    assert result.rounds[0]["unlabelled"] == 30
    assert set(result.rounds[0]["agreement"]) == {"prompting"}


def test_similarity_answers_no_questions(config: Config) -> None:
    with pytest.raises(UserError, match=r"similarity is about labels; task 'squad' is qa; allowed are prompting and"):
        check_setting(config)
