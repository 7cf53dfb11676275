"""result.json keeps its keys and bytes, is read whole, and says what an earlier version did not with defaults."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zerogen.errors import UserError
from zerogen.metrics import Reported
from zerogen.runs.result import Result
from zerogen.runs.summaries import COLUMNS, add_line, write_aggregate
from zerogen.support.progress import Progress

NEEDED: dict[str, Any] = {
    "setting": "zerogen",
    "task": "films",
    "plm": "gpt2",
    "tam": "lstm",
    "seed": 1,
    "n_train": 20,
    "n_eval": 4,
    "evaluated_on": "own/validation",
    "metrics": {"accuracy": 0.75, "macro_f1": 0.7, "confusion": {"é": {"é": 4}}},
}
KEYS = (
    "setting task plm tam weights seed n_train n_eval evaluated_on metrics best_epoch heldout_accuracy seconds tokens "
    "requests cut rejects blank answers peak_memory_mb versions asked_for command pool folder evaluator"
)


def written(result: Result) -> str:
    result.write()
    return (result.folder / "result.json").read_text()


def test_what_is_written_is_read_again_and_written_alike(tmp_path: Path) -> None:
    result = Result.of(NEEDED, "result.json", tmp_path)
    full = replace(result, seconds={"train": 1.25}, command=["task=films"], asked_for={"n": 20}, cut=3)
    text = written(full)
    assert list(json.loads(text)) == KEYS.split()
    assert json.loads(text)["folder"] == str(tmp_path)
    again = Result.of(json.loads(text), "result.json")
    assert again == full
    assert written(again) == text
    assert "é" in text


def test_further_metrics_are_kept_with_what_presents_them(tmp_path: Path) -> None:
    said = Reported("own:MCC@0", "Matthews correlation", "MCC", [0.1, 0.5])
    result = replace(Result.of(NEEDED, "", tmp_path), further_metrics={"mcc": said})
    assert Result.of(json.loads(written(result)), "").further_metrics == {"mcc": said}


def test_a_result_of_an_earlier_version_has_defaults(tmp_path: Path) -> None:
    result = Result.of(NEEDED | {"tokens": 7}, "", tmp_path)
    assert (result.tokens, result.command, result.pool, result.evaluator) == ({"generate": 7}, None, None, False)
    assert result.folder == tmp_path  # where it lies now
    assert Result.of(NEEDED | {"of a later version": 1}, "").scalars == {"accuracy": 0.75, "macro_f1": 0.7}


@pytest.mark.parametrize("damaged", [[], None, {"further_metrics": [1]}, {"further_metrics": {"mcc": {"title": 1}}}])
def test_a_damaged_result_is_named(damaged: Any) -> None:
    said = NEEDED | damaged if isinstance(damaged, dict) else damaged
    with pytest.raises(UserError, match=r"r\.json: is damaged; delete it to run again"):
        Result.of(said, "r.json")


def further(result: Result, value: float | None, seed: int = 1) -> Result:
    said = {"mcc": Reported("own:MCC@0", "Matthews correlation", "MCC")}
    return replace(result, seed=seed, metrics=result.metrics | {"mcc": value}, further_metrics=said)


def test_a_further_metric_is_another_column_of_results_csv(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    plain = replace(Result.of(NEEDED, "", tmp_path / "a"), seconds={"train": 1.0})
    add_line(path, plain, Progress())
    before = path.read_text().splitlines()
    assert before[0] == ",".join(COLUMNS)
    add_line(path, further(replace(plain, folder=tmp_path / "b"), 0.25), Progress())
    after = path.read_text().splitlines()
    assert after[:2] == [before[0] + ",mcc", before[1] + ","]
    assert after[2].endswith(f"{tmp_path / 'b'},0.25")
    add_line(path, replace(plain, folder=tmp_path / "c"), Progress())  # of a run without it
    assert path.read_text().splitlines() == [*after, before[1].replace("/a", "/c") + ","]


def test_a_metric_that_is_not_defined_is_a_gap(tmp_path: Path) -> None:
    one, two = (further(Result.of(NEEDED, "", tmp_path / "run"), value, i) for i, value in enumerate((0.5, None)))
    assert "mcc" not in two.scalars
    add_line(tmp_path / "results.csv", two, Progress())
    assert (tmp_path / "results.csv").read_text().splitlines()[1].endswith("run,")
    mean = json.loads(write_aggregate([one, two]).read_text())["mean"]
    assert mean == {"accuracy": 0.75, "macro_f1": 0.7}
