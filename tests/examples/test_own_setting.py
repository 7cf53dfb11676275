"""A setting of the user's own, from the command line to the table, without a change to the package."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zerogen import cli

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_setting"
DATA = ["task=rotten_tomatoes", "eval_limit=60", "gpu=none"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "own"
    shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(place)
    return place


def zerogen(*arguments: str, module: str = "zerogen") -> str:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_beside_the_others_and_stands_in_their_table(folder: Path) -> None:
    small = ["tam=lstm", "limit=60", "trainer.epochs=1"]
    out = zerogen("--config-dir", "conf", "-m", "setting=majority,supervised", *DATA, *small)
    (own,) = (folder / "outputs" / "rotten_tomatoes").glob("majority_none_none_*")
    result = json.loads((own / "result.json").read_text())
    assert (result["setting"], result["n_eval"]) == ("majority", 60)
    lines = [json.loads(line) for line in (own / "predictions.jsonl").read_text().splitlines()]
    assert {line["prediction"] for line in lines} == {"negative"}
    right = sum(line["label"] == "negative" for line in lines)
    assert result["metrics"]["accuracy"] == pytest.approx(right / 60)
    assert "rotten_tomatoes, MAJORITY" in (own / "report.html").read_text()
    with (folder / "outputs" / "results.csv").open() as file:
        assert [line["setting"] for line in csv.DictReader(file)] == ["majority", "supervised"]
    (folder / "majority.py").unlink()  # a table needs what is on disk alone
    table = zerogen("outputs", "--format", "csv", module="zerogen.table")
    lines = [line for line in csv.DictReader(table.splitlines()) if line["metric"] == "accuracy"]
    rows = {(line["setting"], line["plm"], line["tam"]): float(line["mean"]) for line in lines}
    baseline, own_row = ("majority label", "none", "none"), ("majority", "none", "none")
    assert list(rows) == [baseline, ("supervised", "none", "lstm"), own_row]
    assert rows[baseline] >= rows[own_row]  # which predicts the label that is most frequent elsewhere
    assert "MAJORITY" in out and "overview.html" in out


def test_a_dry_run_counts_what_it_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zerogen.support.process.stop_on_signals", lambda: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", {name: one for name, one in sys.modules.items() if name != "majority"})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["--config-dir", "conf", "setting=majority", *DATA, "seeds=[1,2]", "dry_run=true"]
    monkeypatch.setattr(sys, "argv", ["zerogen", *words])
    cli.main()
    out = capsys.readouterr().out
    assert "setting=majority task=rotten_tomatoes" in out
    assert "gold data of rotten_tomatoes, train: 7,464 rows" in out
    assert "expected: about 0 s (count 0 s)" in out
    assert "2 runs" not in out  # it draws nothing: one run stands for all seeds
    assert not (folder / "outputs").exists()
