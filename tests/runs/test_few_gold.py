"""A few gold rows beside synthetic ones: half are trained on, half pick the epoch, none is reported on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.conftest import toy_rows
from zerogen.config.rules import check
from zerogen.config.schema import Config, SettingConfig
from zerogen.data.gold import load_gold
from zerogen.errors import UserError
from zerogen.jobs import run_one
from zerogen.runs.checks import check_code
from zerogen.runs.few_gold import describe_labels_alone, few_gold, sizes_alone
from zerogen.tam import fit as fitting


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return replace(tiny_config, n=20, gold_rows=16, gold_weight=2.0)


def contents(config: Config, split: str) -> set[tuple[str, str]]:
    return {row.content for row in load_gold(config.task, split)}


def test_rows_are_drawn_by_the_seed_and_never_reported_on(config: Config) -> None:
    reported = contents(config, "validation")
    few = few_gold(config, reported)
    assert few is not None
    assert not {row.content for row in few.rows} & reported
    assert {row.content for row in few.rows} <= contents(config, "train")
    assert len(few.train) == len(few.heldout) == 8
    assert {row.weight for row in few.train} == {2.0} and {row.weight for row in few.heldout} == {1.0}
    assert few == few_gold(config, reported)
    assert few != few_gold(replace(config, seed=7), reported)
    leaked = few.rows[0].content
    without = few_gold(config, reported | {leaked})
    assert without is not None and leaked not in {row.content for row in without.rows}


def test_they_are_trained_on_and_pick_the_epoch(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[Any], Any]] = []
    plain = fitting.fit

    def watched(rows: Any, *args: Any, **keys: Any) -> Any:
        seen.append((list(rows), keys.get("heldout")))
        return plain(rows, *args, **keys)

    monkeypatch.setattr(fitting, "fit", watched)
    result = run_one(config, Console(quiet=True))
    few = few_gold(config, contents(config, "validation"))
    assert few is not None
    rows, heldout = seen[0]
    assert rows[-8:] == few.train and len(rows) == 28 and heldout == few.heldout
    assert (result.n_train, result.gold_rows) == (28, 8)
    alone = [len(rows) for rows, _ in seen[1:]]
    assert [one["rows"] for one in result.labels_alone] == alone == sizes_alone(10**6)[: len(alone) - 1] + alone[-1:]
    best = [one["metrics"]["accuracy"] for one in result.labels_alone]
    assert all(value <= result.metrics["accuracy"] for value in best[:-1])
    page = (result.folder / "report.html").read_text()
    assert "and 8 gold rows" in page and "What gold rows alone give" in page
    assert "8 rows labelled by humans" in (result.folder / "tam" / "README.md").read_text()


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
    assert few is not None
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
        ({"gold_rows": 0}, "gold_rows=0: allowed is 1 or more"),
        ({"gold_rows": 2.5}, "gold_rows=2.5: allowed is a number of rows or a file"),
        ({"gold_rows": True}, "gold_rows=True: allowed is a number"),
        ({"gold_weight": 0.0}, "gold_weight=0.0: allowed is above 0"),
        ({"gold_rows": None}, "gold_weight=2.0: is about gold_rows"),
        ({"train": False}, "gold_rows=16: are trained on; train=false"),
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
