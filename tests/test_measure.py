"""Measuring the rows of a run folder and of a file, with a tiny evaluator that is trained here."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock

from tests.conftest import toy_rows
from zerogen.config.keys import keys_of
from zerogen.config.schema import (
    ConfidenceConfig,
    Config,
    CorrectnessConfig,
    DiversityConfig,
    PlmConfig,
    SettingConfig,
    TrainerConfig,
)
from zerogen.config.task_schema import GoldConfig, TaskConfig
from zerogen.data.records import Example
from zerogen.data.synthetic import export_rows, load_synthetic, write_jsonl
from zerogen.errors import UserError
from zerogen.measure import main
from zerogen.measures.files import MEASURED_ROWS, MEASURES, read_measures
from zerogen.measures.rows import measure
from zerogen.measures.store import measure_run
from zerogen.metrics.agreement import calibrated
from zerogen.plm.confidence import label_confidence
from zerogen.runs.evaluator import evaluator, evaluator_run, require_measures
from zerogen.runs.run import Run
from zerogen.support.progress import Progress


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zerogen.support.process.stop_on_signals", lambda: None)
    monkeypatch.chdir(tmp_path)


def gold_file(path: Path, rows: list[Example]) -> str:
    path.write_text("".join(json.dumps({"text": row.text, "label": row.label}) + "\n" for row in rows))
    return str(path)


def swapped(row: Example) -> Example:
    return replace(row, label="good" if row.label == "bad" else "bad")


@pytest.fixture
def config(tmp_path: Path, tiny_encoder: Path) -> Config:
    rows = toy_rows(240)
    files = {
        "train": gold_file(tmp_path / "t.jsonl", rows[:160]),
        "validation": gold_file(tmp_path / "v.jsonl", rows[160:]),
    }
    task = TaskConfig(
        name="toy",
        labels=["bad", "good"],
        max_length=64,
        prompts={"bad": 'Bad: "', "good": 'Good: "'},
        gold={"own": GoldConfig(files=files, label="label", labels={"bad": "bad", "good": "good"})},
    )
    config = Config(
        task=task,
        setting=SettingConfig("zerogen"),
        correctness=CorrectnessConfig(str(tiny_encoder)),
        dataset="given.jsonl",
    )
    config.plm.name = config.plm.model = config.tam.name = "none"
    return config


@pytest.fixture(autouse=True)
def quick_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate at which a tiny random encoder learns within seconds."""
    trainer = TrainerConfig(lr=3e-3, epochs=15, batch_size=8, schedule="constant")
    monkeypatch.setattr("zerogen.runs.evaluator.TrainerConfig", lambda: trainer)


def folder_of(config: Config, folder: Path, rows: list[Example]) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(keys_of(config)))
    write_jsonl(export_rows(rows, config.task), folder / "toy-dataset.jsonl")
    return folder


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / MEASURED_ROWS).read_text().splitlines()]


def measured(config: Config, folder: Path) -> dict[str, Any]:
    found = measure_run(Run(config, [torch.device("cpu")]), folder)
    assert found is not None
    return found


def test_an_evaluator_tells_right_labels_from_wrong_ones(config: Config, tmp_path: Path) -> None:
    rows = toy_rows(80)
    wrong = {row.uid for row in rows[:20]}
    folder = folder_of(config, tmp_path / "run", [swapped(row) if row.uid in wrong else row for row in rows])
    found = measured(config, folder)["correctness"]
    assert found["gold"]["accuracy"] > 0.95
    assert found["gold_rows"] == 80
    assert found["overall"]["share"] == pytest.approx(0.75, abs=0.05)
    assert found["overall"]["interval"][0] < 0.75 < found["overall"]["interval"][1]
    lines = lines_of(folder)
    assert [line["uid"] for line in lines] == [row.uid for row in rows]
    doubted = sorted(lines, key=lambda line: line["probability"])[:18]
    assert {line["uid"] for line in doubted} <= wrong


def test_an_evaluator_is_trained_once(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(config, folder_of(config, tmp_path / "one", toy_rows(40)))
    monkeypatch.setattr("zerogen.runs.supervised.supervised", None)  # whoever trains again fails
    other = replace(config, seed=7, eval_limit=20, limit=10)
    assert evaluator_run(Run(other, [torch.device("cpu")])).folder() == Path(first["correctness"]["folder"])
    second = measured(other, folder_of(other, tmp_path / "two", toy_rows(30)))
    assert second["correctness"]["gold"] == first["correctness"]["gold"]
    assert second["correctness"]["overall"]["rows"] == 30


def test_no_more_rows_are_judged_and_scored_than_asked_for(config: Config, tmp_path: Path, tiny_causal: Path) -> None:
    config.plm, config.dataset = PlmConfig("tiny", str(tiny_causal)), None
    config.correctness.rows, config.confidence = 20, ConfidenceConfig(rows=30)
    folder = folder_of(config, tmp_path / "run", toy_rows(40))
    found = measured(config, folder)
    assert found["diversity"]["rows"] == 40
    assert found["correctness"]["overall"]["rows"] == 20
    assert {label: one["rows"] for label, one in found["correctness"]["labels"].items()} == {"bad": 10, "good": 10}
    assert found["confidence"]["rows"] == 30
    lines = lines_of(folder)
    assert sum("probability" in line for line in lines) == 20
    assert sum("confidence" in line for line in lines) == len(lines) == 30


def test_each_row_has_its_probability_and_its_calibrated_confidence(
    config: Config, tmp_path: Path, tiny_causal: Path
) -> None:
    config.plm, config.dataset = PlmConfig("tiny", str(tiny_causal)), None
    rows = [swapped(row) if i % 4 == 0 else row for i, row in enumerate(toy_rows(80))]
    folder = folder_of(config, tmp_path / "run", rows)
    found, lines = measured(config, folder), lines_of(folder)
    run = Run(config, [torch.device("cpu")])
    tam, _ = evaluator(run)
    judged = zip(rows, tam.predict(tam.inputs_of(rows)), strict=True)
    probabilities = [prediction.probabilities[row.label] for row, prediction in judged]
    assert [line["probability"] for line in lines] == pytest.approx(probabilities, abs=1e-4)
    raw = label_confidence(run.load_scorer("confidence"), config.task, rows)
    assert raw is not None
    assert found["confidence"]["estimate"] == pytest.approx(sum(raw) / 80, abs=1e-4)
    confidences = [line["confidence"] for line in lines]
    assert confidences == pytest.approx(calibrated(raw, found["confidence"]["calibration"]), abs=1e-4)
    assert sum(confidences) / 80 == pytest.approx(found["correctness"]["overall"]["share"], abs=0.02)
    assert abs(sum(raw) / 80 - sum(confidences) / 80) > 0.1  # what was calibrated is told from what was not


def test_confidences_are_calibrated_once_there_is_an_evaluator(
    config: Config, tmp_path: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.plm, config.dataset = PlmConfig("tiny", str(tiny_causal)), None
    plain = replace(config, correctness=CorrectnessConfig(None))
    rows = [swapped(row) if i % 4 == 0 else row for i, row in enumerate(toy_rows(40))]
    folder = folder_of(config, tmp_path / "run", rows)
    whole = measured(config, folder_of(config, tmp_path / "at-once", rows))
    assert measured(plain, folder)["confidence"]["calibration"] is None
    monkeypatch.setattr("zerogen.runs.zerogen.confidences", None)  # whoever asks the PLM again fails
    measured(config, folder)
    found = json.loads((folder / MEASURES).read_text())
    assert found["confidence"] == approximately(whole["confidence"])
    assert [line["confidence"] for line in lines_of(folder)] == pytest.approx(
        [line["confidence"] for line in lines_of(tmp_path / "at-once")], abs=1e-4
    )


def approximately(value: Any) -> Any:
    """Figures of a nested result, each to within a ten-thousandth."""
    if isinstance(value, dict):
        return {key: approximately(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [approximately(inner) for inner in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


def test_other_gold_rows_are_another_evaluator(config: Config, tmp_path: Path) -> None:
    before = evaluator_run(Run(config, [torch.device("cpu")])).folder()
    gold_file(tmp_path / "t.jsonl", toy_rows(100))
    assert evaluator_run(Run(config, [torch.device("cpu")])).folder() != before


def test_measures_are_kept_until_something_changes(config: Config, tmp_path: Path) -> None:
    config.correctness.evaluator = None
    folder = folder_of(config, tmp_path / "run", toy_rows(40))
    found = measured(config, folder)
    assert found["correctness"] is found["confidence"] is None
    kept = json.loads((folder / MEASURES).read_text()) | {"marked": True}
    (folder / MEASURES).write_text(json.dumps(kept))
    assert measured(config, folder)["marked"]
    config.diversity.self_bleu_texts = 10
    assert "marked" not in measured(config, folder)
    write_jsonl(export_rows(toy_rows(44), config.task), folder / "toy-dataset.jsonl")
    assert measured(config, folder)["diversity"]["rows"] == 44


def test_what_was_measured_beyond_a_configuration_stays(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(config, correctness=CorrectnessConfig(None))
    folder = folder_of(plain, tmp_path / "run", toy_rows(40))
    judged = measured(config, folder)
    lines = (folder / MEASURED_ROWS).read_text()
    monkeypatch.setattr("zerogen.measures.store.evaluator_run", None)  # it is not needed any more
    assert measured(plain, folder) == judged
    plain.diversity.self_bleu_texts = 10
    again = measured(plain, folder)
    assert (again["correctness"], again["diversity"]["self_bleu_texts"]) == (judged["correctness"], 10)
    assert (folder / MEASURED_ROWS).read_text() == lines


def test_other_gold_rows_are_other_measures(config: Config, tmp_path: Path) -> None:
    folder = folder_of(config, tmp_path / "run", toy_rows(40))
    assert measured(config, folder)["correctness"]["trained_on"] == 160
    gold_file(tmp_path / "t.jsonl", toy_rows(240)[:100])
    plain = replace(config, correctness=CorrectnessConfig(None))
    assert measured(config, folder)["correctness"]["trained_on"] == 100
    gold_file(tmp_path / "t.jsonl", toy_rows(240)[:90])
    assert measured(replace(plain, diversity=DiversityConfig(10)), folder)["correctness"]["trained_on"] == 100


@pytest.mark.parametrize("damaged", ["{", "[]", '{"asked_for": {"format": 1}}'])
def test_damaged_measures_are_measured_again(config: Config, tmp_path: Path, damaged: str) -> None:
    config.correctness.evaluator = None
    folder = folder_of(config, tmp_path / "run", toy_rows(8))
    (folder / MEASURES).write_text(damaged)
    assert measured(config, folder)["diversity"]["rows"] == 8
    assert read_measures(folder, "toy") is not None
    (folder / MEASURED_ROWS).unlink()
    measured(config, folder)
    assert (folder / MEASURED_ROWS).is_file()
    write_jsonl(export_rows(toy_rows(9), config.task), folder / "toy-dataset.jsonl")
    assert read_measures(folder, "toy") is None  # they are of other rows


class Says(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize(
    "damaged",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"uid": []}',
        b'{"uid": "nobody", "margin": 0.5}',
        b'{"margin": 0.5}',
        b'{"uid": "row-0", "margin": "much"}',
        b'{"uid": "row-0", "agreement": 1.0}',
    ],
)
def test_damaged_lines_beside_valid_measures_are_measured_again(config: Config, tmp_path: Path, damaged: bytes) -> None:
    config.correctness.evaluator = None
    rows = [replace(row, logprob=-2.0, counter_logprob={"other": -2.5}) for row in toy_rows(8)]
    folder = folder_of(config, tmp_path / "run", rows)
    measured(config, folder)
    lines = lines_of(folder)
    (folder / MEASURED_ROWS).write_bytes(damaged + b"\n")
    progress = Says()
    assert measure_run(Run(config, [torch.device("cpu")], progress), folder) is not None
    assert lines_of(folder) == lines
    assert len(progress.said) == 1
    assert MEASURED_ROWS in progress.said[0]


def test_a_tokenizer_counts_as_the_one_that_auto_stands_for(config: Config, tmp_path: Path) -> None:
    config.correctness.evaluator = None
    by_name = replace(config, diversity=DiversityConfig(tokenizer="13a"))
    chinese = [replace(row, text=f"这是第{i}部电影的影评") for i, row in enumerate(toy_rows(8))]
    for name, rows, stays in (("english", toy_rows(8), True), ("chinese", chinese, False)):
        folder = folder_of(config, tmp_path / name, rows)
        measured(by_name, folder)
        kept = json.loads((folder / MEASURES).read_text()) | {"marked": True}
        (folder / MEASURES).write_text(json.dumps(kept))
        assert ("marked" in measured(config, folder)) == stays
    assert measured(config, folder)["diversity"]["tokenizer"] == "zh"


def test_rows_that_share_a_uid_are_judged_apart(config: Config, tmp_path: Path) -> None:
    rows = toy_rows(40)
    both = tmp_path / "both.jsonl"
    write_jsonl(export_rows([*rows, *map(swapped, rows)], config.task), both)
    twice = load_synthetic(str(both), config.task, {})
    assert [row.label for row in twice] == [row.label for row in [*rows, *map(swapped, rows)]]
    found, lines = measure(Run(config, [torch.device("cpu")]), twice)
    assert len(lines) == 80
    agreed = sum(line["agreement"] for line in lines) / 80
    assert found["correctness"]["overall"]["share"] == agreed == 0.5


def test_of_runs_that_need_an_evaluator_at_once_one_trains_it(config: Config, tmp_path: Path) -> None:
    class Waits(Progress):
        def say(self, text: str) -> None:
            said.append(text)
            if text.startswith("waiting"):
                lock.release()

    said: list[str] = []
    run = Run(config, [torch.device("cpu")], Waits())
    folder = evaluator_run(run).folder()
    folder.mkdir(parents=True)
    lock = FileLock(folder / ".lock")
    lock.acquire()
    measure(run, toy_rows(8))
    assert said[0] == f"waiting for another run that writes {folder}"
    assert sum(text.startswith("training the evaluator") for text in said) == 1


def test_an_evaluator_that_would_learn_what_it_is_checked_on_is_refused_early(config: Config, tmp_path: Path) -> None:
    gold_file(tmp_path / "t.jsonl", toy_rows(240)[160:])
    with pytest.raises(UserError, match=r"\(or an evaluator\) trains on"):
        require_measures(Run(config, [torch.device("cpu")]))


def test_a_tokenizer_that_is_not_installed_is_refused_early(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    config.diversity.tokenizer = "spacy"
    with pytest.raises(UserError, match="needs `pip install spacy`"):
        require_measures(Run(config, [torch.device("cpu")]))


def test_a_margin_is_kept_from_self_debiasing(config: Config, tmp_path: Path) -> None:
    config.correctness.evaluator = None
    rows = [replace(row, logprob=-2.0, counter_logprob={"other": -2.5, "third": -3.0}) for row in toy_rows(8)]
    folder = folder_of(config, tmp_path / "run", rows)
    measured(config, folder)
    assert lines_of(folder)[0] == {"uid": "row-0", "margin": 0.5}


def test_the_command_measures_a_run_and_a_file(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.correctness.evaluator = None
    folder = folder_of(config, tmp_path / "run", toy_rows(40))
    main([str(folder)])
    assert "Self-BLEU-4" in capsys.readouterr().out
    written = json.loads((folder / MEASURES).read_text())
    main([str(folder / "toy-dataset.jsonl"), "--format", "json"])
    assert json.loads(capsys.readouterr().out)["diversity"] == written["diversity"]
    (tmp_path / "texts.csv").write_text("text\nsome words of a text\nother words of a text\n")
    main(["texts.csv", "--format", "json"])
    assert json.loads(capsys.readouterr().out)["diversity"]["rows"] == 2


def test_a_context_that_is_no_text_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.jsonl").write_text('{"X": "a b c", "C": 5}\n{"X": "d e f", "C": "d e f g"}\n')
    main(["t.jsonl", "--format", "json"])
    assert json.loads(capsys.readouterr().out)["diversity"]["copies_context"] == 1


def test_the_command_says_what_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("text\nso good\ntoo bad\n")
    main(["t.csv"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Self-BLEU-4" not in said
    assert "no text has 3 tokens, so that Self-BLEU says nothing from n = 3 on" in said
    (tmp_path / "t.csv").write_text("text\n我喜欢这部电影\n我喜欢这首歌曲\n")
    main(["t.csv"])
    assert "Self-BLEU-4 by zh" in capsys.readouterr().out
    main(["t.csv", "--tokenizer", "char"])
    assert "Self-BLEU-4 by char" in capsys.readouterr().out


def test_a_tilde_is_the_home_folder(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    folder_of(replace(config, correctness=CorrectnessConfig(None)), home / "run", toy_rows(8))
    main(["~/run"])
    assert (home / "run" / MEASURES).is_file()
    asked = ["~/run/toy-dataset.jsonl", "--task", "rotten_tomatoes", "--evaluator", "minilm"]
    for option in ("--data-dir", "--output-dir"):
        with pytest.raises(SystemExit):
            main([*asked, option, "~/run/config.yaml"])
        assert f"={home / 'run' / 'config.yaml'}: " in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"task: \xff", b"task: [", b"- task", b"task: {name: 5, kin: pair}"])
def test_a_damaged_configuration_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        main(["run"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "config.yaml" in said
    assert "Traceback" not in said


def test_a_configuration_is_read_as_it_stands(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.correctness.evaluator = None
    config.task.prompts["bad"] = 'For ${price}: "'
    folder = folder_of(config, tmp_path / "run", toy_rows(8))
    main([str(folder)])
    assert "Self-BLEU-4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "nothing: there is no such file"),
        (["."], "neither a run folder"),
        (["run", "--task", "qnli"], "--task: is for a file"),
        (["run", "--evaluator", "minlm"], "did you mean 'minilm'"),
        (["run", "--texts", "1"], "self_bleu_texts=1: allowed is 2 or more"),
        (["t.jsonl", "--plm", "smollm2"], "--plm: needs --task"),
        (["t.jsonl", "--task", "rotten_tomatoes", "--plm", "smolm2"], "did you mean 'smollm2'"),
        (["t.jsonl", "--gpu", "0,1"], "--gpu 0,1: allowed is auto, none or an index"),
        (["mixed.jsonl"], "mixed.jsonl: row 2: text is None; allowed is a text"),
        (["odd.jsonl"], "odd.jsonl: no column X or question or text; there are: txt"),
    ],
)
def test_wrong_arguments_are_one_line(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    folder_of(config, tmp_path / "run", toy_rows(8))
    (tmp_path / "odd.jsonl").write_text('{"txt": "a b c"}\n')
    (tmp_path / "mixed.jsonl").write_text('{"text": "a b c"}\n{"X": "a b c"}\n')
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / MEASURES).exists()
