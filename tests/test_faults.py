"""Whole runs whose folder goes, becomes read-only, or whose clock jumps; and with workers or a server, killed."""

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.forks import (
    begin,
    content,
    exit_code,
    finish,
    first_of_each_kind,
    of_all_stages,
    on_operations,
    seconds_of_a_run,
    watch,
    without_threads,
)
from tests.servers.processes import ServerProcess, free_port
from zerogen.config.schema import Config, PlmConfig

pytestmark = [pytest.mark.long, without_threads]

SCRIPTED = Path(__file__).parent / "servers" / "scripted_server.py"


@pytest.fixture
def config(tiny_config: Config, tiny_encoder: Path) -> Config:
    return of_all_stages(tiny_config, tiny_encoder)


def moments_of(config: Config, folder: Path, log: Path) -> tuple[dict[str, Any], list[str], list[int]]:
    """Return what a run leaves, its file operations, and the places of the first of each kind."""
    assert exit_code(begin(config, folder, watch(folder, log, 10**9))) == 0
    operations = log.read_text().splitlines()
    return content(folder), operations, sorted(first_of_each_kind(operations).values())


def errors_of(log: Path) -> list[str]:
    return Path(f"{log}.err").read_text().splitlines()


# A folder that goes.

DELETED: dict[str, Callable[[Path], list[Path]]] = {
    "run": lambda folder: list(folder.glob("toy/zerogen_*")),
    "pool": lambda folder: list(folder.glob("toy/pool_*")),
    "everything": lambda folder: [folder],
}


@pytest.mark.parametrize("what", DELETED)
def test_a_folder_that_is_deleted_underneath_is_one_line_and_not_made_again(
    config: Config, tmp_path: Path, what: str
) -> None:
    expected, operations, moments = moments_of(config, tmp_path / "whole", tmp_path / "log")
    if what == "pool":
        moments = [moment for moment in moments if "/pool_" in operations[moment]]
        assert len(moments) > 3
    else:  # others for each
        moments = moments[list(DELETED).index(what) :: 4]
    stopped = 0
    for moment in moments:
        folder, log = tmp_path / f"at-{moment}", tmp_path / f"log-{moment}"
        gone: list[Path] = []

        def delete(folder: Path = folder, gone: list[Path] = gone) -> None:
            for one in DELETED[what](folder):
                shutil.rmtree(one)
                gone.append(one)

        code = exit_code(begin(config, folder, watch(folder, log, moment, delete), log))
        found = {name for name in (content(folder) if folder.is_dir() else {}) if "pool_" not in name}
        whole = {name for name in expected if "pool_" not in name}
        if code:
            stopped += 1
            assert code == 1, (operations[moment], errors_of(log))
            (line,) = errors_of(log)
            assert line.startswith(f"zerogen: error: {folder}"), line
            assert line.endswith("it may have been deleted meanwhile; run the same command again"), line
            if what != "pool":
                assert not {name for name in found if "/zerogen_" in name}, (operations[moment], found)
        else:  # nothing was there yet, or what is gone was needed no more
            assert found == whole, (operations[moment], found ^ whole)
        shutil.rmtree(folder / "toy", ignore_errors=True) if not code else None
        finish(config, folder)
        assert content(folder) == expected, operations[moment]
        shutil.rmtree(folder)
    assert stopped >= 2 if what == "pool" else stopped > len(moments) / 2


# A file system on which nothing can be written any more.

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_MOUNTS, _READ_ONLY, _REMOUNT, _BIND, _ALL, _PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18


def own_mounts() -> bool:
    """Give this process mounts of its own, which end with it; return whether that is allowed."""
    return not _LIBC.unshare(_NEW_MOUNTS) and not _LIBC.mount(b"none", b"/", None, _ALL | _PRIVATE, None)


def make_read_only(folder: Path) -> None:
    """Make what lies in a folder read-only from now on, for a process with mounts of its own."""
    name = os.fsencode(folder)
    for flags in (_BIND, _BIND | _REMOUNT | _READ_ONLY):
        if _LIBC.mount(name, name, None, flags, None):
            raise OSError(ctypes.get_errno(), "mount", str(folder))


@pytest.fixture
def may_mount(tmp_path: Path) -> None:
    process = os.fork()
    if not process:
        os._exit(not own_mounts())
    if os.waitpid(process, 0)[1]:
        pytest.skip("mounting a file system is not allowed here")


@pytest.mark.usefixtures("may_mount")
def test_a_folder_that_becomes_read_only_is_one_line_and_loses_nothing(config: Config, tmp_path: Path) -> None:
    expected, operations, moments = moments_of(config, tmp_path / "whole", tmp_path / "log")
    for moment in moments[3::4]:
        folder, log = tmp_path / f"at-{moment}", tmp_path / f"log-{moment}"
        then = watch(folder, log, moment, lambda folder=folder: make_read_only(folder))  # type: ignore[misc]

        def before(then: Callable[[], None] = then) -> None:
            assert own_mounts()
            then()

        code = exit_code(begin(config, folder, before, log))
        assert code == 1, (operations[moment], errors_of(log))
        (line,) = errors_of(log)
        assert line.startswith(f"zerogen: error: {folder}"), line
        assert line.endswith("Read-only file system; name another folder, such as output_dir=FOLDER"), line
        finish(config, folder)
        assert content(folder) == expected, operations[moment]
        shutil.rmtree(folder)


@pytest.mark.usefixtures("may_mount")
def test_a_folder_that_is_read_only_from_the_start_is_refused(config: Config, tmp_path: Path) -> None:
    folder, log = tmp_path / "outputs", tmp_path / "log"
    folder.mkdir()

    def before() -> None:
        assert own_mounts()
        make_read_only(folder)

    assert exit_code(begin(config, folder, before, log)) == 2
    where = f"output_dir={folder}: {folder} is not writable; allowed is a folder that can be written to"
    assert errors_of(log) == [f"zerogen: error: {where}"]
    assert not list(folder.iterdir())


# A clock that jumps.


def test_a_clock_that_jumps_by_hours_changes_nothing(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(config, tmp_path / "whole")
    expected = content(tmp_path / "whole")
    started = time.monotonic()
    for number, hours in enumerate(([7], [-7], [7, -7, 0, -1000, 1000])):
        folder = tmp_path / str(number)

        def before(folder: Path = folder, hours: list[int] = hours) -> None:
            clock, nanoseconds, operations = time.time, time.time_ns, 0

            def jump(event: str, path: Path) -> None:
                nonlocal operations
                operations += 1

            def ahead() -> int:  # in seconds: another one after every five operations
                return 3600 * [0, *hours][(operations // 5) % (1 + len(hours))]

            time.time = lambda: clock() + ahead()
            time.time_ns = lambda: nanoseconds() + ahead() * 10**9
            on_operations(folder, jump)()

        assert exit_code(begin(config, folder, before)) == 0
        assert content(folder) == expected
        for path in folder.rglob("*.json*"):
            for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
                for seconds in seconds_of(json.loads(line)):
                    assert 0 <= seconds <= time.monotonic() - started, path
    assert any(seconds_of(json.loads(path.read_text())) for path in folder.rglob("result.json"))


def seconds_of(value: Any) -> list[float]:
    """Return all that is said of times, anywhere in a JSON value."""
    if isinstance(value, list):
        return [seconds for item in value for seconds in seconds_of(item)]
    if not isinstance(value, dict):
        return []
    said = value.get("seconds", [])
    own = said.values() if isinstance(said, dict) else [said] if isinstance(said, float) else []
    return [*own, *(seconds for item in value.values() for seconds in seconds_of(item))]


# Workers, and a server.

KILLS = 6


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    port = free_port()
    server = ServerProcess([sys.executable, str(SCRIPTED), str(port)], port, tmp_path / "server.log")
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["two processes", "a server"])
def with_helpers(request: pytest.FixtureRequest, config: Config) -> Config:
    """A run whose texts are written in other processes."""
    if request.param == "two processes":
        return replace(config, processes=2)
    server = request.getfixturevalue("server")
    plm = PlmConfig("scripted", "scripted", writer="openai", base_url=server.url, concurrency=4)
    return replace(config, plm=plm)


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found


def no_process_left(session: int, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while left := processes_of(session):
        if time.monotonic() > limit:
            said = subprocess.run(["ps", "-o", "pid,etime,args", *map(str, left)], capture_output=True, text=True)
            raise AssertionError(f"processes outlive their run:\n{said.stdout}")
        time.sleep(0.05)


def without_counts(found: dict[str, Any]) -> dict[str, Any]:
    """Return what is in a folder without how often a server was asked: what it answers while a run dies is lost."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in ("usage", "server")}
        return [plain(item) for item in value] if isinstance(value, list) else value

    return plain(found)


@pytest.mark.parametrize("group", [True, False])
def test_runs_with_helpers_that_are_killed_at_random_lose_nothing(
    with_helpers: Config, tmp_path: Path, group: bool
) -> None:
    config, whole = with_helpers, tmp_path / "whole"
    seconds = seconds_of_a_run(config, whole)
    expected, draws, killed = without_counts(content(whole)), random.Random(group), 0
    for number in range(3 * KILLS):  # some runs are faster than the first one
        folder = tmp_path / str(number)
        process = begin(config, folder)
        time.sleep(draws.uniform(0.02, 0.9) * seconds)
        (os.killpg if group else os.kill)(process, signal.SIGKILL)
        killed += exit_code(process) == -signal.SIGKILL
        no_process_left(process, 60)  # a worker may still be loading the PLM
        finish(config, folder)
        assert without_counts(content(folder)) == expected
        assert not list(folder.rglob("*.part"))
        shutil.rmtree(folder)
        if killed == KILLS:
            return
    raise AssertionError(f"only {killed} runs were killed before they ended")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_runs_with_helpers_that_are_stopped_end_soon_and_say_how_to_go_on(
    with_helpers: Config, tmp_path: Path, number: signal.Signals
) -> None:
    config, whole = with_helpers, tmp_path / "whole"
    seconds = seconds_of_a_run(config, whole)
    expected, draws, stopped = without_counts(content(whole)), random.Random(number), 0
    for place in range(3 * KILLS):
        folder, log = tmp_path / str(place), tmp_path / f"log-{place}"
        process = begin(config, folder, log=log)
        time.sleep(draws.uniform(0.05, 0.9) * seconds)
        asked = time.monotonic()
        # Ctrl-C reaches the whole group, `kill` one process.
        (os.killpg if number == signal.SIGINT else os.kill)(process, number)
        code = exit_code(process)
        assert time.monotonic() - asked < 10
        if code:  # else it was done before
            assert code == 128 + number, errors_of(log)
            assert "run the same command again to go on" in log.read_text().splitlines()[-1]
            assert errors_of(log) == []
            stopped += 1
        no_process_left(process, 5)
        finish(config, folder)
        assert without_counts(content(folder)) == expected
        shutil.rmtree(folder)
        if stopped == KILLS:
            return
    raise AssertionError(f"only {stopped} runs were stopped before they ended")
