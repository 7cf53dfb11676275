"""What a command of several runs prints and writes: a column per metric, and every page once."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import zerogen.report.page as page
from tests.report.conftest import Made
from zerogen.config.schema import CorrectnessConfig, SettingConfig
from zerogen.jobs import run_all
from zerogen.metrics import Reported
from zerogen.report.terminal import report, results_table
from zerogen.runs.result import Result


def result(metrics: dict[str, Any], **keys: Any) -> Result:
    return Result("zerogen", "films", "gpt2", "lstm", 1, 20, 4, "own/validation", metrics, **keys)


def printed(*results: Result) -> list[list[str]]:
    text = io.StringIO()
    Console(file=text, width=80).print(results_table(results))
    header, _, *lines = text.getvalue().splitlines()
    return [line.split()[4:] for line in (header, *lines)]


LABELS, ANSWERS = {"accuracy": 0.75, "macro_f1": 0.5}, {"exact_match": 0.25, "f1": 0.3}


def test_metrics_have_columns_by_their_rank_in_the_kind_of_task() -> None:
    assert printed(result(LABELS)) == [["rows", "accuracy", "F1", "seconds"], ["20", "75.0%", "50.0%", "0"]]
    assert printed(result(ANSWERS))[0] == ["rows", "EM", "F1", "seconds"]
    assert printed(result({}))[0] == ["rows", "accuracy", "F1", "seconds"]
    assert printed(result({}))[1] == ["20", "-", "-", "0"]
    assert printed(result(LABELS), result(ANSWERS)) == [
        ["rows", "accuracy/EM", "F1", "seconds"],
        ["20", "75.0%", "50.0%", "0"],
        ["20", "25.0%", "30.0%", "0"],
    ]


def test_further_metrics_have_columns_of_their_own() -> None:
    said = {"mcc": Reported("own:MCC@0", "Matthews correlation", "MCC")}
    assert printed(result(LABELS | {"mcc": -0.125}, further_metrics=said), result(LABELS)) == [
        ["rows", "accuracy", "F1", "MCC", "seconds"],
        ["20", "75.0%", "50.0%", "-12.5%", "0"],
        ["20", "75.0%", "50.0%", "-", "0"],
    ]


def test_pages_of_several_runs_are_written_once_when_all_are_there(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(made.config, correctness=CorrectnessConfig(None), log_every=None, output_dir=str(tmp_path))
    configs = [replace(config, seed=1), replace(config, setting=SettingConfig("supervised"), dataset=None)]
    results = [one for one in run_all(configs, Console(quiet=True)) if isinstance(one, Result)]
    assert not list(tmp_path.rglob("report.html"))
    count = Counter[Path]()
    write = page.write_report

    def counted(folder: Path) -> Path:
        count[folder] += 1
        return write(folder)

    monkeypatch.setattr(page, "write_report", counted)
    text = io.StringIO()
    report([configs[:1], configs[1:]], results, tmp_path, Console(file=text, width=80))
    assert count == {one.folder: 1 for one in results}
    paths = [*(one.folder / "report.html" for one in results), tmp_path / "overview.html", tmp_path / "results.csv"]
    assert text.getvalue().split()[-4:] == list(map(str, paths))
    assert all(path.is_file() for path in paths)
    assert all((one.folder / "tam" / "README.md").is_file() for one in results)
    assert "SUPERVISED, 60 gold rows" in paths[0].read_text()  # which was not there when the first one ended
    list(run_all(configs[:1], Console(quiet=True)))
    assert count[results[0].folder] == 2  # a run alone writes its own
