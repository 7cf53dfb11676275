"""What loggers record of a run, read back from their files; they change nothing of the run."""

import csv
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import pytest
from rich.console import Console

from tests.conftest import toy_rows
from zerogen.config.rules import check
from zerogen.config.schema import Config, LoggerConfig, PlmConfig, SettingConfig, TamConfig, TrainerConfig
from zerogen.config.task_schema import GoldConfig, TaskConfig
from zerogen.errors import UserError
from zerogen.jobs import run_one
from zerogen.runs.loggers import artifact_name, mode_of, require_logger
from zerogen.runs.run import Run
from zerogen.runs.zerogen import ZEROGEN
from zerogen.support.process import Stopped

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    def write(name: str, lines: list[dict[str, Any]]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(tmp_path / name)

    rows = toy_rows(120)
    gold = write("gold.jsonl", [{"text": row.text, "label": row.label} for row in rows[:40]])
    task = TaskConfig(
        name="toy",
        labels=["bad", "good"],
        max_length=64,
        prompts={"bad": 'Bad: "', "good": 'Good: "'},
        gold={"own": GoldConfig(files={"validation": gold})},
    )
    return Config(
        task=task,
        setting=SettingConfig("zerogen"),
        plm=PlmConfig("none", "none"),
        tam=TamConfig("lstm", kind="lstm", hidden=8, embedding=8),
        trainer=TrainerConfig(lr=1e-2, epochs=2, batch_size=8),
        dataset=write("given.jsonl", [{"X": row.text, "label": row.label} for row in rows]),
        dataset_labels={},
        log_every=50,
        gpu="none",
        output_dir=str(tmp_path / "outputs"),
    )


def run(config: Config) -> Path:
    return run_one(config, Console(quiet=True)).folder


def records(place: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: LevelDB's log format, each record a protocol buffer."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = place.read_bytes()
    assert content[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # what is left of a block is padding
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def recorded(outputs: Path) -> list[list[Any]]:
    import wandb

    wandb.teardown()  # finishing a run does not wait until its file is whole; the end of the process does
    return [list(records(path)) for path in sorted(outputs.glob("wandb/offline-run-*/*.wandb"))]


def history(found: list[Any]) -> list[dict[str, Any]]:
    return [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield
    wandb.teardown()  # its background process, which other processes would find by the environment


@pytest.mark.usefixtures("offline")
def test_weights_and_biases_have_trend_losses_samples_and_files(config: Config) -> None:
    folder = run(replace(config, logger=LoggerConfig("wandb")))
    (found,) = recorded(Path(config.output_dir))
    lines = history(found)
    with (folder / "trend.csv").open() as file:
        trend = {(int(row["n"]), row["metric"]): float(row["value"]) for row in csv.DictReader(file)}
    logged = {
        (line["n"], name.partition("/")[2]): value
        for line in lines
        for name, value in line.items()
        if name.startswith("trend/")
    }
    assert {n for n, _ in logged} == {50, 100, 120}
    assert logged == pytest.approx(trend, abs=1e-6)
    axes = {record.metric.name: record.metric.step_metric for record in found if record.HasField("metric")}
    assert axes["trend/accuracy"] == "n"
    assert [line["samples/nrows"] for line in lines if "n" in line] == [50, 50, 50]
    for n in (50, 100, 120):
        assert any(f"training-{n}/loss" in line for line in lines)
    run_record = next(record.run for record in found if record.HasField("run"))
    assert (run_record.project, run_record.run_group, run_record.job_type) == ("ZeroGen", "toy", "zerogen")
    assert run_record.display_name == folder.name
    artifacts = {record.artifact.name: record.artifact for record in found if record.HasField("artifact")}
    names = {entry.path for entry in artifacts[folder.name].manifest.contents}
    assert {"result.json", "config.yaml", "trend.csv", "toy-dataset.jsonl", "measures.json", "report.html"} <= names
    assert "tam/config.json" in names
    summary = {}
    for record in found:
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert summary["accuracy"] == json.loads((folder / "result.json").read_text())["metrics"]["accuracy"]
    assert "self_bleu" in json.dumps(summary)
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [0]
    for path in Path(config.output_dir).rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("error", "code"), [(UserError("no"), 2), (ValueError("bug"), 1), (Stopped(2), 130)])
def test_a_run_that_fails_is_finished_with_its_exit_code(
    config: Config, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(run: Run) -> NoReturn:
        raise error

    monkeypatch.setattr("zerogen.runs.zerogen.ZEROGEN", replace(ZEROGEN, run=fail))
    with pytest.raises(type(error)):
        run(replace(config, logger=LoggerConfig("wandb")))
    (found,) = recorded(Path(config.output_dir))
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [code]


def test_names_of_artifacts_are_what_weights_and_biases_takes() -> None:
    assert artifact_name("zerogen_größe_x y_1a2b") == "zerogen_gr--e_x-y_1a2b"
    assert artifact_name("a" * 200 + "_1a2b") == "a" * 123 + "_1a2b"


def test_a_short_training_has_its_losses_too(config: Config) -> None:
    folder = run(replace(config, limit=16, log_every=None))
    with (folder / "training" / "16" / "metrics.csv").open() as file:
        assert any(row["loss"] for row in csv.DictReader(file))


def test_each_job_of_a_multirun_is_a_run_of_its_own(config: Config) -> None:
    place = Path(config.output_dir).parent
    repository(place)
    (place / "go.py").write_text("from zerogen.cli import main\n\nif __name__ == '__main__':\n    main()\n")
    conf = place / "conf" / "task"
    conf.mkdir(parents=True)
    gold = config.task.gold["own"].files["validation"]
    (conf / "toy.yaml").write_text(
        "name: toy\nlabels: [bad, good]\nprompts: {bad: 'Bad: \"', good: 'Good: \"'}\n"
        f"gold: {{own: {{files: {{validation: {gold}}}}}}}\n"
    )
    words = f"task=toy dataset={config.dataset} tam=lstm tam.hidden=8 trainer.epochs=1 seed=1,2 logger=wandb".split()
    done = subprocess.run(
        [sys.executable, "go.py", "--config-dir", "conf", "-m", *words, "logger.mode=offline"],
        cwd=place,
        env={**os.environ, "WANDB_MODE": "online", "WANDB_SAVE_CODE": "true"},  # the configuration decides
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    both = recorded(Path(config.output_dir))
    assert len(both) == 2
    assert {len([record for record in found if record.HasField("exit")]) for found in both} == {1}
    assert done.stdout.count("wandb sync") == 2
    for record in [record for found in both for record in found]:  # neither what is printed nor code
        assert not (record.HasField("output") or record.HasField("output_raw")), record
        assert "example.com" not in str(record)
        assert not any("go.py" in file.path for file in record.files.files)


def repository(place: Path) -> None:
    """Make a folder a git repository as far as others look into it."""
    for folder in ("objects", "refs/heads"):
        (place / ".git" / folder).mkdir(parents=True)
    (place / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (place / ".git" / "config").write_text('[remote "origin"]\n\turl = https://example.com/films.git\n')


@pytest.mark.usefixtures("offline")
def test_a_logger_changes_nothing_and_a_finished_run_is_not_recorded_again(config: Config, tmp_path: Path) -> None:
    def left(logger: str) -> tuple[dict[str, Any], bytes, str]:
        folder = run(replace(config, logger=LoggerConfig(logger), output_dir=str(tmp_path / logger)))
        result = json.loads((folder / "result.json").read_text())
        return result["metrics"], (folder / "tam" / "model.safetensors").read_bytes(), folder.name

    assert left("csv") == left("tensorboard") == left("wandb")
    assert not list((tmp_path / "csv").rglob("*wandb*"))
    left("wandb")
    assert len(recorded(tmp_path / "wandb")) == 1


def test_csv_has_losses_and_held_out_accuracy_of_every_training(config: Config) -> None:
    folder = run(config)
    for n in (50, 100, 120):
        with (folder / "training" / str(n) / "metrics.csv").open() as file:
            lines = list(csv.DictReader(file))
        steps = 2 * -(-(n - n // 10) // 8)
        losses = [int(line["step"]) for line in lines if line["loss"]]
        every = min(10, steps // 2)  # once an epoch at least
        assert losses == list(range(every - 1, steps, every))
        assert [line["epoch"] for line in lines if line["heldout_accuracy"]] == ["0", "1"]


def test_tensorboard_has_the_trend_and_the_losses(config: Config) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(replace(config, logger=LoggerConfig("tensorboard")))
    events = EventAccumulator(str(folder / "tensorboard" / "trend")).Reload()
    result = json.loads((folder / "result.json").read_text())
    assert [event.step for event in events.Scalars("trend/accuracy")] == [50, 100, 120]
    assert events.Scalars("trend/accuracy")[-1].value == pytest.approx(result["metrics"]["accuracy"], abs=1e-6)
    assert EventAccumulator(str(folder / "tensorboard" / "training-120")).Reload().Scalars("loss")


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_what_a_stopped_training_recorded_is_kept(config: Config, monkeypatch: pytest.MonkeyPatch, logger: str) -> None:
    config = replace(config, log_every=None, logger=LoggerConfig(logger))
    stop_after(monkeypatch, 1)
    with pytest.raises(Stopped):
        run(config)
    monkeypatch.undo()
    folder = run(config)
    epochs = []
    for path in sorted((folder / "training").glob("120*/metrics.csv")):
        with path.open() as file:
            epochs += [line["epoch"] for line in csv.DictReader(file) if line["heldout_accuracy"]]
    assert epochs == ["0", "1"]


def test_a_run_that_goes_on_records_what_it_evaluated_before(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(config, logger=LoggerConfig("tensorboard"))
    with monkeypatch.context() as patch:
        stop_after(patch, 3)  # in the second of three trainings
        with pytest.raises(Stopped):
            run(config)
    folder = run(config)
    events = EventAccumulator(str(folder / "tensorboard" / "trend")).Reload()
    with (folder / "trend.csv").open() as file:
        trend = {int(row["n"]): float(row["value"]) for row in csv.DictReader(file) if row["metric"] == "accuracy"}
    assert list(trend) == [50, 100, 120]
    recorded = {event.step: event.value for event in events.Scalars("trend/accuracy")}
    assert recorded == pytest.approx(trend, abs=1e-6)


def stop_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Stop behind so many epochs of all trainings."""
    import zerogen.tam.fit as train

    done = count(1)
    plain: Callable[[Path], Any] = train._every_epoch

    def stopping(checkpoint: Path) -> Any:
        callback = plain(checkpoint)
        save = callback.on_train_epoch_end

        def stop(trainer: Any, module: Any) -> None:
            save(trainer, module)
            if next(done) == epochs:
                raise Stopped(15)

        callback.on_train_epoch_end = stop
        return callback

    monkeypatch.setattr(train, "_every_epoch", stopping)


def test_what_cannot_record_is_refused_before_any_work(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    config = replace(config, logger=LoggerConfig("wandb"))

    def unknown(*args: Any) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr("socket.getaddrinfo", unknown)
        with pytest.raises(UserError, match=r"cannot be reached; allowed without a network is logger.mode=offline"):
            run(config)
    assert not Path(config.output_dir).exists()
    monkeypatch.setattr("socket.getaddrinfo", lambda *args: [])
    monkeypatch.setenv("NETRC", str(Path(config.output_dir) / "netrc"))
    with pytest.raises(UserError, match="there is no key; set WANDB_API_KEY"):
        require_logger(config)
    monkeypatch.setenv("WANDB_MODE", "offlin")
    with pytest.raises(UserError, match="WANDB_MODE: 'offlin' is unknown.*'offline'"):
        mode_of(config)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode_of(config) == "off"
    for logger, message in ((LoggerConfig("wandb", "of"), "'of' is unknown"), (LoggerConfig("csv", "off"), "wandb")):
        with pytest.raises(UserError, match=message):
            check(replace(config, logger=logger))
