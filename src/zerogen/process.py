"""What a process sets up before it works: its signals, devices and folder, and whether it tries the Hub."""

from __future__ import annotations

import os
import signal
import socket
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


def stop_on_signals() -> None:
    """Turn SIGINT and SIGTERM into `Stopped`."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


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
