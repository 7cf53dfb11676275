import csv
import json
from pathlib import Path

import pytest

from tests.examples.conftest import Command
from zerogen.data.records import Example, Prediction
from zerogen.report.finished import read_run

WORDS = ["setting=supervised", "task=rotten_tomatoes", "tam=lstm", "trainer.epochs=8", "limit=200", "eval_limit=60"]
WORDS += ["seed=1", "gpu=none"]
ASKED = "metrics=[matthews:MATTHEWS]"


def matthews_of(folder: Path) -> float:
    """The correlation of a run's predictions, by the textbook formula for two labels."""
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    counts = {(a, b): 0 for a in ("negative", "positive") for b in ("negative", "positive")}
    for line in lines:
        counts[line["label"], line["prediction"]] += 1
    (tn, fp, fn, tp) = counts.values()
    return (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5


def test_a_metric_of_ones_own_stands_wherever_figures_do(example: Path, command: Command) -> None:
    done = command("zerogen", *WORDS, ASKED)
    assert done.returncode == 0, done.stderr
    (folder,) = (example / "outputs/rotten_tomatoes").glob("supervised_*")
    result = json.loads((folder / "result.json").read_text())
    value = result["metrics"]["matthews"]
    assert value == pytest.approx(matthews_of(folder))
    assert list(result["metrics"]) == ["accuracy", "macro_f1", "matthews", "confusion"]
    header, line = done.stdout.split("\nsetting")[1].splitlines()[0], done.stdout.split("───\n")[-1].splitlines()[0]
    assert header.split()[-4:] == ["accuracy", "F1", "MCC", "seconds"]
    assert line.split()[-2] == f"{value:.1%}"
    assert f"Matthews correlation {value:.1%} on 60 gold rows" in done.stdout
    (row,) = csv.DictReader((example / "outputs/results.csv").open())
    assert list(row)[-2:] == ["folder", "matthews"]
    assert float(row["matthews"]) == pytest.approx(value, abs=1e-4)
    trend = list(csv.DictReader((folder / "trend.csv").open()))
    assert [float(one["value"]) for one in trend if one["metric"] == "matthews"] == [pytest.approx(value, abs=1e-6)]
    shown = f"{100 * value:.1f} %"
    assert f"<dt>Matthews correlation</dt><dd>{shown}</dd>" in (folder / "report.html").read_text()
    assert f"| Matthews correlation | {shown} |" in (folder / "tam" / "README.md").read_text()
    table = command("zerogen.table", "outputs", "--format", "markdown")
    assert "| rotten\\_tomatoes | rotten\\_tomatoes MCC |" in table.stdout
    assert f"| {100 * value:.1f} (1) |" in table.stdout


def test_a_finished_run_is_not_trained_again_for_it(example: Path, command: Command) -> None:
    assert command("zerogen", *WORDS).returncode == 0
    (folder,) = (example / "outputs/rotten_tomatoes").glob("supervised_*")
    before = read_run(folder).result
    weights = (folder / "tam" / "model.safetensors").stat().st_mtime_ns
    csv_before = (example / "outputs/results.csv").read_text().splitlines()
    assert "matthews" not in before.metrics
    done = command("zerogen", *WORDS, ASKED)
    assert done.returncode == 0, done.stderr
    assert "already there, only metrics computed, from its predictions" in done.stdout
    after = read_run(folder).result
    assert after.metrics["matthews"] == pytest.approx(matthews_of(folder))
    assert {name: value for name, value in after.metrics.items() if name != "matthews"} == before.metrics
    assert (folder / "tam" / "model.safetensors").stat().st_mtime_ns == weights
    assert "Matthews correlation" in (folder / "report.html").read_text()
    assert [
        line.rpartition(",")[0] for line in (example / "outputs/results.csv").read_text().splitlines()
    ] == csv_before
    again = command("zerogen", *WORDS, ASKED)
    assert "already there, nothing done" in again.stdout
    (example / "matthews.py").write_text((example / "matthews.py").read_text().replace("if spread else nan", "/ 2"))
    changed = command("zerogen", *WORDS, ASKED)
    assert "only metrics computed" in changed.stdout
    assert read_run(folder).result.metrics["matthews"] == pytest.approx(matthews_of(folder) / 2)


def test_what_is_no_metric_is_refused_in_one_line(example: Path, command: Command) -> None:
    text = (example / "matthews.py").read_text()
    (example / "taken.py").write_text(text.replace('Metric("matthews"', 'Metric("seconds"'))
    (example / "fails.py").write_text(text.replace("nan\n", "nann\n").replace("if spread else", "if spread < 0 else"))
    for name, message in (
        ("matthew", "metrics: 'matthew' is unknown; allowed: accuracy, macro_f1, exact_match, f1, your own module"),
        ("matthews:MATTHEW", "did you mean 'MATTHEWS'?"),
        ("matthews:matthews", "metrics=matthews:matthews: is of type function; allowed is a zerogen.metrics.Metric"),
        ("f1", "metrics=f1: is for qa; this task is classification"),
        ("taken:MATTHEWS", "metrics=taken:MATTHEWS: its name is 'seconds'; allowed are letters"),
        ("fails:MATTHEWS", "metrics=fails:MATTHEWS: failed with NameError: name 'nann' is not defined"),
    ):
        done = command("zerogen", *WORDS, f"metrics=[{name}]")
        assert done.returncode == 2, done.stdout
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not list((example / "outputs").rglob("training"))  # found before any of it


def test_the_correlation_of_guesses_and_of_right_predictions(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(example))
    from matthews import matthews

    rows = [Example("", "", label) for label in "aabb"]
    assert matthews(rows, [Prediction(label, {}) for label in "aabb"], ["a", "b"]) == pytest.approx(1)
    assert matthews(rows, [Prediction(label, {}) for label in "abab"], ["a", "b"]) == pytest.approx(0)
    assert matthews(rows, [Prediction(label, {}) for label in "bbaa"], ["a", "b"]) == pytest.approx(-1)
