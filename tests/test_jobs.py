import io
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from zerogen.config.schema import Config, SettingConfig
from zerogen.errors import ChildFailed, UserError
from zerogen.jobs import _in_process, expand, run_all
from zerogen.plm.workers import process_name
from zerogen.report.terminal import report
from zerogen.runs.result import Failed, Result
from zerogen.runs.run import trend_sizes
from zerogen.support.console import reporting_errors
from zerogen.support.process import devices_of


def test_seeds_become_runs_of_their_own() -> None:
    config = Config(setting=SettingConfig("zerogen"), seeds=[3, 4])
    assert [(job.seed, job.seeds) for job in expand(config)] == [(3, None), (4, None)]
    assert expand(replace(config, seeds=None)) == [replace(config, seeds=None)]


def test_a_setting_that_draws_nothing_runs_once() -> None:
    config = Config(setting=SettingConfig("prompting"), seeds=[3, 4])
    assert [job.seed for job in expand(config)] == [3]
    assert len(expand(replace(config, eval_limit=10))) == 1  # the sample is that of every seed


def test_the_device_of_no_gpu_is_the_cpu() -> None:
    assert [device.type for device in devices_of("none", 2)] == ["cpu", "cpu"]
    with pytest.raises(UserError, match=r"gpu=\[0, 99\]: there is no such GPU"):
        devices_of([0, 99])


def test_what_processes_of_a_killed_run_have_left_is_removed(tiny_config: Config) -> None:
    config = replace(tiny_config, train=False, n=8, log_every=None, processes=2)

    def run() -> None:
        (result,) = run_all([config], Console(quiet=True))
        assert isinstance(result, Result)
        shutil.rmtree(result.folder)

    run()
    (pool,) = Path(config.output_dir).glob("toy/pool_*")
    works = pool / "works"
    works.mkdir()
    for name in ("texts-000000.done", "contexts-000014.done"):  # of a chunk that it has, and of one that it needs not
        (works / name).touch()
    (works / f"of-{process_name(4194305)}").mkdir()  # a process that cannot be
    living = works / f"of-{process_name()}"
    living.mkdir()
    run()
    assert list(works.iterdir()) == [living]
    living.rmdir()
    run()
    assert not works.exists()


def test_a_job_that_is_killed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # A spawned process that kills itself while it unpickles its configuration.
    config = Config(seed=5, dataset_labels=Deadly())
    with pytest.raises(SystemExit) as failed, reporting_errors():
        _in_process(config)
    assert failed.value.code == 1
    assert "seed=5: stopped by SIGKILL; was memory short?" in capsys.readouterr().err


def test_the_others_go_on_where_one_of_several_runs_fails(tiny_config: Config) -> None:
    supervised = replace(tiny_config, setting=SettingConfig("supervised"), limit=20)
    bad = replace(tiny_config, dataset="no.jsonl", dataset_labels={})
    killed = replace(supervised, dataset_labels=Deadly())
    outcomes = list(run_all([bad, supervised, killed], Console(quiet=True)))
    assert [type(one) for one in outcomes] == [Failed, Result, Failed]
    assert isinstance(outcomes[0], Failed) and "no.jsonl" in outcomes[0].reason
    assert isinstance(outcomes[2], Failed) and outcomes[2].reason == "stopped by SIGKILL; was memory short?"
    text = io.StringIO()
    report([[bad], [supervised], [killed]], outcomes, Path(tiny_config.output_dir), Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert sum("failed" in line.split() for line in lines) == 2
    assert any(line.startswith("1. failed: setting=zerogen task=toy seed=42: ") for line in lines)
    assert "3. failed: setting=supervised task=toy seed=42: stopped by SIGKILL; was memory short?" in lines
    with pytest.raises(ChildFailed):
        list(run_all([replace(bad, on_error="stop"), replace(supervised, on_error="stop")], Console(quiet=True)))


def test_a_command_of_which_all_runs_fail_ends_with_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zerogen", "-m", "task=rotten_tomatoes", "tam=minilm", "dataset=a.csv,b.csv"]
    done = subprocess.run([*command, "limit=60"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert (
        "2. failed: setting=zerogen task=rotten_tomatoes seed=42 dataset=b.csv: b.csv: there is no such file"
        in done.stdout
    )
    assert [line for line in done.stderr.splitlines() if "error" in line] == [
        f"zerogen: error: {name}.csv: there is no such file" for name in "ab"
    ]
    assert not list(tmp_path.iterdir())
    done = subprocess.run(
        [*command, "limit=60", "on_error=stop"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "b.csv" not in done.stderr


class Deadly:
    def __reduce__(self) -> tuple[object, ...]:
        return (die, ())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("n", "log_every", "known", "expected"),
    [
        (1000, None, (), [1000]),
        (1000, 300, (), [300, 600, 900, 1000]),
        (900, 300, (), [300, 600, 900]),
        (100, 300, (), [100]),
        (1000, 300, (300, 600, 1000), [900, 1000]),
    ],
)
def test_training_sets_have_exact_multiples_and_the_end(
    n: int, log_every: int | None, known: tuple[int, ...], expected: list[int]
) -> None:
    assert trend_sizes(n, log_every, known) == expected
