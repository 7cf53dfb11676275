"""The match report of a run: its synthetic rows beside unlabelled texts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.conftest import toy_rows
from zerogen.config.schema import Config, SelfTrainingConfig
from zerogen.jobs import run_one
from zerogen.measure import main
from zerogen.measures.rows import describe
from zerogen.report import present
from zerogen.report.finished import read_run
from zerogen.runs.result import Result


@pytest.fixture
def config(tiny_config: Config, tmp_path: Path) -> Config:
    return replace(tiny_config, n=40, unlabelled=texts(tmp_path / "texts.txt", 80))


def texts(path: Path, count: int) -> str:
    path.write_text("\n".join(row.text for row in toy_rows(120 + count)[120:]) + "\n")
    return str(path)


def result_of(config: Config) -> Result:
    return run_one(config, Console(quiet=True))


def measured(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((result.folder / "measures.json").read_text())
    return found


def test_a_run_is_compared_with_its_texts(config: Config) -> None:
    result = result_of(config)
    measures = measured(result)
    found = measures["match"]
    assert found["texts"] == 40 and measures["seconds"]["match"] > 0
    assert found["words"]["synthetic"] == measures["diversity"]["words"]  # all rows are in the sample
    assert found["embeddings"]["encoder"] == "tiny"
    assert found["embeddings"]["auc"]["share"] > 0.9  # random letters are no reviews
    page = (result.folder / "report.html").read_text()
    assert "Is it like real texts?" in page and "40 synthetic rows beside as many of the unlabelled texts" in page
    assert "AUC of a linear head" in (result.folder / "dataset" / "README.md").read_text()
    said = list(describe(measures))
    assert any(line.startswith("beside 40 real texts: ") for line in said)
    assert any(
        "a linear head on the embeddings of tiny tells them from real texts with an AUC of" in line for line in said
    )


def test_texts_that_are_only_compared_with_change_nothing_else(config: Config, tmp_path: Path) -> None:
    plain = replace(config, unlabelled=None)
    before = result_of(plain)
    assert measured(before)["match"] is None
    weights = (before.folder / "tam" / "model.safetensors").stat().st_mtime_ns
    with_texts = result_of(config)
    assert with_texts.folder == before.folder
    assert (before.folder / "tam" / "model.safetensors").stat().st_mtime_ns == weights  # nothing was trained
    found = measured(with_texts)["match"]
    assert found is not None
    result_of(plain)
    assert measured(before)["match"] == found  # what was measured stays
    result_of(replace(config, unlabelled=texts(tmp_path / "few.txt", 60)))
    assert measured(before)["match"] != found
    rounds = replace(config, self_training=SelfTrainingConfig(1, ["tam"]))
    assert result_of(rounds).folder != before.folder


def test_runs_that_differ_in_what_they_are_compared_with_are_seeds_of_one(config: Config) -> None:
    one, other = result_of(config), result_of(replace(config, unlabelled=None, seed=7))
    choices = [read_run(result.folder).choices for result in (one, other)]
    assert choices[0] == choices[1]


def test_measures_of_an_earlier_version_are_read_and_completed(config: Config) -> None:
    result = result_of(replace(config, unlabelled=None))
    old = measured(result)
    del old["match"], old["asked_for"]["match"]
    (result.folder / "measures.json").write_text(json.dumps(old | {"marked": True}))
    assert "Is it like real texts?" not in present(result.folder).read_text()
    result_of(replace(config, unlabelled=None))
    assert "marked" in measured(result)
    result_of(config)
    assert measured(result)["match"] is not None and measured(result)["diversity"] == old["diversity"]


def test_without_an_encoder_only_words_are_compared(config: Config) -> None:
    result = result_of(replace(config, train=False))
    found = measured(result)["match"]
    assert found["texts"] == 40 and found["embeddings"] is None
    assert any(line.startswith("embeddings were not compared") for line in describe(measured(result)))
    assert "Embeddings were not compared" in (result.folder / "report.html").read_text()


def test_the_command_compares_a_run_and_a_file(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zerogen.support.process.stop_on_signals", lambda: None)
    monkeypatch.chdir(tmp_path)
    result = result_of(replace(config, unlabelled=None))
    main([str(result.folder), "--unlabelled", "texts.txt", "--gpu", "none"])
    assert "beside 40 real texts" in " ".join(capsys.readouterr().out.split())
    assert measured(result)["match"]["embeddings"] is not None
    main([str(result.folder / "toy-dataset.jsonl"), "--unlabelled", "texts.txt", "--format", "json", "--gpu", "none"])
    assert json.loads(capsys.readouterr().out)["match"]["embeddings"] is None  # no TAM was named
    other = result_of(replace(config, seed=7))
    Path("texts.txt").rename("moved.txt")
    main([str(other.folder), "--texts", "10", "--gpu", "none"])  # what was measured of texts that are gone stays
    assert measured(other)["match"]["texts"] == 40
    with pytest.raises(SystemExit) as stop:
        main([str(result.folder), "--unlabelled", "nowhere.txt"])
    assert stop.value.code == 2 and "unlabelled=nowhere.txt: there is no such file" in capsys.readouterr().err
