"""The prediction command, on a model trained here."""

import csv
import io
import itertools
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet
import pytest

from tests.conftest import toy_pairs, toy_questions, toy_rows
from zerogen import predict
from zerogen.config.schema import TamConfig, TrainerConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.data.predictions import PredictionWriter
from zerogen.data.records import AnswerPrediction, Prediction
from zerogen.data.texts import Item, Lines, blocks, items_of_texts
from zerogen.errors import UserError
from zerogen.predict import shown_progress
from zerogen.tam.fit import fit

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
    monkeypatch.setattr("zerogen.support.process.stop_on_signals", lambda: None)


@pytest.fixture
def feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Return what puts bytes on standard input."""

    def given(content: bytes) -> None:
        path = tmp_path / "standard input"
        path.write_bytes(content)
        monkeypatch.setattr("sys.stdin", path.open(encoding="utf-8"))

    return given


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Both ends of a pipe, to read from and to write to."""
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb", 0) as reader, os.fdopen(theirs, "wb", 0) as writer:
        yield reader, writer


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which arguments are refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        predict.main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


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
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    feed: Callable[[bytes], None],
    pipe: tuple[BinaryIO, BinaryIO],
) -> None:
    predict.main([str(folder), *TEXTS])
    expected = capsys.readouterr().out
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    predict.main([str(folder), "--file", str(path)])
    assert capsys.readouterr().out == expected
    feed(b"\xef\xbb\xbf" + ("\r\n".join(TEXTS) + "\r\n").encode())
    predict.main([str(folder)])
    assert capsys.readouterr().out == expected
    pipe[1].write("\n".join(TEXTS).encode())
    pipe[1].close()
    predict.main([str(folder), "--file", f"/dev/fd/{pipe[0].fileno()}"])
    assert capsys.readouterr().out == expected
    feed(b"a\n" + "caf\xe9".encode("latin-1"))
    assert "standard input:2: not UTF-8 text" in refused([str(folder)], capsys)
    feed(b"")
    assert "standard input: holds no text" in refused([str(folder)], capsys)


def test_paths_may_begin_with_the_home_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "texts.txt").write_text("a dull film")
    predict.main(["~/tam", "--file", "~/texts.txt"])
    assert capsys.readouterr().out.startswith("bad\t")


def test_lines_are_there_as_soon_as_they_are_written(pipe: tuple[BinaryIO, BinaryIO]) -> None:
    lines = Lines(pipe[0].fileno(), "here")
    pipe[1].write(b"first\nsec")
    assert next(lines) == "first"
    assert lines.must_wait()
    pipe[1].write(b"ond\n")
    assert not lines.must_wait()
    assert next(lines) == "second"
    pipe[1].write(b"\n \n")  # in JSON lines, nothing
    assert lines.must_wait()
    pipe[1].write("a\u2028b\r\n\xe9".encode()[:-1])
    assert not lines.must_wait()
    assert [next(lines) for _ in range(3)] == ["", " ", "a\u2028b"]
    pipe[1].close()
    assert not lines.must_wait()
    with pytest.raises(UserError, match="here:6: not UTF-8"):
        next(lines)


def test_blocks_grow_and_end_where_the_next_item_is_not_there() -> None:
    items = [Item("x", "x")] * 3000
    sizes = [len(block) for block in blocks(items, lambda: False)]
    assert sizes == [1, 16, 64, 256, 1024, 1024, 615]
    assert [len(block) for block in blocks(items[:3], lambda: True)] == [1, 1, 1]
    endless = (Item("x", "x") for _ in itertools.count())
    assert [len(block) for block in itertools.islice(blocks(endless, lambda: False), 2)] == [1, 16]
    long = [Item(("x", "y" * (1 << 20)), "x")] * 9
    assert [len(block) for block in blocks(long, lambda: False)] == [1] * 9


def test_each_line_is_answered_at_once_until_the_reader_has_enough(folder: Path) -> None:
    command = [sys.executable, "-m", "zerogen.predict", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        for text, label in zip(TEXTS, (b"bad", b"good"), strict=True):
            process.stdin.write(text.encode() + b"\n")
            assert process.stdout.readline().startswith(label)
        process.stdout.close()
        process.stdin.write(b"a dull film\n")  # and more might come
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_predicting_imports_nothing_that_only_trains(folder: Path) -> None:
    code = f"""
import sys
from zerogen.predict import main
main([{str(folder)!r}, "x"])
unneeded = {{"pytorch_lightning", "datasets", "matplotlib", "hydra", "zerogen.tam.bidaf", "zerogen.tam.lstm"}}
print(*sorted(unneeded & sys.modules.keys()))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[1:] == [""]


def test_progress_is_shown_on_a_terminal_that_does_not_show_the_answers() -> None:
    shown: list[str] = []
    for answers_shown in (False, True):
        ours, theirs = pty.openpty()
        with open(theirs, "w") as terminal, open(os.devnull, "w") as elsewhere:  # noqa: PTH123
            with shown_progress(terminal if answers_shown else elsewhere, terminal) as advance:
                advance(1)
                advance(1)
            print("end", file=terminal)
        shown.append("")
        while not shown[-1].endswith("end\r\n"):  # a terminal hands it on in pieces
            shown[-1] += os.read(ours, 1000).decode()
        os.close(ours)
    assert shown[0].startswith("\r1 lines, ")
    assert "lines/s" in shown[0]
    assert shown[0].endswith("\r\x1b[Kend\r\n")
    assert shown[1] == "end\r\n"


def table(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows as a table by the ending of its path."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


ROWS = [
    {"id": "7", "text": "a dull film", "label": "x"},
    {"id": "8", "text": "a lovely,\nbright film", "label": "y"},
    {"id": "9", "text": " ", "label": "z"},
]


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_a_table_keeps_its_columns(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    predict.main([str(folder), "--file", table(tmp_path / f"x{ending}", ROWS)])
    shown = capsys.readouterr()
    if ending == ".jsonl":
        found = [json.loads(line) for line in shown.out.splitlines()]
        assert found[2]["predicted_label"] is found[2]["predicted_probability"] is None
    else:
        found = list(csv.DictReader(io.StringIO(shown.out, newline="")))
        assert found[2]["predicted_label"] == found[2]["predicted_probability"] == ""
    assert [{key: row[key] for key in ROWS[0]} for row in found] == ROWS
    assert list(found[0]) == ["id", "text", "label", "predicted_label", "predicted_probability"]
    assert [row["predicted_label"] for row in found[:2]] == ["bad", "good"]
    (line,) = shown.err.splitlines()
    assert line == "zerogen: no prediction where the text is blank: 1 of 3"


def test_the_columns_of_a_table_can_be_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.csv"
    path.write_text("body;text\na dull film;1\n")
    arguments = [str(folder), "--file", str(path), "--separator", ";", "--text", "body"]
    predict.main(arguments)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "body,text,label,probability"
    assert second.startswith("a dull film,1,bad,0.")
    predict.main([*arguments, "--format", "text"])
    assert capsys.readouterr().out.strip().split("\t")[::2] == ["bad", "a dull film"]
    predict.main([*arguments, "--format", "jsonl"])
    assert json.loads(capsys.readouterr().out)["body"] == "a dull film"
    arguments[-1] = "bod"
    assert "row 1: no column 'bod'; there are: body, text; did you mean 'body'?" in refused(arguments, capsys)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": None}, "row 2: column 'text': None is not a text"),
        ({"text": 3}, "row 2: column 'text': 3 is not a text"),
        ({"txt": "x"}, "row 2: no column 'text'; there are: txt; did you mean 'txt'?"),
        ({"text": "\ud800"}, "row 2: column 'text': holds U+D800"),
        ({"text": "x", "other": ["\ud800"]}, "row 2: column 'other': holds U+D800"),
        ({"text": "x", "label": "y"}, "row 2: column 'label' is not in the first row"),
    ],
)
def test_rows_that_cannot_be_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], message: str
) -> None:
    path = table(tmp_path / "x.jsonl", [{"text": "a film"}, row])
    assert message in refused([str(folder), "--file", path], capsys)


def test_rows_with_other_columns_than_the_first_go_into_json_only() -> None:
    found = [
        (Item("x", "x", row), Prediction("bad", {"bad": 1.0})) for row in ({"text": "x"}, {"text": "x", "more": 1})
    ]
    file = io.StringIO()
    PredictionWriter("jsonl", "classification", file)(found)
    assert json.loads(file.getvalue().splitlines()[1]) == {"text": "x", "more": 1, "label": "bad", "probability": 1.0}
    with pytest.raises(UserError, match="row 2: column 'more' is not in the first row; --format jsonl writes it"):
        PredictionWriter("csv", "classification", io.StringIO())(found)
    file = io.StringIO()
    PredictionWriter("csv", "classification", file)(found[::-1])
    assert list(csv.DictReader(io.StringIO(file.getvalue())))[1]["more"] == ""


def test_halves_of_a_character_are_refused_by_their_place(
    folder: Path, paired: Path, capsys: pytest.CaptureFixture[str], feed: Callable[[bytes], None]
) -> None:
    assert "TEXT 2: not UTF-8 text (it holds the byte 0xFF)" in refused([str(folder), "x", "caf\udcff"], capsys)
    assert "--context 1: not UTF-8 text (it holds the byte 0xFF)" in refused(
        [str(paired), "x", "--context", "\udcff"], capsys
    )
    feed(b'{"text": "x", "question": "x", "context": "\\ud800"}')
    assert "standard input:1: 'context': holds U+D800" in refused([str(paired)], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/none", "x"], "there is no such folder"),
        (["{}", "x"], "holds no trained model"),
        (["{}", "x", "--file", "y"], "TEXT or --file, not both"),
        (["{run}", "--file", "{}/none.txt"], "none.txt: there is no such file; did you mean 'nine.txt'?"),
        (["{run}", "--file", "{}/none.csv"], "none.csv: there is no such file"),
        (["{run}", "--file", "{}"], "is a folder"),
        (["{run}", "--text", "a", "--file", "{}/nine.txt"], "--text a: is for a table"),
        (["{run}", "--context-column", "a", "x"], "--context-column a: is for a table"),
        (["{run}", "--separator", ";", "x"], "--separator ';': is for a table"),
        (["{run}", "--separator", ";", "--file", "x.jsonl"], "--separator ';': is for a table"),
        (["{run}", "--separator", "::", "--file", "x.csv"], "--separator '::': allowed is one character"),
        (["{run}", "--context-column", "a", "--file", "{}/nine.csv"], "--context-column: this model reads a single"),
        (["{run}", "--context", "a", "--context", "b"], "given 2 times; allowed for a file or lines is one"),
        (["{run}", "--gpu", "99", "x"], "gpu=99: there is no such GPU"),
        (["{run}", "--gpu", "best", "x"], "--gpu best"),
        (["{run}", "--format", "xml", "x"], "invalid choice: 'xml'"),
    ],
)
def test_wrong_input(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    for name in ("nine.txt", "nine.csv"):
        (tmp_path / name).touch()
    assert message in refused([argument.format(tmp_path, run=folder) for argument in arguments], capsys)


@pytest.fixture(scope="module", params=["pair", "qa"])
def paired(request: pytest.FixtureRequest, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    task = replace(TASK, kind=request.param, labels=TASK.labels if request.param == "pair" else ["question"])
    rows = toy_pairs(32) if request.param == "pair" else toy_questions(32)
    config = TamConfig(name="tiny", model=str(tiny_encoder))
    fit(rows, task, config, TrainerConfig(epochs=1), seed=1)[0].save(run / "tam")
    return run


def test_csv_gives_back_whatever_the_texts_hold() -> None:
    rows = [{"text": text, "more": ""} for text in ("a\rb", "a\r\nb", 'say "a", b', "\u2028", "=1", "")]
    file = io.StringIO()
    PredictionWriter("csv", "classification", file)([(Item(None, row["text"], row), None) for row in rows])
    found = list(csv.DictReader(io.StringIO(file.getvalue(), newline="")))
    assert [{key: row[key] for key in rows[0]} for row in found] == rows


def test_a_line_has_three_columns_whatever_the_texts_hold() -> None:
    file = io.StringIO()
    PredictionWriter("text", "qa", file)(
        [(Item(("Who\tis it?", "He\nleft."), "Who\tis it?"), AnswerPrediction("He\nleft", 0, 0.5))]
    )
    assert file.getvalue() == "He left\t0.5000\tWho is it?\n"


def test_a_text_goes_with_its_context(
    paired: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], feed: Callable[[bytes], None]
) -> None:
    qa = json.loads((paired / "tam" / "config.json").read_text())["zerogen"]["kind"] == "qa"
    predict.main([str(paired), "Where?", "Why?", "--context", "In Rome.", "--format", "jsonl"])
    expected = capsys.readouterr().out
    rows = [json.loads(line) for line in expected.splitlines()]
    assert [row["question" if qa else "text"] for row in rows] == ["Where?", "Why?"]
    assert all(("answer" if qa else "label") in row for row in rows)
    if qa:
        assert all("In Rome."[row["start"] :].startswith(row["answer"]) for row in rows)
    name = "question" if qa else "text"
    lines = "".join(json.dumps({name: text, "context": "In Rome."}) + "\n" for text in ("Where?", "Why?"))
    feed(b"\xef\xbb\xbf" + lines.encode())
    predict.main([str(paired), "--format", "jsonl"])
    assert capsys.readouterr().out == expected
    feed(b"Where?\nWhy?")
    predict.main([str(paired), "--context", "In Rome.", "--format", "jsonl"])
    assert capsys.readouterr().out == expected
    allowed = f"1: has no '{name}'; allowed is {{{name}, context}}"
    for content, message in (
        ("Where?", "1: not JSON"),
        ('{"contxt": 1}', allowed),
        (json.dumps({name: "Why?", "context": 3}), "1: 'context' is 3; allowed is a text"),
        (json.dumps({name: "Why?", "context": "x"}) + "\n\n[]", "3: allowed is a JSON object"),
    ):
        feed(content.encode())
        assert message in refused([str(paired)], capsys)
    for contexts, message in (
        (["--context", "a", "--context", "b"], "--context: given 2 times for 3 texts; allowed is one, or one for each"),
        (["--context", " "], "--context: is empty"),
    ):
        assert message in refused([str(paired), "Where?", "Why?", "Who?", *contexts], capsys)
    items = items_of_texts(["Where?", "Why?"], "qa", ["In Rome.", "For fun."])
    assert [item.given for item in items] == [("Where?", "In Rome."), ("Why?", "For fun.")]
    assert f"this model reads a {name} and a context" in refused([str(paired), "Where?"], capsys)


def test_a_table_of_pairs(paired: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qa = json.loads((paired / "tam" / "config.json").read_text())["zerogen"]["kind"] == "qa"
    names = ["answer", "probability", "start"] if qa else ["label", "probability"]
    expected: list[str] = []
    for column in ("question", "text") if qa else ("text",):
        rows = [{column: "Where?", "context": "In Rome.", "n": 1}, {column: "Why?", "context": " ", "n": 2}]
        predict.main([str(paired), "--file", table(tmp_path / "x.csv", rows)])
        found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert list(found[0]) == [column, "context", "n", *names]
        assert found[0][names[1]]
        assert [found[1][name] for name in names] == [""] * len(names)
        expected.append(found[0][names[1]])
    rows = [{"text": "Where?", "place": "In Rome."}]
    path = table(tmp_path / "x.jsonl", rows)
    for options in (["--context-column", "place"], ["--context", "In Rome."]):
        predict.main([str(paired), "--text", "text", "--file", path, *options])
        found = [json.loads(capsys.readouterr().out)]
        assert f"{found[0]['probability']}" in expected
        assert list(found[0]) == ["text", "place", *names]
    assert "row 1: no column 'context'; there are: text, place" in refused([str(paired), "--file", path], capsys)
    both = ["--context-column", "place", "--context", "x"]
    assert "allowed is --context or --context-column" in refused([str(paired), "--file", path, *both], capsys)


def test_a_model_of_single_texts_takes_no_context(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused([str(folder), "a text", "--context", "x"], capsys)
    assert "--context: this model reads a single text" in message


def test_blank_lines_get_no_prediction(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("a dull film\n\n a good film\n  \n")
    predict.main([str(folder), "--file", str(tmp_path / "t.txt")])
    shown = capsys.readouterr()
    found = [line.split("\t") for line in shown.out.splitlines()]
    assert [label for label, _, _ in found] == ["bad", "", "good", ""]
    assert [probability == "" for _, probability, _ in found] == [False, True, False, True]
    assert shown.err == "zerogen: no prediction where the text is blank: 2 of 4\n"
