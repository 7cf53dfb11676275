"""Jobs that joblib and submitit start side by side: the same bytes as one after the other, failures, stops."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from hydra.core.config_store import ConfigStore
from rich.console import Console

from tests.test_cli import run
from zerogen import cli
from zerogen.config.keys import keys_of
from zerogen.config.schema import Config, DecodingConfig, SettingConfig
from zerogen.errors import ChildFailed, UserError
from zerogen.jobs import run_all
from zerogen.launchers import Submitted, launch
from zerogen.runs.result import Failed, Result
from zerogen.runs.run import Run
from zerogen.support.process import Stopped, devices_of, stop_no_longer, stop_on_signals

JOBLIB: dict[str, Any] = {"launcher": "joblib", "n_jobs": 2, "verbose": 0, "timeout": None}


def local(folder: Path) -> dict[str, Any]:
    """What Hydra says of submitit_local."""
    return {
        "launcher": "submitit_local",
        "submitit_folder": str(folder / ".submitit" / "%j"),
        "timeout_min": 60,
        "gpus_per_node": None,
        "tasks_per_node": 1,
        "nodes": 1,
        "name": "test",
        "stderr_to_stdout": False,
    }


def content(folder: Path) -> dict[str, bytes]:
    """Return the dataset, predictions and weights of each run in a folder, by path."""
    names = ("toy-dataset.jsonl", "predictions.jsonl", "tam/model.safetensors")
    paths = sorted(path for name in names for path in folder.glob(f"toy/*/{name}"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def launched(configs: Sequence[Config], launcher: dict[str, Any], folder: Path) -> tuple[list[Result | Failed], str]:
    """Return the outcomes and what was printed."""
    text = io.StringIO()
    jobs = [replace(config, launcher=launcher, output_dir=str(folder)) for config in configs]
    return list(launch(jobs, Console(file=text, width=200))), text.getvalue()


@pytest.mark.parametrize("name", ["joblib", pytest.param("submitit_local", marks=pytest.mark.long)])
def test_jobs_side_by_side_write_the_bytes_of_jobs_one_after_the_other(
    tiny_config: Config, tmp_path: Path, name: str
) -> None:
    config = replace(tiny_config, n=40, decoding=DecodingConfig(chunk_size=64))
    bad = replace(config, dataset="none.csv", dataset_labels={})
    longer = replace(config, trainer=replace(config.trainer, epochs=3))  # of the same pool as the first
    configs = [config, bad, longer]
    in_turn = [replace(one, output_dir=str(tmp_path / "turn")) for one in configs]
    assert [type(one) for one in run_all(in_turn, Console(quiet=True))] == [Result, Failed, Result]
    expected = content(tmp_path / "turn")
    assert len(expected) == 6
    folder = tmp_path / name
    outcomes, printed = launched(configs, JOBLIB if name == "joblib" else local(folder), folder)
    assert [type(one) for one in outcomes] == [Result, Failed, Result], printed
    assert isinstance(outcomes[1], Failed) and outcomes[1].reason == "none.csv: there is no such file"
    assert content(folder) == expected
    logs = "".join(path.read_text() for path in folder.glob(".submitit/*/*_log.*"))
    said = printed + logs
    # The pool is one: whoever came second has waited for its rows, or found them.
    assert "waiting for another run that writes" in said or "40 rows are already in" in said
    (pool,) = folder.glob("toy/pool_*")
    indices = [json.loads(line)["index"] for line in (pool / "texts.jsonl").read_text().splitlines()]
    assert indices == list(range(len(indices)))
    if name == "joblib":
        assert "2/3 zerogen: error: none.csv: there is no such file" in printed.splitlines()
    else:
        assert "zerogen: error" not in printed and "none.csv: there is no such file" in logs


@pytest.mark.parametrize("name", ["joblib", "submitit_local"])
def test_with_on_error_stop_the_others_are_ended(tiny_config: Config, tmp_path: Path, name: str) -> None:
    launcher = JOBLIB if name == "joblib" else local(tmp_path)
    bad = replace(tiny_config, dataset="none.csv", dataset_labels={}, on_error="stop")
    endless = replace(tiny_config, n=1_000_000, on_error="stop")
    with pytest.raises(ChildFailed, match="setting=zerogen task=toy"):
        launched([bad, endless], launcher, tmp_path / "out")
    assert not content(tmp_path / "out")
    assert_nobody_writes(tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_submission_ends_the_jobs(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    import submitit

    submit, jobs = submitit.AutoExecutor.submit, []

    def interrupted(executor: submitit.AutoExecutor, *arguments: Any) -> Any:
        jobs.append(submit(executor, *arguments))
        os.kill(os.getpid(), number)
        return jobs[-1]

    monkeypatch.setattr(submitit.AutoExecutor, "submit", interrupted)
    stop_on_signals()
    try:
        with pytest.raises(Stopped) as stopped:
            launched([replace(tiny_config, n=1_000_000)], local(tmp_path), tmp_path / "out")
    finally:
        stop_no_longer()
    assert stopped.value.number == number
    assert [job.done() for job in jobs] == [True]
    assert_nobody_writes(tmp_path / "out")
    assert not list(tmp_path.glob(".submitit/*%j*"))


def assert_nobody_writes(folder: Path) -> None:
    for path in folder.rglob(".lock"):
        with FileLock(path).acquire(timeout=0):
            pass


def write_conf(config: Config, folder: Path) -> list[str]:
    """Write the task of a configuration into a folder; return the words of the command line for the rest of it."""
    (folder / "task").mkdir(parents=True)
    (folder / "task" / "toy.yaml").write_text(yaml.safe_dump(asdict(config.task)))
    models = [f"plm.model={config.plm.model}", f"tam.model={config.tam.model}", "plm.name=tiny", "tam.name=tiny"]
    filters = ["filter.min_words=1", "filter.min_acceptance=0", "trainer.lr=1e-3", "trainer.epochs=2"]
    return ["--config-dir", str(folder), "task=toy", "tam=minilm", "plm=smollm2", *models, *filters, "gpu=none"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("launcher", "at_a_time"),
    [
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"], 1),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], 2),
        (["hydra/launcher=submitit_local"], 2),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_jobs_and_says_how_to_go_on(
    tiny_config: Config, tmp_path: Path, launcher: list[str], at_a_time: int, number: signal.Signals
) -> None:
    words = write_conf(tiny_config, tmp_path / "conf")
    more = ["-m", "seed=1,2", "n=1000000", *launcher]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "zerogen", *words, *more],
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("outputs/toy/pool_*/texts.jsonl"))) < at_a_time and time.monotonic() < until:
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.5)
    if number == signal.SIGINT:  # as a terminal does
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(60) == 128 + number
    printed = (tmp_path / "log").read_text()
    assert "run the same command again to go on" in printed
    assert "Traceback" not in printed
    assert_nobody_writes(tmp_path / "outputs")
    until = time.monotonic() + 10  # what multiprocessing starts beside the jobs ends once they have
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def test_a_command_whose_jobs_fail_ends_with_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zerogen", "-m", "task=rotten_tomatoes", "tam=minilm", "dataset=a.csv,b.csv"]
    more = ["limit=60", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert (
        "2. failed: setting=zerogen task=rotten_tomatoes seed=42 dataset=b.csv: b.csv: there is no such file"
        in done.stdout
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.long
def test_a_job_that_takes_longer_than_joblib_allows_ends_the_command(tiny_config: Config, tmp_path: Path) -> None:
    endless = [replace(tiny_config, n=1_000_000, seed=seed) for seed in (1, 2)]
    with pytest.raises(ChildFailed) as failed:
        launched(endless, JOBLIB | {"timeout": 2}, tmp_path / "out")
    assert failed.value.what == "hydra.launcher.timeout=2" and "run the same command again" in failed.value.reason
    assert_nobody_writes(tmp_path / "out")


def test_what_is_submitted_is_the_same_after_a_preemption(tiny_config: Config) -> None:
    submitted = Submitted({})
    again = submitted.checkpoint(tiny_config)
    assert (again.function, again.args) == (submitted, (tiny_config,))


def compose(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[Config]:
    monkeypatch.setattr(sys, "argv", ["zerogen", "task=rotten_tomatoes", *words])
    return cli.compose()


def test_every_job_is_composed_before_the_launcher_starts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = compose(monkeypatch, "-m", "n=10,20", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3")
    assert [config.n for config in configs] == [10, 20]
    assert all(config.launcher["launcher"] == "joblib" and config.launcher["n_jobs"] == 3 for config in configs)
    (alone,) = compose(monkeypatch, "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpus", "output_dir=out")
    assert (alone.launcher["launcher"], alone.launcher["partition"]) == ("submitit_slurm", "gpus")
    assert re.fullmatch(r"out/\.submitit/[\d-]+-%j", alone.launcher["submitit_folder"])
    (named,) = compose(monkeypatch, "hydra/launcher=submitit_local", "hydra.launcher.submitit_folder=logs/%j")
    assert named.launcher["submitit_folder"] == "logs/%j"
    assert [config.launcher for config in compose(monkeypatch, "-m", "n=10,20")] == [{}, {}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["hydra/launcher=joblob"],
            "hydra/launcher=joblob: is unknown; allowed: basic, joblib, submitit_local, submitit_slurm; did you mean "
            "'joblib'?",
        ),
        (
            ["hydra/launcher=joblib", "hydra.launcher.n_job=2"],
            "hydra.launcher.n_job: is not a key; allowed here: .*did you mean 'n_jobs'",
        ),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: allowed is a number of jobs"),
        (["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=soon"], "allowed is a whole number"),
        (
            ["hydra/launcher=submitit_local", "hydra.launcher.nodes=2"],
            "hydra.launcher.nodes=2: a job is one process here; allowed is 1",
        ),
        (
            ["hydra/launcher=submitit_slurm"],
            "hydra/launcher=submitit_slurm: this machine has no sbatch; allowed here: joblib, submitit_local",
        ),
    ],
)
def test_what_a_launcher_cannot_do_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = run(capsys, monkeypatch, "-m", "task=rotten_tomatoes", "dataset=a.csv", *words)
    assert code == 2
    assert len(err.splitlines()) == 1 and re.search(message, err), err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "package"), [("joblib", "joblib"), ("submitit_slurm", "submitit")])
def test_a_launcher_that_is_not_installed_is_named_with_its_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    compose(monkeypatch, "n=10")  # so that Hydra has looked for launchers
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], f"{name}.yaml")
    code, _, err = run(capsys, monkeypatch, "-m", "task=rotten_tomatoes", f"hydra/launcher={name}")
    message = f"hydra/launcher={name}: is not installed; pip install hydra-{package}-launcher"
    assert (code, err) == (2, f"zerogen: error: {message}\n")


@pytest.mark.parametrize("trust", [[], ["--trust-config"]])
@pytest.mark.parametrize(
    "content",
    ["defaults:\n  - override /hydra/launcher: joblib\n", "hydra: {launcher: {n_jobs: 2}}\n"],
)
def test_an_experiment_that_sets_a_launcher_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trust: list[str], content: str
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(f"# @package _global_\n{content}")
    words = ["--config-dir", str(tmp_path), *trust, "-m", "experiment=own", "task=rotten_tomatoes"]
    code, _, err = run(capsys, monkeypatch, *words)
    assert code == 2 and len(err.splitlines()) == 1
    assert re.search(r"own.yaml: sets '.*hydra.launcher', which Hydra ignores in such a file", err.replace("/l", ".l"))


def test_a_launcher_of_a_trusted_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "hydra" / "launcher" / "ours.yaml").write_text("defaults: [joblib]\nn_jobs: 4\n")
    words = ["--config-dir", str(tmp_path), "--trust-config", "-m", "n=10,20", "hydra/launcher=ours"]
    for config in compose(monkeypatch, *words):
        assert (config.launcher["launcher"], config.launcher["n_jobs"]) == ("joblib", 4)
    (tmp_path / "hydra" / "launcher" / "ours.yaml").write_text("_target_: hydra_plugins.other.Launcher\n")
    with pytest.raises(UserError, match="hydra/launcher=ours: cannot start these jobs; allowed: basic, joblib"):
        compose(monkeypatch, *words[:3], "hydra/launcher=ours")


def test_a_launcher_is_no_key_of_a_run(tiny_config: Config) -> None:
    assert keys_of(tiny_config) == keys_of(replace(tiny_config, launcher=JOBLIB))
    supervised = replace(tiny_config, setting=SettingConfig("supervised"), launcher=JOBLIB)
    cpu = devices_of("none")
    assert Run(supervised, cpu).folder() == Run(replace(supervised, launcher={}), cpu).folder()
