"""Signals stop a process wherever they arrive, and the console shows what it can."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zerogen.support.console import reporting_errors

BEGIN = """
import gc, os, signal, sys, time, weakref
from zerogen.support.console import reporting_errors
from zerogen.support.process import Stopped, stop_on_signals

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        sum(range(9))

def work():
    print("goes on", flush=True)
    time.sleep(30)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts with & ignore it
stop_on_signals()
"""
CASES = {
    "in a finaliser": """
with reporting_errors():
    one = Finalised()
    del one
    work()
""",
    "in a finaliser that the garbage collector calls": """
with reporting_errors():
    one = Finalised()
    one.itself = one
    del one
    gc.collect()
    work()
""",
    "in a weak reference's callback": """
class Some: pass

def callback(reference):
    os.kill(os.getpid(), signal.{name})
    sum(range(9))

with reporting_errors():
    one = Some()
    reference = weakref.ref(one, callback)
    del one
    work()
""",
    "caught by somebody else": """
with reporting_errors():
    try:
        os.kill(os.getpid(), signal.{name})
        sum(range(9))
    except BaseException:
        pass
""",
    "when all is done": """
with reporting_errors():
    pass
os.kill(os.getpid(), signal.{name})
work()
""",
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_is_never_lost(case: str, name: str, code: int) -> None:
    program = (BEGIN + CASES[case]).replace("{name}", name)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert done.returncode in (code, 128 - code), done.stderr  # a shell shows -15 as 143
    assert "goes on" not in done.stdout
    assert "Stopped" not in done.stderr


def test_what_python_ignores_otherwise_is_still_shown() -> None:
    program = (
        BEGIN.replace("{name}", "SIGTERM")
        + """
class Broken:
    def __del__(self):
        raise ValueError("broken on purpose")

with reporting_errors():
    Broken()
"""
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    assert "broken on purpose" in done.stderr


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("open('/dev/full', 'w').write('x' * 100_000)", "No space left on device; free some space"),
        ("write_whole('x', Path('gone/file'))", "gone/.*No such file or directory; it may have been deleted"),
        ("Path('.').read_text()", "Is a directory"),
    ],
)
def test_what_a_disk_does_is_one_line(tmp_path: Path, action: str, message: str) -> None:
    program = f"""
from pathlib import Path
from zerogen.support.console import reporting_errors
from zerogen.support.files import write_whole
with reporting_errors():
    {action}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert re.search(message, done.stderr)


def test_an_error_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(OSError, match="unexpected"), reporting_errors():
        raise OSError("unexpected")


def test_a_console_without_a_character_shows_a_mark() -> None:
    program = """
from zerogen.support.console import reporting_errors
with reporting_errors():
    print("price \U0001f600 caf\u00e9")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=20, env={"PYTHONIOENCODING": "cp1252"}
    )
    assert (done.returncode, done.stdout) == (0, "price ? caf\u00e9\n".encode("cp1252"))


SPINS = """
import os
from zerogen.support.process import share_cores, starting_crowds
share_cores()
before = os.environ.get("GOMP_SPINCOUNT")
with starting_crowds():
    during = os.environ.get("GOMP_SPINCOUNT")
assert os.environ.get("GOMP_SPINCOUNT") == before
print(during)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads wait in GNU's way on Linux only")
@pytest.mark.parametrize(("environment", "during"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_processes_that_crowd_each_other_wait_briefly(environment: dict[str, str], during: str) -> None:
    others = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", SPINS], env=others | environment, capture_output=True, text=True)
    assert done.stdout.strip() == during, done.stderr
