"""Files that are there whole or not at all, and folders that one process writes at a time."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zerogen.errors import UserError
from zerogen.support.files import LOCK, WORKS, exclusive, expanded, file_name, put_aside, write_whole, writing
from zerogen.support.progress import Progress


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_folder_made_for_a_lock_alone_is_gone_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "task" / "run"
    with exclusive(folder, Progress()):
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError), exclusive(folder, Progress()):
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    with exclusive(folder, Progress()):
        (folder / "result.json").touch()
    assert (folder / "result.json").is_file()
    (tmp_path / "mine").mkdir()
    with exclusive(tmp_path / "mine", Progress()):
        pass
    assert (tmp_path / "mine").is_dir()


def test_the_second_of_two_processes_waits_and_says_so(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from zerogen.support.files import exclusive
from zerogen.support.progress import Progress
with exclusive(Path({str(tmp_path)!r}), Progress()):
    print("held", flush=True)
    sys.stdin.readline()
    Path({str(tmp_path)!r}, "first").touch()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "held\n"

        class Releasing(Told):
            def say(self, text: str) -> None:
                super().say(text)
                assert not (tmp_path / "first").exists()
                other.stdin.write("\n")  # type: ignore[union-attr]
                other.stdin.flush()  # type: ignore[union-attr]

        told = Releasing()
        with exclusive(tmp_path, told):
            assert (tmp_path / "first").exists()
    assert told.lines == [f"waiting for another run that writes {tmp_path}"]


def test_who_waits_goes_on_where_the_first_one_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "run"
    program = f"""
import sys
from pathlib import Path
from zerogen.support.files import exclusive
from zerogen.support.progress import Progress
folder = Path({str(folder)!r})

class Told(Progress):
    def say(self, text):
        print("waits", flush=True)

with exclusive(folder, Told()):
    print("held", flush=True)
    sys.stdin.readline()
    if sys.argv[1] == "writes":
        (folder / "rows").open("a").write("x")
"""

    def start(what: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, what]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    first = start("leaves nothing")
    assert line(first) == "held"
    others = [start("writes") for _ in range(2)]
    assert [line(other) for other in others] == ["waits", "waits"]
    for process in [*others, first]:  # in which order they hold it is left to them
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [other.communicate(timeout=60)[0] for other in others]
    assert first.wait() == 0
    assert ends == ["held\n", "held\n"]
    assert [other.returncode for other in others] == [0, 0]
    assert (folder / "rows").read_text() == "xx"


def test_why_a_library_could_not_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as gone, writing(tmp_path / "gone"):
        raise RuntimeError("stream writer failed")
    assert gone.value.filename == str(tmp_path / "gone")
    with pytest.raises(OSError) as full, writing(tmp_path), Path("/dev/full").open("w") as file:
        file.write("x" * 100_000)
        file.flush()
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(tmp_path))
    with pytest.raises(RuntimeError, match="a bug"), writing(tmp_path):
        raise RuntimeError("a bug")


def test_a_text_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    write_whole("old", tmp_path / "a")
    with pytest.raises(UnicodeEncodeError):
        write_whole("\ud800", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_only_what_nobody_here_or_elsewhere_writes_any_more_is_removed(tmp_path: Path) -> None:
    (tmp_path / WORKS).mkdir()
    here, elsewhere = tmp_path / f"a.{os.getpid()}.part", tmp_path / WORKS / "b.99999999.part"
    for path in (tmp_path / "a.99999999.part", here, elsewhere):
        path.touch()
    with exclusive(tmp_path, Progress()):
        assert set(tmp_path.rglob("*.part")) == {here, elsewhere}


def test_what_is_put_aside_replaces_nothing(tmp_path: Path) -> None:
    for content in "abc":
        (tmp_path / "t.csv").write_text(content)
        put_aside(tmp_path / "t.csv")
    names = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert names == {"t.csv.damaged": "a", "t.csv.damaged-2": "b", "t.csv.damaged-3": "c"}


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert expanded("~/x", "output_dir") == "/home/ann/x"
    assert expanded("a~b", "output_dir") == "a~b"
    with pytest.raises(UserError, match="output_dir=~nobody-of-that-name/x: there is no such user"):
        expanded("~nobody-of-that-name/x", "output_dir")


@pytest.mark.parametrize("text", ["..", ".hidden", "a/b", "\u6f22" * 200, "x" * 200])
def test_names_fit_into_file_names(text: str, tmp_path: Path) -> None:
    name = file_name(text)
    assert "/" not in name and not name.startswith(".")
    # As the longest file names: of a setting's results over seeds, while they are written.
    longest = "_".join(["supervised", *[name or "x"] * 2, "n200000", "seeds", "0" * 8]) + ".json.4194304.part"
    (tmp_path / longest).touch()
    assert len(os.fsencode(longest)) < 255


def test_a_locked_folder_that_is_deleted_is_what_went_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for error in (None, UserError("result.json: there is no such file"), ValueError("damaged")):
        with pytest.raises(FileNotFoundError) as gone, exclusive(folder, Progress()):
            shutil.rmtree(folder)
            if error:
                raise error
        assert gone.value.filename == str(folder) and gone.value.__cause__ is error
        assert not folder.exists()
    with pytest.raises(FileNotFoundError), exclusive(folder, Progress()):  # deleted and made again
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / LOCK).touch()
        (folder / "other").touch()
    assert (folder / "other").exists()
