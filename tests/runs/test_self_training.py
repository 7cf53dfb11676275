"""Unlabelled texts are labelled by teachers together, and a TAM learns from those that they are surest of."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.conftest import toy_rows
from zerogen.config.rules import check
from zerogen.config.schema import Config, SelfTrainingConfig, SettingConfig, TamConfig, TrainerConfig
from zerogen.errors import UserError
from zerogen.jobs import run_one
from zerogen.plm import prompting
from zerogen.runs.checks import check_code
from zerogen.runs.result import Result
from zerogen.tam.learner import BestEpoch

TEXTS = [row.text for row in toy_rows(400)[120:]]


NOTHING = {"unlabelled": None, "self_training": SelfTrainingConfig()}


@pytest.fixture
def config(tiny_config: Config, tmp_path: Path) -> Config:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    trained = SelfTrainingConfig(rounds=2, share=0.5)
    return replace(tiny_config, n=20, unlabelled=str(path), self_training=trained)


def result_of(config: Config) -> Result:
    return run_one(config, Console(quiet=True))


def config_folder(config: Config) -> Path:
    return Path(config.output_dir) / config.task.name


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
    for one in result.rounds:
        assert list(one["agreement"]) == ["prompting", "similarity", "tam"]
        assert all(0 <= share <= 1 for share in one["agreement"].values())
    labelled = [json.loads(line) for line in (result.folder / "pseudo-labels.jsonl").read_text().splitlines()]
    assert len(labelled) == 140 and {line["X"] for line in labelled} <= set(TEXTS)
    assert "140 texts that nobody had labelled" in (result.folder / "tam" / "README.md").read_text()
    page = (result.folder / "report.html").read_text()
    assert "trained on 20 synthetic rows and 140 unlabelled texts" in page and "Rounds of self-training" in page
    first, *_ = result.rounds[-1]["agreement"].values()
    assert f"gives the same label as prompting for {100 * first:.1f} %" in " ".join(page.split())
    assert {path.name for path in (result.folder / "training").iterdir()} == {"20", "round-1", "round-2"}
    alone = result_of(replace(config, self_training=SelfTrainingConfig(1, ["prompting"], 0.25, synthetic=False)))
    assert [(one["unlabelled"], one["synthetic"]) for one in alone.rounds] == [(70, 0)]
    assert {path.name for path in (alone.folder / "training").iterdir()} == {"round-1"}  # nobody asks a first TAM


def test_synthetic_rows_are_added_where_few_texts_are_labelled(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = replace(config, self_training=SelfTrainingConfig(1, ["similarity"], 0.25, synthetic="auto"))
    assert result_of(auto).rounds[0]["synthetic"] == 20
    monkeypatch.setattr("zerogen.runs.self_training.ENOUGH_LABELLED", 70)
    assert result_of(replace(auto, seed=9)).rounds[0]["synthetic"] == 0


def test_the_scores_of_texts_are_stored_and_gone_on_from(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    first = result_of(config)
    (path,) = Path(config.output_dir, "toy").glob("unlabelled_tiny_*/prompting.jsonl")
    stored = path.read_bytes()
    again = result_of(replace(config, output_dir=config.output_dir, seed=7))
    assert again.folder != first.folder and path.read_bytes() == stored  # another seed reads them

    asked: list[int] = []
    real = prompting.prompt_sets

    def counted(plm: Any, task: Any, rows: Any, *rest: Any) -> Any:
        asked.append(len(rows))
        return real(plm, task, rows, *rest)

    monkeypatch.setattr(prompting, "prompt_sets", counted)
    monkeypatch.setattr("zerogen.runs.prompted._BLOCK", 100)
    whole = result_of(replace(config, seed=8))
    assert asked == [100, 100, 80] and whole.seconds["prompt"] > 0 and whole.tokens["prompt"] > 0
    (other,) = set(Path(config.output_dir, "toy").glob("unlabelled_tiny_*/prompting.jsonl")) - {path}
    lines = other.read_text().splitlines()
    # A torn line and one with too few numbers are scored again, and nothing else is.
    other.write_text("\n".join([lines[0], lines[1][:50], lines[2].replace("]]]", "], [0.5]]]")]))
    del asked[:]
    again = result_of(replace(config, seed=9))
    assert asked == [100, 80] and again.tokens["prompt"] == whole.tokens["prompt"]


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
        (
            {"self_training": SelfTrainingConfig(), "train": False, "tam": TamConfig("t", checkpoint="tam")},
            "unlabelled=.*: is compared with synthetic rows; tam.checkpoint=tam is evaluated only",
        ),
        ({"self_training": SelfTrainingConfig(1, ["plm"])}, "self_training.teachers: 'plm' is unknown; .*prompting"),
        ({"self_training": SelfTrainingConfig(1, [])}, r"self_training.teachers=\[\]: allowed are one or more of"),
        ({"self_training": SelfTrainingConfig(2, ["prompting"])}, "without the teacher tam each round would be"),
        ({"self_training": SelfTrainingConfig(1, share=0.0)}, "self_training.share=0.0: allowed is 0 < share <= 1"),
        ({"self_training": SelfTrainingConfig(-1)}, "self_training.rounds=-1: allowed is 0"),
        ({"unlabelled_limit": 10}, "unlabelled_limit=10: allowed is 50 or more"),
        ({"dataset": "rows.jsonl"}, "no PLM is used with dataset=rows.jsonl; allowed are similarity and tam"),
        ({"setting": SettingConfig("supervised")}, "unlabelled=.*: setting=supervised does not read it"),
        (
            {"setting": SettingConfig("supervised"), "unlabelled": None},
            "self_training.rounds=2: setting=supervised does",
        ),
        (
            {"setting": SettingConfig("prompting"), "self_training": SelfTrainingConfig()},
            "reads it for calibration and demonstrations only",
        ),
        (
            {"setting": SettingConfig("supervised", calibration="em"), **NOTHING},
            "setting.calibration=em: setting=supervised does not read",
        ),
        ({"setting": SettingConfig("similarity")}, "self_training.rounds=2: setting=similarity does not read"),
        ({"setting": SettingConfig("similarity", scope="text"), **NOTHING}, "setting.scope=text: is about prompts"),
        ({"self_training": SelfTrainingConfig(1, synthetic="some")}, "synthetic=some: allowed is true, false or auto"),
        ({"self_training": SelfTrainingConfig(0, share=0.1)}, "share=0.1: does nothing while self_training.rounds=0"),
        ({"unlabelled": "gold", "unlabelled_column": "x"}, "unlabelled_column=x: is about a file; unlabelled=gold has"),
        ({"train": False}, "self_training.rounds=2: trains; train=false does not"),
        (
            {"setting": SettingConfig("similarity", calibration="prior"), **NOTHING},
            "calibration=prior: subtracts what a PLM",
        ),
        (
            {"setting": SettingConfig("prompting", calibration="em"), **NOTHING},
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
    with pytest.raises(
        UserError, match=r"teachers=\[.*\]: similarity compares single texts .*; allowed are prompting, tam"
    ):
        check_code([config])
    check_code([replace(config, self_training=SelfTrainingConfig(1, ["prompting", "tam"]))])


def test_a_stopped_round_is_gone_on_from_with_its_own_rows_only(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(self: Any, trainer: Any, pl_module: Any) -> None:
        if len(trainer.train_dataloader.dataset) > 60 and trainer.current_epoch == 0:
            raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(BestEpoch, "on_train_epoch_end", stop)
        with pytest.raises(Stop):
            result_of(config)
    (folder,) = Path(config.output_dir, "toy").glob("zerogen_*")
    assert not (folder / "result.json").exists()
    grown = result_of(replace(config, n=30))  # shares the folder
    fresh = result_of(replace(config, n=30, output_dir=f"{config.output_dir}-2"))
    assert grown.rounds == fresh.rounds and weights(grown) == weights(fresh)
    assert not list(grown.folder.glob("training-*.ckpt"))


def test_the_trend_is_that_of_synthetic_rows_alone(config: Config) -> None:
    config = replace(config, n=20, log_every=20)
    small = result_of(config)
    point = [
        line for line in (small.folder / "trend.csv").read_text().splitlines() if line.startswith("20,42,accuracy")
    ]
    alone = replace(config, self_training=SelfTrainingConfig(), unlabelled=None)
    accuracy = result_of(alone).metrics["accuracy"]
    assert point == [f"20,42,accuracy,{accuracy:.6f}"]
    grown = result_of(replace(config, n=40))
    assert point[0] in (grown.folder / "trend.csv").read_text()


def test_texts_that_cannot_be_read_are_refused_before_anything_is_written(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unlabelled=.*nowhere.txt: there is no such file"):
        result_of(replace(config, unlabelled=str(tmp_path / "nowhere.txt")))
    assert not list(Path(config.output_dir).rglob("texts.jsonl"))


def test_the_plm_is_asked_again_after_demonstrations(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = SelfTrainingConfig(rounds=1, teachers=["prompting"])
    base = result_of(replace(config, self_training=teachers))
    more = result_of(replace(config, self_training=teachers, scoring_demonstrations=2))
    assert more.folder != base.folder
    assert list(more.rounds[0]["agreement"]) == ["prompting", "prompting 2", "prompting 3"]
    (folder,) = config_folder(config).glob("unlabelled_*")  # what was asked without them is read from there
    names = sorted(path.name.split("-")[0] for path in folder.glob("*.jsonl"))
    assert names == ["demonstrated", "demonstrated", "prompting.jsonl"]
    before = prompting.demonstrated
    asked: list[str] = []

    def counted(plm: Any, task: Any, rows: Any, setting: Any, shown: str) -> Any:
        asked.append(shown)
        return before(plm, task, rows, setting, shown)

    monkeypatch.setattr(prompting, "demonstrated", counted)
    last = result_of(replace(config, self_training=teachers, scoring_demonstrations=3, seed=5))
    assert len(asked) == 1 and list(last.rounds[0]["agreement"])[-1] == "prompting 4"
    config.task.priors = {"bad": 0.9, "good": 0.1}  # which texts are surest depends on them
    result_of(replace(config, self_training=teachers, scoring_demonstrations=1))
    assert len(asked) == 2
