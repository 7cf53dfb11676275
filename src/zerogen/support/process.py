"""Process setup: signals, CPU sharing, devices, offline mode of the Hub, and the check of the output folder."""

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
    """Raised when a signal asks the run to stop. Not a KeyboardInterrupt: Lightning turns that into exit code 1."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _SignalArgument:
    """The signal that caused an exception which Python is about to ignore, as an argument of a C function."""

    @classmethod
    def from_param(cls, unraisable: sys.UnraisableHookArgs) -> ctypes.c_int:
        if isinstance(unraisable.exc_value, Stopped):
            return ctypes.c_int(unraisable.exc_value.number)
        sys.__unraisablehook__(unraisable)
        return ctypes.c_int(0)  # not a signal


_signals: list[int] = []  # signals received since `stop_on_signals`
_previous_handlers: list[tuple[int, Any]] = []  # (signal, its handler before `stop_on_signals`)
_previous_hook: Any = None  # `sys.unraisablehook` before `stop_on_signals`


def stop_on_signals() -> None:
    """Turn SIGINT and SIGTERM into `Stopped`, even where Python ignores exceptions.

    An exception raised in a finaliser, a weak reference's callback or the like is lost; the signal is then sent again.
    """

    def stop(number: int, frame: object) -> None:
        _signals.append(number)
        raise Stopped(number)

    global _previous_hook
    # A hook written in Python would be interrupted by the signal it sends, and that exception would be ignored too.
    resend = ctypes.pythonapi["PyErr_SetInterruptEx"]
    resend.argtypes = [_SignalArgument]  # type: ignore[list-item]  # any class with from_param works
    _signals.clear()
    _previous_hook, sys.unraisablehook = sys.unraisablehook, resend
    for number in (signal.SIGINT, signal.SIGTERM):
        _previous_handlers.append((number, signal.signal(number, stop)))


def stop_no_longer() -> int | None:
    """Undo `stop_on_signals` if it was called; return the last signal received since, None if there was none.

    So the caller learns of a signal whose `Stopped` was lost. Call this when the work is done: an exception raised
    while Python shuts down would not change the exit code.
    """
    if not _previous_handlers:
        return None
    sys.unraisablehook = _previous_hook
    while _previous_handlers:
        signal.signal(*_previous_handlers.pop())
    return _signals[-1] if _signals else None


_SPINS = "GOMP_SPINCOUNT"
_IDLE_SPINS, _CROWDED_SPINS = "15000", "1000"  # measured by benchmarks/busy.py
_TIME_SLICE = 500_000  # nanoseconds that a thread runs at a time when others want its core
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the number of the system call
_SAMPLE = 0.1  # seconds over which other work is measured
_TOLERANCE = 0.3  # cores that other work may take, beyond the spare ones, without slowing this process
_spin_count: str | None = None  # the value that `share_cores` has set


def share_cores() -> str | None:
    """Set how long torch's threads spin while waiting, so that other work on the same cores slows them little.

    OpenMP threads wait for each other by spinning, for a millisecond or more, and one core taken by another process
    makes all of them wait. GNU's OpenMP (which torch uses on Linux) spins GOMP_SPINCOUNT times, then sleeps: a lower
    count loses less time beside other work, and more on an idle machine. This function decides by the current load, for
    this process and those it starts. Call it before torch is loaded; the user's own GOMP_SPINCOUNT or OMP_WAIT_POLICY
    takes precedence. Return a line to show if other work keeps cores busy, else None.
    """
    global _spin_count
    if sys.platform != "linux":
        return None
    _shorten_time_slice()
    if "OMP_WAIT_POLICY" in os.environ or os.environ.get(_SPINS) != _spin_count:
        return None
    usable = os.sched_getaffinity(0)
    busy = _busy_cores(usable)
    if busy is None:
        return None
    spare = len(usable) - _threads(usable)
    crowded = busy > spare + _TOLERANCE
    _spin_count = os.environ[_SPINS] = _CROWDED_SPINS if crowded else _IDLE_SPINS
    if not crowded:
        return None
    return (
        f"other work keeps {busy:.1f} of {len(usable)} cores busy: threads here sleep sooner ({_SPINS}={_spin_count})"
    )


@contextmanager
def starting_crowds() -> Iterator[None]:
    """Make processes started in this block, with more threads than cores in all, spin as if the cores were busy."""
    previous = os.environ.get(_SPINS)
    if "OMP_WAIT_POLICY" in os.environ or previous != _spin_count:
        yield
        return
    os.environ[_SPINS] = _CROWDED_SPINS
    try:
        yield
    finally:
        if previous is None:
            del os.environ[_SPINS]
        else:
            os.environ[_SPINS] = previous


def _shorten_time_slice() -> None:
    """Ask Linux (6.12 and later) to run this process's threads for shorter slices, but sooner.

    A thread that wakes up then need not wait for lower-priority work to finish its slice of several milliseconds.
    """
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, _TIME_SLICE, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, attributes, 0)  # an older kernel ignores the runtime


def _busy_cores(cores: set[int]) -> float | None:
    """Return how many of `cores` other work keeps busy now, not counting lower-priority (nice) work.

    None if this cannot be read.
    """
    before = _work_seconds(cores)
    if before is None:
        return None
    began, own = time.perf_counter(), time.process_time()
    time.sleep(_SAMPLE)
    after = _work_seconds(cores)
    assert after is not None
    return max(0.0, after - before - (time.process_time() - own)) / (time.perf_counter() - began)


def _work_seconds(cores: set[int]) -> float | None:
    """Return the total seconds that `cores` spent on normal-priority work or on other virtual machines, or None."""
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
    """Return how many threads torch starts on `cores`: one per physical core, whatever its hyper-threads."""
    folder = Path("/sys/devices/system/cpu")
    try:
        return len({(folder / f"cpu{core}/topology/thread_siblings_list").read_text() for core in cores})
    except OSError:
        return len(cores)


def devices_of(gpu: Any, processes: int = 1) -> list[torch.device]:
    """Return the devices that write texts; everything else runs on the first one.

    gpu: auto, none, an index or a list of indices. processes: number of times the CPU is listed. Raises `UserError` for
    a GPU that does not exist, and for several processes on a GPU.
    """
    import torch

    count = torch.cuda.device_count()
    if gpu == "none" or (gpu == "auto" and not count):
        return [torch.device("cpu")] * processes
    indices = [0] if gpu == "auto" else gpu if isinstance(gpu, list) else [gpu]
    if not all(0 <= index < count for index in indices):
        options = f"0 to {count - 1}" if count else "auto or none: this machine has no GPU that torch can use"
        raise UserError(f"gpu={gpu}: there is no such GPU; allowed is {options}")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once; else sums differ from run to run
    if processes > 1:
        raise UserError(f"processes={processes}: is for a CPU; several GPUs are a list, gpu=[0,1]")
    return [torch.device("cuda", index) for index in indices]


def gpu_of(text: str) -> int | str:
    """Return the value of `--gpu`: auto, none or an index. Raises `UserError` for anything else."""
    if text in ("auto", "none"):
        return text
    if not text.isdigit():
        raise UserError(f"--gpu {text}: allowed is auto, none or an index")
    return int(text)


def go_offline_without_network() -> None:
    """Switch the Hub's client to offline mode if the Hub's name does not resolve; it would retry for half a minute.

    Call it before `datasets` or `transformers` is imported: they read the variable once.
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
    """Raise `UserError` if a folder can be neither written to nor created; do not create it."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        reason = "is not writable" if place.is_dir() else "is a file"
        raise UserError(f"output_dir={folder}: {place} {reason}; allowed is a folder that can be written to")
