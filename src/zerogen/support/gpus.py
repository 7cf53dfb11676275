"""Claims on GPUs, so that runs of one user on one machine do not take the same one.

A claim is a lock on a file named after the GPU, in a folder of the user's in the temporary folder; it ends with the
process, however that ends.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.support.files import file_name
from zerogen.support.process import devices_of

if TYPE_CHECKING:
    import torch
    from filelock import FileLock

_POLL = 1.0  # seconds between two attempts to claim a GPU


@contextmanager
def claimed_devices(gpu: Any, processes: int, say: Callable[[str], None]) -> Iterator[list[torch.device]]:
    """Yield the devices that write texts, see `devices_of`, and claim those that are GPUs during the block.

    With gpu=auto it is the first GPU that no other run has claimed; where there is none, say so and wait. GPUs that are
    named are taken even if they are claimed.
    """
    devices = devices_of(gpu, processes)
    if devices[0].type == "cpu":
        yield devices
        return
    import torch

    count = torch.cuda.device_count()
    uuids = [getattr(torch.cuda.get_device_properties(index), "uuid", None) for index in range(count)]
    names = names_of(uuids, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if gpu == "auto":
        with claimed(names, say) as index:
            yield [torch.device("cuda", index)]
        return
    with ExitStack() as stack:
        for device in devices:
            stack.enter_context(marked(names[device.index]))
        yield devices


def names_of(uuids: Sequence[object | None], visible: str) -> list[str]:
    """Return a name for each GPU that is the same in all processes.

    uuids: of the GPUs, None for one without. visible: what CUDA_VISIBLE_DEVICES says; an entry for a part of a GPU
    (MIG) is its name, and any entry that of a GPU without a UUID.
    """
    entries = [entry.strip() for entry in visible.split(",")] + [""] * len(uuids)
    return [
        entry if entry.startswith("MIG-") else str(uuid or entry or index)
        for index, (uuid, entry) in enumerate(zip(uuids, entries, strict=False))
    ]


@contextmanager
def claimed(names: Sequence[str], say: Callable[[str], None]) -> Iterator[int]:
    """Claim the first of some GPUs that is free and yield its place; while all are claimed, say so once and wait."""
    waiting = False
    while True:
        for index, name in enumerate(names):
            if (lock := _try(name)) is not None:
                try:
                    yield index
                finally:
                    lock.release()
                return
        if not waiting:
            say(f"waiting for a GPU: other runs have claimed all {len(names)} (gpu=INDEX takes one all the same)")
            waiting = True
        time.sleep(_POLL)


@contextmanager
def marked(name: str) -> Iterator[None]:
    """Claim a GPU if it is free, so that gpu=auto avoids it, and go on all the same if it is not."""
    lock = _try(name)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _try(name: str) -> FileLock | None:
    from filelock import FileLock, Timeout

    folder = Path(tempfile.gettempdir()) / f"zerogen-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = FileLock(folder / f"{file_name(name)}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock
