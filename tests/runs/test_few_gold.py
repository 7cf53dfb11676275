"""A few gold rows beside synthetic ones: half are trained on, half pick the epoch, none is reported on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.conftest import toy_rows
from zerogen.config.rules import check
from zerogen.config.schema import Config, CorrectnessConfig, SettingConfig, TamConfig
from zerogen.data.gold import load_gold
from zerogen.errors import UserError
from zerogen.jobs import run_one
from zerogen.runs.checks import check_code
from zerogen.runs.evaluator import evaluator_run
from zerogen.runs.few_gold import describe_labels_alone, few_gold, labels_alone, sizes_alone
from zerogen.runs.identity import texts_key
from zerogen.runs.run import Outcome, Run
from zerogen.tam import fit as fitting


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return replace(tiny_config, n=20, gold_rows=16, gold_weight=2.0)


def contents(config: Config, split: str) -> set[tuple[str, str]]:
    return {row.content for row in load_gold(config.task, split)}


def test_rows_are_drawn_by_the_seed_and_never_reported_on(config: Config) -> None:
    reported = contents(config, "validation")
    few = few_gold(config, reported)
    assert not {row.content for row in few.rows} & reported
    assert {row.content for row in few.rows} <= contents(config, "train")
    assert len(few.train) == len(few.heldout) == 8
    assert {row.weight for row in few.train} == {2.0} and {row.weight for row in few.heldout} == {1.0}
    assert few == few_gold(config, reported)
    assert few != few_gold(replace(config, seed=7), reported)
    leaked = few.rows[0].content
    without = few_gold(config, reported | {leaked})
    assert leaked not in {row.content for row in without.rows}


def test_they_are_trained_on_and_pick_the_epoch(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[Any], Any]] = []
    plain = fitting.fit

    def watched(rows: Any, *args: Any, **keys: Any) -> Any:
        seen.append((list(rows), keys.get("heldout")))
        return plain(rows, *args, **keys)

    monkeypatch.setattr(fitting, "fit", watched)
    result = run_one(config, Console(quiet=True))
    few = few_gold(config, contents(config, "validation"))
    rows, heldout = seen[0]
    assert rows[-8:] == few.train and len(rows) == 28 and heldout == few.heldout
    assert (result.n_train, result.gold_rows) == (28, 8)
    page = (result.folder / "report.html").read_text()
    assert "and 8 gold rows" in page and "What gold rows alone give" in page
    assert "8 rows labelled by humans" in (result.folder / "tam" / "README.md").read_text()


@pytest.mark.parametrize(("wins_at", "sizes"), [(1, [25]), (2, [25, 50]), (9, [25, 50, 60])])
def test_models_of_labels_alone_grow_until_one_is_better(
    config: Config, monkeypatch: pytest.MonkeyPatch, wins_at: int, sizes: list[int]
) -> None:
    accuracies = iter([1.0 if number == wins_at else 0.0 for number in range(1, 9)])
    monkeypatch.setattr("zerogen.metrics.evaluate", lambda *of: {"accuracy": next(accuracies), "macro_f1": 0.5})
    run = Run(config, [torch.device("cpu")])
    outcome = Outcome(metrics={"accuracy": 0.9, "macro_f1": 0.9})
    labels_alone(run, outcome)
    assert [one["rows"] for one in outcome.labels_alone] == sizes


def test_an_evaluator_does_not_see_them(config: Config) -> None:
    judged = replace(config, correctness=CorrectnessConfig(str(config.tam.model), rows=10))
    (one, other) = (
        evaluator_run(Run(each, [torch.device("cpu")])) for each in (judged, replace(judged, gold_rows=None))
    )
    assert one.few_gold is None and one.folder() == other.folder()


def test_texts_that_are_used_are_no_unlabelled_ones(config: Config) -> None:
    plain = Run(replace(config, gold_rows=None, gold_weight=1.0, unlabelled="gold"), [torch.device("cpu")])
    run = Run(replace(config, unlabelled="gold"), [torch.device("cpu")])
    assert run.few_gold is not None
    used = {row.content for row in run.few_gold.rows}
    assert [row for row in plain.unlabelled if row.content not in used] == run.unlabelled
    assert texts_key(plain.config) != texts_key(run.config)


def test_none_is_no_other_run(config: Config) -> None:
    none, zero = (replace(config, gold_rows=rows, gold_weight=1.0) for rows in (None, 0))
    check(zero)
    assert Run(none, [torch.device("cpu")]).folder() == Run(zero, [torch.device("cpu")]).folder()


def test_a_run_without_them_is_another_one(config: Config) -> None:
    folders = {
        run_one(each, Console(quiet=True)).folder
        for each in (config, replace(config, gold_weight=1.0), replace(config, gold_rows=None, gold_weight=1.0))
    }
    assert len(folders) == 3


def test_a_file_may_hold_them(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    rows = toy_rows(500)[480:]
    path.write_text("text,label\n" + "".join(f"{row.text},{row.label}\n" for row in rows))
    few = few_gold(replace(config, gold_rows=str(path)), set())
    assert {(row.text, row.label) for row in few.rows} == {(row.text, row.label) for row in rows} and not few.others
    bare = replace(config.task, gold={}, gold_source=None)
    result = run_one(replace(config, task=bare, gold_rows=str(path)), Console(quiet=True))
    assert result.gold_rows == 10 and not result.labels_alone  # nothing is reported on


def test_sizes_double_until_all_are_there() -> None:
    assert sizes_alone(10) == [10]
    assert sizes_alone(25) == [25]
    assert sizes_alone(120) == [25, 50, 100, 120]


@pytest.mark.parametrize(("reached", "said"), [(0.9, "50 of them beat the 80.0%"), (0.8, "50 of them do not beat")])
def test_it_is_said_whether_labels_beat_synthetic_rows(reached: float, said: str) -> None:
    found = [{"rows": 25, "metrics": {"accuracy": 0.5}}, {"rows": 50, "metrics": {"accuracy": reached}}]
    line = describe_labels_alone(found, "accuracy", 0.8)
    assert "25: 50.0%" in line and said in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gold_rows": -1}, "gold_rows=-1: allowed is 0"),
        ({"gold_rows": 2.5}, "gold_rows=2.5: allowed is a number of rows or a file"),
        ({"gold_rows": True}, "gold_rows=True: allowed is a number"),
        ({"gold_weight": 0.0}, "gold_weight=0.0: allowed is above 0"),
        ({"gold_rows": None}, "gold_weight=2.0: is about gold_rows"),
        ({"train": False}, "gold_rows=16: are trained on; train=false"),
        (
            {"train": False, "tam": TamConfig("t", checkpoint="folder")},
            "gold_rows=16: tam.checkpoint=folder is evaluated only",
        ),
        ({"setting": SettingConfig("supervised")}, "gold_rows=16: setting=supervised does not read it"),
    ],
)
def test_bad_values_are_one_line(config: Config, changes: dict[str, Any], message: str) -> None:
    bad = replace(config, **changes)
    with pytest.raises(UserError, match=message):
        check(bad)
        check_code([bad])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (3, "gold_rows=3: [12] of them have label '.*'; allowed are 4 or more"),
        (10**6, "gold_rows=1000000: the gold training split of task 'toy' has "),
        ("nowhere.csv", "gold_rows=nowhere.csv: there is no such file; allowed is a number of rows or a file"),
    ],
)
def test_rows_that_cannot_be_had_are_one_line(config: Config, rows: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        few_gold(replace(config, gold_rows=rows), set())
