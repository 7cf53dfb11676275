"""A selection of the user's own, end to end: the rows it chose are trained on, the PLM is loaded once."""

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import toy_rows
from zerogen.config.rules import check
from zerogen.config.schema import Config, PlmConfig, SettingConfig, TamConfig, TrainerConfig
from zerogen.config.task_schema import GoldConfig, TaskConfig
from zerogen.errors import UserError
from zerogen.jobs import run_one
from zerogen.runs.checks import check_code
from zerogen.runs.result import Result
from zerogen.runs.run import Run
from zerogen.support.console import make_console

EXAMPLES = Path(__file__).parents[2] / "examples" / "own_selection"


@pytest.fixture
def config(tmp_path: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(sys, "path", [*sys.path, str(EXAMPLES)])
    monkeypatch.chdir(tmp_path)
    gold = tmp_path / "v.jsonl"
    gold.write_text("".join(json.dumps({"text": row.text, "label": row.label}) + "\n" for row in toy_rows(20)))
    return Config(
        task=TaskConfig(
            name="toy",
            labels=["bad", "good"],
            prompts={"bad": 'Bad: "', "good": 'Good: "'},
            gold={"own": GoldConfig(files={"validation": str(gold)})},
            max_new_tokens=12,
            min_words=1,
        ),
        setting=SettingConfig("zerogen"),
        plm=PlmConfig("tiny", str(tiny_causal), dtype="float32"),
        tam=TamConfig("lstm", "lstm"),
        trainer=TrainerConfig(lr=1e-3, epochs=1),
        n=20,
    )


def run(config: Config) -> tuple[Result, list[dict[str, object]]]:
    check(config)
    result = run_one(config, make_console())
    dataset = result.folder / "toy-dataset.jsonl"
    return result, [json.loads(line) for line in dataset.read_text().splitlines()]


def test_the_surest_half_is_trained_on(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load_plm = Run.open_plm

    def counted(run: Run, folder: Path | None = None) -> object:
        loads.append("plm")
        return load_plm(run, folder)

    monkeypatch.setattr(Run, "open_plm", counted)
    config.task.parse.fallback = "sentence"
    whole, rows = run(config)
    assert loads == ["plm"]  # it writes and scores, and is not loaded again to measure
    pool = {path.name: path.read_bytes() for path in Path(str(whole.pool)).iterdir() if path.is_file()}
    config.select = ["surest:surest"]
    result, chosen = run(config)
    assert loads == ["plm"]
    assert (result.n_train, whole.n_train) == (10, 20)
    assert result.folder != whole.folder and result.pool == whole.pool
    assert {path.name: path.read_bytes() for path in Path(str(whole.pool)).iterdir() if path.is_file()} == pool
    lines = (whole.folder / "measured-rows.jsonl").read_text().splitlines()
    sure = {line["uid"]: line["uncalibrated"] for line in map(json.loads, lines)}
    for label in ("bad", "good"):
        own = [row for row in rows if row["label"] == label]
        best = sorted(own, key=lambda row: -sure[row["uid"]])[:5]
        assert {row["uid"] for row in chosen if row["label"] == label} == {row["uid"] for row in best}


def test_a_selection_is_refused_where_it_has_nothing_to_go_by(config: Config, tmp_path: Path) -> None:
    config.select = ["surest:surest"]
    config.dataset = str(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match="needs the PLM's confidence, which rows of a dataset do not have"):
        check_code([config])
    config.dataset, config.setting.name = None, "supervised"
    with pytest.raises(UserError, match="setting=supervised trains on no generated rows"):
        check_code([config])
    config.setting.name, config.select = "zerogen", ["surest:surset"]
    with pytest.raises(UserError, match="select=surest:surset: attribute: 'surset' is unknown.*did you mean 'surest'"):
        run(config)
