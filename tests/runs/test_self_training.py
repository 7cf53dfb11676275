"""Unlabelled texts are labelled by teachers together, and a TAM learns from those that they are surest of."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.conftest import toy_rows
from zerogen.config.rules import check
from zerogen.config.schema import Config, SelfTrainingConfig, SettingConfig, TrainerConfig
from zerogen.data.records import derive
from zerogen.errors import UserError
from zerogen.jobs import run_one
from zerogen.plm import prompting
from zerogen.runs.checks import check_code
from zerogen.runs.result import Result

TEXTS = [row.text for row in toy_rows(400)[120:]]


@pytest.fixture
def config(tiny_config: Config, tmp_path: Path) -> Config:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    trained = SelfTrainingConfig(rounds=2, share=0.5)
    return replace(tiny_config, n=20, unlabelled=str(path), self_training=trained)


def result_of(config: Config) -> Result:
    return run_one(config, Console(quiet=True))


def weights(result: Result) -> bytes:
    return (result.folder / "tam" / "model.safetensors").read_bytes()


def test_each_round_trains_on_the_surest_half_and_on_the_synthetic_rows(config: Config) -> None:
    result = result_of(config)
    assert [(one["round"], one["unlabelled"], one["synthetic"]) for one in result.rounds] == [
        (1, 140, 20),
        (2, 140, 20),
    ]
    assert result.n_train == 160 and result.selected_from == 20
    assert result.metrics == result.rounds[-1]["metrics"]
    trend = (result.folder / "trend.csv").read_text()
    assert f"20,42,accuracy,{result.metrics['accuracy']:.6f}" in trend  # the last model's, at the number written
    assert {path.name for path in (result.folder / "training").iterdir()} == {"20", "round-1", "round-2"}
    alone = result_of(replace(config, self_training=SelfTrainingConfig(1, ["prompting"], 0.25, synthetic=False)))
    assert [(one["unlabelled"], one["synthetic"]) for one in alone.rounds] == [(70, 0)]
    assert {path.name for path in (alone.folder / "training").iterdir()} == {"round-1"}  # nobody asks a first TAM


def test_the_scores_of_texts_are_stored_and_gone_on_from(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    first = result_of(config)
    (path,) = Path(config.output_dir, "toy").glob("unlabelled_tiny_*/prompting.jsonl")
    stored = path.read_bytes()
    again = result_of(replace(config, output_dir=config.output_dir, seed=7))
    assert again.folder != first.folder and path.read_bytes() == stored  # another seed reads them

    asked: list[int] = []
    real = prompting.prompt_labels

    def counted(plm: Any, task: Any, rows: Any, *rest: Any) -> Any:
        asked.append(len(rows))
        return real(plm, task, rows, *rest)

    monkeypatch.setattr(prompting, "prompt_labels", counted)
    monkeypatch.setattr("zerogen.runs.self_training._BLOCK", 100)
    path.write_text(
        json.dumps({"start": 0, "probabilities": json.loads(stored)["probabilities"][:100]}) + '\n{"start": 1'
    )
    whole = result_of(replace(config, seed=8))
    assert asked == [100, 80]  # the first hundred were there, and a torn line is written again
    assert whole.rounds and derive(8) != derive(7)


def test_a_run_is_the_same_when_it_is_run_again(config: Config, tmp_path: Path) -> None:
    first = result_of(config)
    other = result_of(replace(config, output_dir=str(tmp_path / "others")))
    assert other.rounds == first.rounds and weights(other) == weights(first)


def test_rows_of_a_file_are_learned_from_together_with_unlabelled_texts(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"X": row.text, "label": row.label}) + "\n" for row in toy_rows(120)))
    teachers, trainer = SelfTrainingConfig(1, ["similarity", "tam"], 0.5), TrainerConfig(lr=3e-3, epochs=8)
    config = replace(config, dataset=str(path), dataset_labels={}, self_training=teachers, trainer=trainer)
    result = result_of(config)
    assert result.plm == "none" and result.rounds[0]["synthetic"] == 120
    assert result.metrics["accuracy"] > 0.9  # the toy's labels are in its words, and its rows are right


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlabelled": None}, "self_training.rounds=2: needs texts without labels; set unlabelled=FILE"),
        ({"self_training": SelfTrainingConfig(0)}, "unlabelled=.*: setting=zerogen reads it for self-training only"),
        ({"self_training": SelfTrainingConfig(1, ["plm"])}, "self_training.teachers: 'plm' is unknown; .*prompting"),
        ({"self_training": SelfTrainingConfig(1, [])}, r"self_training.teachers=\[\]: allowed are one or more of"),
        ({"self_training": SelfTrainingConfig(2, ["prompting"])}, "without the teacher tam each round would be"),
        ({"self_training": SelfTrainingConfig(1, share=0.0)}, "self_training.share=0.0: allowed is 0 < share <= 1"),
        ({"self_training": SelfTrainingConfig(-1)}, "self_training.rounds=-1: allowed is 0"),
        ({"unlabelled_limit": 10}, "unlabelled_limit=10: allowed is 50 or more"),
        ({"dataset": "rows.jsonl"}, "no PLM is used with dataset=rows.jsonl; allowed are similarity and tam"),
        ({"setting": SettingConfig("supervised")}, "unlabelled=.*: setting=supervised does not read it"),
        (
            {"setting": SettingConfig("similarity", calibration="prior")},
            "calibration=prior: subtracts what a PLM",
        ),
        (
            {"setting": SettingConfig("prompting", calibration="em"), "unlabelled": None},
            "setting.calibration=em: needs texts without labels; set unlabelled=FILE",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(config: Config, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed = replace(config, **change)
        check(changed)
        check_code([changed])
        pytest.fail("nothing was refused")


def test_pairs_are_trained_on_but_not_compared_with_descriptions(config: Config) -> None:
    config.task.kind = "pair"
    with pytest.raises(UserError, match=r"teachers=\[similarity\]: compares single texts .*'toy' is pair"):
        check_code([config])
    check_code([replace(config, self_training=SelfTrainingConfig(1, ["prompting", "tam"]))])
