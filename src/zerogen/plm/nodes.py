"""The processes that torchrun or srun has started, on one machine or many, as one group that writes chunks.

The first process runs the command; a child of it takes its place in the group. All others do nothing but write. They
meet in a folder of `output_dir`, which all of them must see.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pytorch_lightning.plugins import environments
from pytorch_lightning.strategies import DDPStrategy

from zerogen.config.schema import Config, EngineConfig, PlmConfig
from zerogen.errors import ChildFailed, UserError
from zerogen.plm.pulse import Pulse, Watch
from zerogen.plm.workers import (
    FAILED,
    HELD,
    FolderWriter,
    GeneratorModule,
    Inbox,
    Order,
    leave,
    predict,
    process_name,
)
from zerogen.support.console import reporting_errors
from zerogen.support.files import LOCK
from zerogen.support.lightning import quiet_lightning

_PREFIX = ".nodes-"
_FIRST = "first"  # whose pulse is that of the process that runs the command


def rank_of(engine: EngineConfig) -> tuple[int, int]:
    """Return the rank of this process and the number of all. Raises `UserError` where there are not `engine.nodes`."""
    where = f"engine=lightning engine.nodes={engine.nodes}"
    try:
        with quiet_lightning():
            kinds: list[Any] = [environments.TorchElasticEnvironment, environments.SLURMEnvironment]  # type: ignore[attr-defined]
            found = [kind() for kind in kinds if kind.detect()]
    except RuntimeError as error:  # Lightning's advice about the variables of srun
        raise UserError(f"{where}: {error}") from error
    if not found:
        raise UserError(
            f"{where}: is for a command that torchrun or srun has started, once in each process; allowed otherwise is "
            "engine=local, where processes=N or gpu=[0,1] takes more than one"
        )
    rank, size = found[0].global_rank(), found[0].world_size()
    each = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or str(size // engine.nodes)
    if each.isdigit() and int(each) * engine.nodes != size:
        raise UserError(f"{where}: {size} processes were started, {each} on each node")
    return rank, size


class _Group(Inbox):
    """An inbox that is the first process's for every process of the group."""

    def __iter__(self) -> Iterator[Order]:
        names: list[Any] = [str(self.folder)]
        torch.distributed.broadcast_object_list(names)
        self.folder = Path(names[0])
        self.first = Watch(self.folder)
        with Pulse(self.folder, process_name()):
            yield from super().__iter__()

    def awaited(self) -> bool:
        """Whether the first process lives, also where it is that of another machine."""
        return super().awaited() and not self.first.silent({_FIRST})


def serve(config: Config, size: int, folder: Path = Path(), parent: int | None = None) -> None:
    """Write chunks as one of `size` processes until the first one closes the folder.

    folder: known to the first one only. parent: of its child.
    """
    cuda = config.gpu != "none" and torch.cuda.is_available()
    predict(
        GeneratorModule(survives=True),
        _Group(folder, parent),
        accelerator="gpu" if cuda else "cpu",
        devices=size // config.engine.nodes,
        num_nodes=config.engine.nodes,
        strategy=DDPStrategy(process_group_backend="gloo"),  # which passes names, and no tensor
    )


def _serve_first(config: Config, size: int, folder: Path, parent: int) -> None:
    try:
        with reporting_errors():
            serve(config, size, folder, parent)
    finally:
        _remove_unless_closed(folder)  # the process that started this one may have been killed


@contextmanager
def gathered(config: Config, size: int) -> Iterator[EngineConfig]:
    """Yield, in the first process, the engine with the folder from which the group takes chunks until the block ends.

    Where its child ends early, the folder is removed; other processes are for torchrun or srun to watch.
    """
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    _remove_stale(output)
    # It has its name once it is locked: what is not locked is stale.
    scratch = Path(tempfile.mkdtemp(prefix=".", suffix=_PREFIX, dir=output)).absolute()
    folder, lock = scratch.with_name(f"{_PREFIX}{scratch.name}"), FileLock(scratch / LOCK)
    process = multiprocessing.get_context("spawn").Process(
        target=_serve_first, args=(config, size, folder, os.getpid()), daemon=True
    )
    try:
        lock.acquire()
        scratch.rename(folder)
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the child too; this process ends it
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        watcher = threading.Thread(target=_watch, args=(process, folder), daemon=True)
        watcher.start()
        with Pulse(folder, _FIRST):
            yield replace(config.engine, folder=str(folder))
        Inbox(folder).close()
        watcher.join()
    finally:
        if process.pid is not None:
            process.kill()
        lock.release()
        _remove(scratch)
        _remove(folder)
        with suppress(OSError):  # there is something in it, or it is gone
            output.rmdir()


def _watch(process: Any, folder: Path) -> None:
    process.join()
    _remove_unless_closed(folder)


def _remove_unless_closed(folder: Path) -> None:
    """Remove the folder of a group whose first process has ended too early: nobody writes its chunks any more."""
    if not (folder / "closed").exists():
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the folder of a group, also where files of it are open on another machine: no process finds it then."""
    gone = folder.with_name(f".gone-{folder.name}")
    with suppress(OSError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _remove_stale(output: Path) -> None:
    """Remove the folders of commands that were killed."""
    for folder in output.glob(f"{_PREFIX}*"):
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue
        lock.release()
        _remove(folder)


class Nodes(FolderWriter):
    """Writes chunks by the group whose folder the engine has. Use it as a context.

    size: number of processes of the group.
    """

    def __init__(self, config: PlmConfig, engine: EngineConfig, size: int, folder: Path) -> None:
        super().__init__(config, size, Path(engine.folder), folder)
        self.started = False
        self.others = Watch(self.todo)
        self.say: Callable[[str], None] = print

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._clear()
        leave(self.folder, outputs=kind is None)

    def _clear(self) -> None:
        """Take back the chunks that no process has taken, of this run or one before."""
        for path in self.todo.glob("*.todo"):
            path.unlink(missing_ok=True)

    def start(self) -> None:
        """Make the folder of outputs; take back what is left of a run that was killed."""
        if not self.started:
            self._clear()
            for path in self.folder.glob(f"*{FAILED}"):
                path.unlink()
            self.started = True
        self.folder.mkdir(parents=True, exist_ok=True)  # another run with this pool removes it where it is empty

    def report_to(self, say: Callable[[str], None]) -> None:
        """Say by `say` which processes are lost."""
        self.say = say

    def check(self) -> None:
        """Hand out again what a process holds that shows no sign of life.

        Raises what a process has left a note of, or `ChildFailed` when the folder of the group is gone.
        """
        for path in self.folder.glob(f"*{FAILED}"):
            note = json.loads(path.read_text(encoding="utf-8"))
            path.unlink()
            if note["user"]:
                raise UserError(note["reason"])
            raise ChildFailed(0, "a process that writes texts", note["reason"])
        if not self.todo.is_dir():
            raise ChildFailed(0, "a process that writes texts")
        held = {path.suffix.removeprefix(HELD): path for path in self.todo.glob(f"*{HELD}*")}
        for holder in self.others.silent(set(held)):
            with suppress(FileNotFoundError):
                held[holder].rename(held[holder].with_suffix(".todo"))
                self.say(f"process {holder} shows no sign of life: another one writes its chunk")
