"""Whole runs whose rows rules make: no PLM, a dataset that says who made each row, and a page that shows it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import zerogen
from tests.test_construction import PASSAGES
from zerogen.config.schema import Config
from zerogen.config.task import normalise_task
from zerogen.errors import UserError
from zerogen.jobs import run_all
from zerogen.runs.result import Result
from zerogen.runs.settings import check_setting, setting_of


def with_task(config: Config, name: str, folder: Path, **changes: object) -> Config:
    """Let a tiny run do a bundled task on a file of passages, without gold data."""
    (folder / "passages.txt").write_text("\n".join(PASSAGES))
    task = zerogen.load_task(name)
    assert task.context is not None
    context = replace(task.context, source=str(folder / "passages.txt"))
    task = replace(task, context=context, gold={}, max_length=64, **changes)  # type: ignore[arg-type]
    normalise_task(task)
    config.task, config.n, config.trainer.epochs = task, 40, 1
    config.filter.min_words = None
    config.plm.model = "nowhere/to-be-found"
    return config


def finished(config: Config) -> tuple[Result, list[dict[str, object]]]:
    from rich.console import Console

    (result,) = run_all([config], Console(quiet=True))
    assert isinstance(result, Result)
    lines = (result.folder / f"{config.task.name}-dataset.jsonl").read_text().splitlines()
    return result, [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["qnli", "squad", "rte"])
def test_a_run_by_rules_needs_no_plm_and_says_who_made_its_rows(name: str, tiny_config: Config, tmp_path: Path) -> None:
    config = with_task(tiny_config, name, tmp_path)
    result, rows = finished(config)
    assert (result.plm, result.n_train, result.tokens.get("generate", 0)) == ("none", 40, 0)
    ways = {"template"} if name == "squad" else {way for ways in config.task.construction.values() for way in ways}
    assert {row["way"] for row in rows} <= ways
    assert (tmp_path / "outputs" / name / Path(result.pool or "").name / "texts.jsonl").is_file()
    assert "pool_rules_" in str(result.pool)
    page = (result.folder / "report.html").read_text()
    assert "Rows by who made them" in page
    assert ("By question word" in page) == (name != "rte")
    assert ("By kind of answer" in page) == (name == "squad")
    assert json.loads((result.folder / "measures.json").read_text())["confidence"] is None
    # Trained on again from its own file, the rows still say it.
    config.dataset_labels = {}
    config.dataset, config.output_dir = str(result.folder / f"{name}-dataset.jsonl"), str(tmp_path / "again")
    _, again = finished(config)
    assert sorted(map(str, again)) == sorted(map(str, rows))


def test_questions_carry_what_the_plm_answers(tiny_config: Config, tmp_path: Path) -> None:
    plm = tiny_config.plm.model
    config = with_task(tiny_config, "squad", tmp_path, scoring={"question": "<X>"}, answer_tokens=4)
    config.plm.model, config.filter.round_trip, config.n = plm, 0.0, 12
    config.select, config.overgenerate, config.confidence.rows = ["round_trip"], 2.0, 0
    check_setting(config)
    result, rows = finished(config)
    assert result.plm == "tiny"
    assert all(isinstance(row["reply"], str) for row in rows)
    assert "the PLM answers" in (result.folder / "report.html").read_text()
    assert result.tokens["generate"] > 0
    card = (result.folder / "dataset" / "README.md").read_text()
    assert "Language model: tiny" in card
    assert "asked every question over its passage" in card
    assert "`reply` what the language model answered" in card
    assert "The prompts" not in card


def test_cards_say_what_rules_made_and_what_the_plm_wrote(tiny_config: Config, tmp_path: Path) -> None:
    ways = {"entailment": ["shortened", "plm"], "not_entailment": ["negated"]}
    prompts = {"entailment": '"<C>" In other words: "', "not_entailment": '"<C>" Never: "'}
    plm = tiny_config.plm.model
    config = with_task(tiny_config, "rte", tmp_path, construction=ways, prompts=prompts)
    config.plm.model, config.n, config.filter.min_words, config.confidence.rows = plm, 24, 1, 0
    config.task.parse.fallback = "sentence"
    check_setting(config)
    result, _ = finished(config)
    assert result.plm == "tiny"
    card = (result.folder / "dataset" / "README.md").read_text()
    assert "24 pairs that rules made of given passages, or tiny wrote from the prompt of a label" in card
    assert "- entailment: shortened, plm" in card
    assert "In other words" in card
    assert "Never" not in card
    assert "that rules made of given passages, or that tiny wrote" in (result.folder / "tam" / "README.md").read_text()


def test_rows_can_be_made_without_a_model(tiny_config: Config, tmp_path: Path) -> None:
    config = with_task(tiny_config, "rte", tmp_path)
    config.train = False
    check_setting(config)
    result, rows = finished(config)
    assert (result.plm, result.tam, len(rows)) == ("none", "none", 40)


def test_what_rules_cannot_serve_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    for changes, message in (
        ({"select": ["logprob"]}, "needs the score 'logprob' of rows that a PLM wrote.*allowed with pairs=plm"),
        ({"demonstrations": "random"}, "demonstrations=random: stand before prompts.*allowed with pairs=plm"),
    ):
        config = with_task(tiny_config, "qnli", tmp_path)
        with pytest.raises(UserError, match=message):
            check_setting(replace(config, **changes))
    config = with_task(
        tiny_config, "qnli", tmp_path, construction={"entailment": ["q"], "not_entailment": ["question"]}
    )
    with pytest.raises(UserError, match="task.construction: 'q' is unknown"):
        check_setting(config)
    config = with_task(tiny_config, "squad", tmp_path, rewording="similar")
    config.tam.kind = "lstm"
    with pytest.raises(UserError, match="rewording=similar: needs a TAM that is an encoder, and tam=tiny is lstm"):
        check_setting(config)


def test_ranking_by_the_plms_answers_needs_them(tiny_config: Config, tmp_path: Path) -> None:
    config = with_task(tiny_config, "squad", tmp_path)
    config.select = ["round_trip"]
    with pytest.raises(UserError, match=r"select=\['round_trip'\].*set filter.round_trip=0"):
        check_setting(config)


def test_the_plm_counts_where_it_writes_checks_scores_or_teaches(tiny_config: Config, tmp_path: Path) -> None:
    config = with_task(tiny_config, "squad", tmp_path)
    setting = setting_of(config)
    assert setting.models(config)[0] == "none"
    config.filter.round_trip = 0.0
    assert setting.models(config)[0] == "tiny"
    config.filter.round_trip, config.task.questions = None, "mixed"
    assert setting.models(config)[0] == "tiny"
    config = with_task(config, "qnli", tmp_path)
    assert setting.models(config)[0] == "none"
    config.task.construction["entailment"].append("plm")
    assert setting.models(config)[0] == "tiny"
    config = with_task(config, "qnli", tmp_path)
    config.select = ["asked"]
    assert setting.models(config)[0] == "tiny"
    config.select, config.self_training.rounds = [], 1
    assert setting.models(config)[0] == "tiny"
    config.self_training.teachers = ["tam"]
    assert setting.models(config)[0] == "none"
