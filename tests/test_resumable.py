"""A file that is written block by block: a command that was stopped goes on, and nothing else overwrites it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.conftest import toy_rows
from tests.test_predict import refused
from zerogen import predict
from zerogen.config.schema import TamConfig, TrainerConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.tam.fit import fit


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerogen.support.process.stop_on_signals", lambda: None)


@pytest.fixture(scope="module")
def run(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    task = TaskConfig(name="toy", labels=["bad", "good"], max_length=64)
    fit(toy_rows(16), task, TamConfig("tiny", model=str(tiny_encoder)), TrainerConfig(epochs=1))[0].save(folder / "tam")
    return folder


def table(path: Path, count: int) -> str:
    """Write a table whose cells hold ends of lines, and whose columns have names of predictions."""
    rows = [f'{number},"film {number}\nand ""more"" of it{" indeed" * (number % 9)}"\n' for number in range(count)]
    path.write_text("label,text\n" + "".join(rows))
    return str(path)


def models(kind: str, run: Path, tiny_causal: Path, folder: Path) -> list[str]:
    if kind == "tam":
        return [str(run)]
    scoring = {"bad": 'Bad: "<X>"', "good": 'Good: "<X>"'}
    (folder / "task.yaml").write_text(yaml.safe_dump({"name": "toy", "labels": ["bad", "good"], "scoring": scoring}))
    return ["--plm", str(tiny_causal), "--task", str(folder / "task.yaml")]


def stopped(arguments: Sequence[str], output: Path, number: signal.Signals) -> str:
    """Run a command until some blocks are written, stop it by a signal, and return its standard error."""
    command = [sys.executable, "-m", "zerogen.predict", *arguments, "--output", str(output)]
    state = output.with_name(f"{output.name}.state.json")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        limit = time.monotonic() + 120
        while not (state.is_file() and json.loads(state.read_text())["rows"] > 300) and time.monotonic() < limit:
            time.sleep(0.01)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), err
    return err


@pytest.mark.parametrize(
    ("kind", "count", "number"),
    [("tam", 3500, signal.SIGKILL), ("tam", 3500, signal.SIGTERM), ("plm", 1500, signal.SIGKILL)],
)
def test_a_command_that_was_stopped_gives_the_same_bytes(
    run: Path,
    tiny_causal: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    count: int,
    number: signal.Signals,
) -> None:
    file, output = table(tmp_path / "texts.csv", count), tmp_path / "output.csv"
    arguments = [*models(kind, run, tiny_causal, tmp_path), "--file", file, "--probabilities"]
    err = stopped(arguments, output, number)
    assert not output.exists()
    part, state = (output.with_name(output.name + ending) for ending in (".part", ".state.json"))
    rows, size = (json.loads(state.read_text())[name] for name in ("rows", "bytes"))
    assert 300 < rows < count
    if number == signal.SIGTERM:
        assert err == f"zerogen: {rows:,} rows are kept in {part}; run the same command again to go on\n"
    before = part.read_bytes()[:size]
    with part.open("ab") as more:
        more.write(b'5000,"half a ro')
    predict.main([*arguments, "--output", str(output)])
    assert capsys.readouterr().err == f"zerogen: {output}: going on after {rows:,} rows\n"
    assert not part.exists()
    assert output.read_bytes().startswith(before)
    predict.main(arguments)
    assert output.read_text(encoding="utf-8") == capsys.readouterr().out


def test_a_file_that_is_there_is_left_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, output = tmp_path / "t.txt", tmp_path / "out.jsonl"
    texts.write_text("a film\nanother\n")
    arguments = [str(run), "--file", str(texts), "--output", str(output)]
    predict.main(arguments)
    content, changed = output.read_bytes(), output.stat().st_mtime_ns
    assert [json.loads(line)["text"] for line in content.splitlines()] == ["a film", "another"]
    predict.main(arguments)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"zerogen: {output}: is there already, nothing done\n")
    assert (output.read_bytes(), output.stat().st_mtime_ns) == (content, changed)
    there = f"--output {output}: is there already, "
    assert f"{there}written with another --probabilities; name" in refused([*arguments, "--probabilities"], capsys)
    texts.write_text("a film\n")
    assert f"{there}written with another input and --format;" in refused([*arguments, "--format", "csv"], capsys)
    texts.write_text("a film\nanother\n")
    output.write_bytes(content + b"{}\n")
    assert f"{there}from something else; name another file, or delete it" in refused(arguments, capsys)
    output.unlink()
    predict.main(arguments)
    assert output.read_bytes() == content


def test_a_part_of_something_else_is_left_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.txt"
    part, state = tmp_path / "out.txt.part", tmp_path / "out.txt.state.json"
    part.write_text("mine")
    arguments = [str(run), "a film", "--output", str(output)]
    assert f"{part} is there, from something else; delete it to start anew" in refused(arguments, capsys)
    state.write_text(json.dumps({"rows": 1, "bytes": 4, "key": {"model": "x"}}))
    assert f"{part} is there, written with another model and input and" in refused(arguments, capsys)
    assert part.read_text() == "mine"
    part.write_text("")
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert f"--output {output}: another process is writing it" in refused(arguments, capsys)
    predict.main(arguments)
    assert output.is_file()


def test_nothing_is_left_where_nothing_was_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text("body\na film\n")
    arguments = [str(run), "--file", str(tmp_path / "t.csv"), "--output", str(tmp_path / "out.csv")]
    assert "no column 'text'" in refused(arguments, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "{}/out"], "standard input cannot be read again from where it was stopped; allowed is a file"),
        (["--output", "{}/out", "--file", "/dev/null"], "--file /dev/null cannot be read again"),
        (["--output", "{}/no/out", "x"], "there is no folder"),
        (["--output", "{}", "x"], "is a folder; name another file"),
    ],
)
def test_outputs_that_cannot_be(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with Path(os.devnull).open() as nothing, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", nothing)
        assert message in refused([str(run), *(one.format(tmp_path) for one in arguments)], capsys)
