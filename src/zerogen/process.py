"""What a process sets up before it works: its signals, devices and folder, and whether it tries the Hub."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zerogen.errors import UserError

if TYPE_CHECKING:
    import torch


class Stopped(BaseException):
    """A signal asked the run to stop. Not a KeyboardInterrupt: Lightning turns that one into exit code 1."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Ignored:
    """The signal behind an exception that Python is about to ignore, as an argument of a C function."""

    @classmethod
    def from_param(cls, ignored: sys.UnraisableHookArgs) -> ctypes.c_int:
        if isinstance(ignored.exc_value, Stopped):
            return ctypes.c_int(ignored.exc_value.number)
        sys.__unraisablehook__(ignored)
        return ctypes.c_int(0)  # which is no signal


_received: list[int] = []  # signals since `stop_on_signals`
_before: list[tuple[int, Any]] = []  # signals, and what became of each before it
_hook: Any = None  # what was told of ignored exceptions before it


def stop_on_signals() -> None:
    """Turn SIGINT and SIGTERM into `Stopped`, also where Python ignores what is raised.

    What a finaliser, a weak reference's callback or the like raises is lost: then the signal comes again.
    """

    def stop(number: int, frame: object) -> None:
        _received.append(number)
        raise Stopped(number)

    global _hook
    # A hook in Python would be interrupted by the very signal that it sends, and ignored as well.
    again = ctypes.pythonapi["PyErr_SetInterruptEx"]
    again.argtypes = [_Ignored]  # type: ignore[list-item]  # whatever has from_param
    _received.clear()
    _hook, sys.unraisablehook = sys.unraisablehook, again
    for number in (signal.SIGINT, signal.SIGTERM):
        _before.append((number, signal.signal(number, stop)))


def stop_no_longer() -> int | None:
    """Undo `stop_on_signals` if it was called; return a signal that came and was lost, None if there is none.

    For when the work is done: what is raised while Python shuts down would not change its exit code.
    """
    if not _before:
        return None
    sys.unraisablehook = _hook
    while _before:
        signal.signal(*_before.pop())
    return _received[-1] if _received else None


_SPINS = "GOMP_SPINCOUNT"
_ALONE, _AMONG_OTHERS = "15000", "1000"  # measured by benchmarks/busy.py
_TURN = 500_000  # nanoseconds that a thread runs at a time where others want its core
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the number of the system call
_SAMPLE = 0.1  # seconds over which other work is measured
_CROWDED = 0.3  # cores that other work may take without this one waiting for it
_chosen: str | None = None  # what `share_cores` has set


def share_cores() -> str | None:
    """Let torch's threads wait such that other work on the same cores costs little more than its share.

    Threads of OpenMP wait for each other by looking again and again, for up to a millisecond or more, and a core that
    another process has taken makes all of them wait. GNU's (which torch has on Linux) looks GOMP_SPINCOUNT times, then
    sleeps: the fewer, the less is lost beside other work, and the more on an idle machine. So this decides by what runs
    now, for this process and those that it starts. Must be called before torch is loaded; a user's own GOMP_SPINCOUNT
    or OMP_WAIT_POLICY stays. Returns a line to say where cores are busy with other work.
    """
    global _chosen
    if sys.platform != "linux":
        return None
    _take_short_turns()
    if "OMP_WAIT_POLICY" in os.environ or os.environ.get(_SPINS) != _chosen:
        return None
    usable = os.sched_getaffinity(0)
    busy = _busy_cores(usable)
    if busy is None:
        return None
    spare = len(usable) - _threads(usable)
    crowded = busy > spare + _CROWDED
    _chosen = os.environ[_SPINS] = _AMONG_OTHERS if crowded else _ALONE
    if not crowded:
        return None
    return f"other work keeps {busy:.1f} of {len(usable)} cores busy: threads here sleep sooner ({_SPINS}={_chosen})"


@contextmanager
def starting_crowds() -> Iterator[None]:
    """Let processes started meanwhile, which have more threads than there are cores, wait as beside other work."""
    decided = os.environ.get(_SPINS)
    if "OMP_WAIT_POLICY" in os.environ or decided != _chosen:
        yield
        return
    os.environ[_SPINS] = _AMONG_OTHERS
    try:
        yield
    finally:
        if decided is None:
            del os.environ[_SPINS]
        else:
            os.environ[_SPINS] = decided


def _take_short_turns() -> None:
    """Ask Linux (6.12 and later) to let threads of this process run for shorter at a time, but sooner.

    A thread that wakes up then need not wait until work at a lower priority has had its turn of some milliseconds.
    """
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, _TURN, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, attributes, 0)  # an older kernel ignores the runtime


def _busy_cores(cores: set[int]) -> float | None:
    """Return how many of some cores other work keeps busy now, work at a lower priority (nice) aside.

    None where nobody knows.
    """
    before = _worked(cores)
    if before is None:
        return None
    began, own = time.perf_counter(), time.process_time()
    time.sleep(_SAMPLE)
    after = _worked(cores)
    assert after is not None
    return max(0.0, after - before - (time.process_time() - own)) / (time.perf_counter() - began)


def _worked(cores: set[int]) -> float | None:
    """Return the seconds that cores have worked at normal priority in all, or for other virtual machines."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    total = 0
    try:
        for line in Path("/proc/stat").read_text().splitlines():
            core, *counts = line.split()
            if core[:3] == "cpu" and core[3:].isdigit() and int(core[3:]) in cores:
                ticks = dict(zip(names, map(int, counts), strict=False))
                total += sum(ticks[name] for name in ("user", "system", "irq", "softirq", "steal"))
    except (OSError, ValueError, KeyError):
        return None
    return total / os.sysconf("SC_CLK_TCK")


def _threads(cores: set[int]) -> int:
    """Return how many threads torch has on some cores: one for all twins (hyper-threads) of a core."""
    twins = Path("/sys/devices/system/cpu")
    try:
        return len({(twins / f"cpu{one}/topology/thread_siblings_list").read_text() for one in cores})
    except OSError:
        return len(cores)


def devices_of(gpu: Any, processes: int = 1) -> list[torch.device]:
    """Return the devices that write texts; the first one does everything else.

    gpu: auto, none, an index or a list of them. processes: how often the CPU counts. Raises `UserError` for a GPU that
    is not there, and for several processes on one.
    """
    import torch

    count = torch.cuda.device_count()
    if gpu == "none" or (gpu == "auto" and not count):
        return [torch.device("cpu")] * processes
    indices = [0] if gpu == "auto" else gpu if isinstance(gpu, list) else [gpu]
    if not all(0 <= index < count for index in indices):
        there = f"0 to {count - 1}" if count else "auto or none: this machine has no GPU that torch can use"
        raise UserError(f"gpu={gpu}: there is no such GPU; allowed is {there}")
    if processes > 1:
        raise UserError(f"processes={processes}: is for a CPU; several GPUs are a list, gpu=[0,1]")
    return [torch.device("cuda", index) for index in indices]


def gpu_of(text: str) -> int | str:
    """Return what `--gpu` names: auto, none or an index. Raises `UserError` for anything else."""
    if text in ("auto", "none"):
        return text
    if not text.isdigit():
        raise UserError(f"--gpu {text}: allowed is auto, none or an index")
    return int(text)


def go_offline_without_network() -> None:
    """Tell the Hub's client not to try (and retry for half a minute) where the Hub's name does not resolve.

    Must run before `datasets` or `transformers` is imported: they read the variable once.
    """
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    if "HF_HUB_OFFLINE" in os.environ or any(
        os.environ.get(f"{name}_proxy".upper()) or os.environ.get(f"{name}_proxy") for name in ("https", "all")
    ):
        return  # the user has decided, or a proxy resolves names
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def require_writable(folder: Path) -> None:
    """Raise `UserError` where a folder can be neither written to nor made; it is not made here."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        reason = "is not writable" if place.is_dir() else "is a file"
        raise UserError(f"output_dir={folder}: {place} {reason}; allowed is a folder that can be written to")
