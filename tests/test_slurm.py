"""A sweep on a Slurm cluster of this one machine: jobs that are preempted and requeued end as if undisturbed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.processes import free_port
from tests.test_launchers import content, write_conf
from zerogen.config.schema import Config

pytestmark = pytest.mark.slurm

CONF = """
ClusterName=zerogen
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:,.0f} s for {what}"
        time.sleep(0.5)


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A controller and a node of two processors, on this machine, in a folder of their own."""
    if shutil.which("slurmctld") is None or shutil.which("munged") is None:
        pytest.skip("needs Slurm: make test-slurm installs it where root")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir()
    (folder / "munge" / "key").write_bytes(os.urandom(1024))
    (folder / "munge" / "key").chmod(0o600)
    ports = {"controller_port": free_port(), "node_port": free_port()}
    user = said("id", "-un").strip()
    (folder / "slurm.conf").write_text(CONF.format(host=socket.gethostname(), user=user, folder=folder, **ports))
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    munge = {name: f"--{option}={folder}/munge/{name}" for name, option in MUNGE.items()}
    daemons = [["munged", "--force", "--foreground", *munge.values()], ["slurmctld", "-D"], ["slurmd", "-D"]]
    processes = []
    try:
        for command in daemons:
            with (folder / f"{command[0]}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(2)
        until(lambda: "idle" in said("sinfo", "--noheader", "--format=%T"), 60, "the node")
        yield folder
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
        del os.environ["SLURM_CONF"]


MUNGE = {"key": "key-file", "socket": "socket", "pid": "pid-file", "log": "log-file", "seed": "seed-file"}


def states() -> list[str]:
    return said("squeue", "--noheader", "--array", "--partition=low", "--format=%T").split()


def test_a_job_that_is_preempted_and_one_near_its_time_limit_end_as_if_undisturbed(
    cluster: Path, tiny_config: Config, tmp_path: Path
) -> None:
    words = [*write_conf(tiny_config, tmp_path / "conf"), "-m", "seed=1,2", "n=1200", "decoding.chunk_size=128"]
    command = [sys.executable, "-m", "zerogen", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    slurm = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=low", "hydra.launcher.cpus_per_task=1"]
    with (tmp_path / "log").open("w") as log:
        sweep = subprocess.Popen(
            [*command, *slurm, "output_dir=slurm"], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    pools = "slurm/toy/pool_*/texts.jsonl"
    until(lambda: len(list(tmp_path.glob(pools))) == 2 or sweep.poll() is not None, 240, "two jobs that write")
    assert sweep.poll() is None, (tmp_path / "log").read_text()
    # Both processors are taken: one of the jobs makes room and, when that is over, begins again.
    subprocess.run(
        ["sbatch", "--partition=high", "--ntasks=1", "--output=/dev/null", "--wrap=sleep 10"], check=True, cwd=tmp_path
    )
    until(lambda: "PENDING" in states(), 60, "a job that is requeued")
    until(lambda: states() == ["RUNNING", "RUNNING"] or len(states()) < 2, 120, "the requeued job")
    # What Slurm sends before a time limit: submitit asks for the job to be requeued.
    (job,) = set(said("squeue", "--noheader", "--partition=low", "--format=%F").split())
    subprocess.run(["scancel", "--signal=USR2", f"{job}_1"], check=False)
    assert sweep.wait(600) == 0, (tmp_path / "log").read_text()
    logs = "".join(path.read_text() for path in tmp_path.glob("slurm/.submitit/*/*_log.*"))
    assert "DUE TO PREEMPTION" in logs
    assert re.search("Caught signal SIGUSR2 .*this job is preempted", logs)
    assert logs.count("going on from the") + logs.count("rows are already in") >= 1
    assert "waiting for a GPU" not in logs

    subprocess.run([*command, "output_dir=turn"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    expected = content(tmp_path / "turn")
    assert len(expected) == 6
    assert content(tmp_path / "slurm") == expected


def test_a_job_that_somebody_cancels_has_failed_and_ctrl_c_cancels_all(
    cluster: Path, tiny_config: Config, tmp_path: Path
) -> None:
    words = [*write_conf(tiny_config, tmp_path / "conf"), "-m", "seed=1,2", "n=1000000", "on_error=stop"]
    slurm = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=low", "hydra.launcher.cpus_per_task=1"]
    command = [sys.executable, "-m", "zerogen", *words, *slurm]
    for way in ("scancel", "terminate"):
        with (tmp_path / way).open("w") as log:
            sweep = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        until(lambda: len(states()) == 2 or sweep.poll() is not None, 240, "two jobs")  # noqa: B023
        if way == "scancel":
            (job,) = set(said("squeue", "--noheader", "--partition=low", "--format=%F").split())
            subprocess.run(["scancel", f"{job}_0"], check=True)
            assert sweep.wait(120) == 1
        else:
            sweep.terminate()
            assert sweep.wait(60) == 143
        printed = (tmp_path / way).read_text()
        assert ("was ended; what it printed is in" in printed) is (way == "scancel")
        assert re.search(r"cancelled: \d+_\d.*; run the same command again to go on", printed)
        until(lambda: not states(), 60, "an empty queue")


def test_two_tasks_of_srun_write_what_one_process_writes(cluster: Path, tiny_config: Config, tmp_path: Path) -> None:
    words = [*write_conf(tiny_config, tmp_path / "conf"), "n=120", "decoding.chunk_size=64"]
    command = [sys.executable, "-m", "zerogen", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    srun = ["srun", "--partition=high", "--ntasks-per-node=2", "--cpus-per-task=1", "--kill-on-bad-exit=1"]
    done = subprocess.run(
        [*srun, *command, "engine=lightning", "output_dir=srun"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run([*command, "output_dir=alone"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    expected = content(tmp_path / "alone")
    assert len(expected) == 3
    assert content(tmp_path / "srun") == expected
    assert not list((tmp_path / "srun").glob(".*nodes-*"))
