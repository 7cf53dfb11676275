"""The prediction command, on a model trained here."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import toy_pairs, toy_questions, toy_rows
from zerogen import predict
from zerogen.config import TamConfig, TaskConfig, TrainerConfig
from zerogen.records import Span
from zerogen.tam.train import fit

TASK = TaskConfig(name="toy", labels=["bad", "good"], max_length=64)
TEXTS = ["a dull film", 'a "lovely", bright film']


@pytest.fixture(scope="module")
def folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    config = TamConfig(name="tiny", model=str(tiny_encoder))
    trainer = TrainerConfig(lr=3e-3, epochs=15, batch_size=8, schedule="constant")
    fit(toy_rows(120), TASK, config, trainer, seed=1)[0].save(run / "tam")
    return run


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerogen.process.stop_on_signals", lambda: None)


def test_the_three_formats(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict.main([str(folder), *TEXTS])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(label, text) for label, _, text in lines] == [("bad", TEXTS[0]), ("good", TEXTS[1])]
    predict.main([str(folder), "--format", "jsonl", *TEXTS])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    assert [f"{row['probability']:.4f}" for row in rows] == [probability for _, probability, _ in lines]
    predict.main([str(folder / "tam"), "--format", "csv", *TEXTS])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["text"] for row in table] == TEXTS
    assert [row["label"] for row in table] == ["bad", "good"]


def test_texts_from_a_file_and_from_standard_input(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict.main([str(folder), *TEXTS])
    expected = capsys.readouterr().out
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    predict.main([str(folder), "--file", str(path)])
    assert capsys.readouterr().out == expected
    monkeypatch.setattr("sys.stdin", stdin(("\r\n".join(TEXTS) + "\r\n").encode()))
    predict.main([str(folder)])
    assert capsys.readouterr().out == expected
    monkeypatch.setattr("sys.stdin", stdin("café".encode("latin-1")))
    with pytest.raises(SystemExit) as stop:
        predict.main([str(folder)])
    assert stop.value.code == 2
    assert "standard input: not UTF-8 text" in capsys.readouterr().err


def stdin(content: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/none", "x"], "there is no such folder"),
        (["{}", "x"], "holds no trained model"),
        (["{}", "x", "--file", "y"], "TEXT or --file, not both"),
        (["{run}", "--file", "{}/none.txt"], "there is no such file"),
        (["{run}", "--gpu", "99", "x"], "gpu=99: there is no such GPU"),
        (["{run}", "--gpu", "best", "x"], "--gpu best"),
        (["{run}", "--format", "xml", "x"], "invalid choice: 'xml'"),
    ],
)
def test_wrong_input(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        predict.main([argument.format(tmp_path, run=folder) for argument in arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.fixture(scope="module", params=["pair", "qa"])
def paired(request: pytest.FixtureRequest, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    task = replace(TASK, kind=request.param, labels=TASK.labels if request.param == "pair" else ["question"])
    rows = toy_pairs(32) if request.param == "pair" else toy_questions(32)
    config = TamConfig(name="tiny", model=str(tiny_encoder))
    fit(rows, task, config, TrainerConfig(epochs=1), seed=1)[0].save(run / "tam")
    return run


def test_a_line_has_three_columns_whatever_the_texts_hold() -> None:
    file = io.StringIO()
    given: list[Any] = [("Who\tis it?", "He\nleft.")]
    predict.write(given, [Span("He\nleft", 0, 0.5)], "text", file)
    assert file.getvalue() == "He left\t0.5000\tWho is it?\n"


def test_a_text_goes_with_its_context(
    paired: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    qa = json.loads((paired / "tam" / "config.json").read_text())["zerogen"]["kind"] == "qa"
    predict.main([str(paired), "Where?", "Why?", "--context", "In Rome.", "--format", "jsonl"])
    expected = capsys.readouterr().out
    rows = [json.loads(line) for line in expected.splitlines()]
    assert [row["question" if qa else "text"] for row in rows] == ["Where?", "Why?"]
    assert all(("answer" if qa else "label") in row for row in rows)
    if qa:
        assert all("In Rome."[row["start"] :].startswith(row["answer"]) for row in rows)
    path = tmp_path / "texts.jsonl"
    name = "question" if qa else "text"
    path.write_text("".join(json.dumps({name: text, "context": "In Rome."}) + "\n" for text in ("Where?", "Why?")))
    predict.main([str(paired), "--file", str(path), "--format", "jsonl"])
    assert capsys.readouterr().out == expected
    allowed = f"1: has no '{name}'; allowed is {{{name}, context}}"
    for content, message in (
        ("Where?", "1: not JSON"),
        ('{"contxt": 1}', allowed),
        (json.dumps({name: "Why?", "context": 3}), "1: 'context' is 3; allowed is a text"),
    ):
        path.write_text(content)
        with pytest.raises(SystemExit) as stop:
            predict.main([str(paired), "--file", str(path)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    for contexts, message in (
        (["--context", "a", "--context", "b"], "--context: given 2 times for 3 texts; allowed is one, or one for each"),
        (["--context", " "], "--context: is empty"),
    ):
        with pytest.raises(SystemExit):
            predict.main([str(paired), "Where?", "Why?", "Who?", *contexts])
        assert message in capsys.readouterr().err
    inputs = predict.read_inputs("qa", ["Where?", "Why?"], ["In Rome.", "For fun."], [], "")
    assert inputs == [("Where?", "In Rome."), ("Why?", "For fun.")]
    with pytest.raises(SystemExit):
        predict.main([str(paired), "Where?"])
    assert f"this model reads a {name} and a context" in capsys.readouterr().err


def test_a_model_of_single_texts_takes_no_context(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        predict.main([str(folder), "a text", "--context", "x"])
    assert "--context: this model reads a single text" in capsys.readouterr().err
