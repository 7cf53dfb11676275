"""The PLM as a LightningModule that writes chunks, and worker processes that run it, one per device.

Chunks are handed out as files in one folder: `NAME.todo` belongs to the process that renames it first, and its output
becomes `NAME.done` in the folder that it names. So a chunk is written once whatever the number of processes, and a
result outlives the process that made it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from zerogen.config.schema import DecodingConfig, PlmConfig
from zerogen.config.task_schema import ContrastConfig, DebiasConfig
from zerogen.data.records import Continuation, Request, Stop
from zerogen.errors import ChildFailed, UserError
from zerogen.plm.open import open_plm
from zerogen.plm.pretrained import PretrainedCodec, precision
from zerogen.plm.protocol import ChunkOutput, ChunkRequest, Writer, ahead_of
from zerogen.support.console import describe, reporting_errors
from zerogen.support.files import is_running, write_whole
from zerogen.support.lightning import quiet_lightning
from zerogen.support.process import starting_crowds
from zerogen.support.weights import has_amx

FAILED, HELD = ".failed", ".by-"
_POLL = 0.05  # seconds between two looks at the folder


def process_name(number: int | None = None) -> str:
    """Return a name for a process of this machine, this one by default, that none of another machine has."""
    return f"{os.uname().nodename.replace('.', '-')}-{number or os.getpid()}"


@dataclass(frozen=True)
class Order:
    """A chunk that one of several processes is to write.

    plm: what writes it. folder: where its output goes.
    """

    chunk: ChunkRequest
    plm: PlmConfig
    folder: Path

    def put(self, inbox: Path) -> None:
        """Write it into the folder that processes take chunks from."""
        fields = {"chunk": asdict(self.chunk), "plm": asdict(self.plm), "folder": str(self.folder.absolute())}
        write_whole(json.dumps(fields, ensure_ascii=False), self.path(self.chunk.name, inbox))

    @staticmethod
    def path(name: str, inbox: Path) -> Path:
        """Return where this process puts a chunk; of two runs that put chunks there, one may have left some."""
        return inbox / f"{name}-{os.getpid()}.todo"

    @classmethod
    def read(cls, path: Path) -> Order:
        """Read what `put` has written."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(_request(fields["chunk"]), PlmConfig(**fields["plm"]), Path(fields["folder"]))


class GeneratorModule(pl.LightningModule):
    """Writes the chunks of a folder: `Trainer.predict(GeneratorModule(), Inbox(folder), return_predictions=False)`.

    Every process of the trainer opens the PLM on its own device and takes chunks from the same folder.
    threads: of torch in each process, on a CPU; None leaves them as they are. survives: whether the process goes on
        after a chunk that could not be written, of which it leaves a note, `NAME.failed`, in place of the output.
    """

    def __init__(self, threads: int | None = None, survives: bool = False) -> None:
        super().__init__()
        self.threads, self.survives = threads, survives
        self.plm: Writer | None = None
        self.opened: PlmConfig | None = None

    def on_predict_start(self) -> None:
        """Set the number of threads."""
        if self.threads:
            torch.set_num_threads(self.threads)

    def predict_step(self, order: Order, batch_idx: int) -> None:
        """Write a chunk of requests and put the output into its folder."""
        try:
            self._write(order)
        except Exception as error:
            if not self.survives:
                raise
            note = {"reason": describe(error), "user": isinstance(error, UserError)}
            with suppress(FileNotFoundError):  # nobody waits for it any more
                write_whole(json.dumps(note), order.folder / f"{order.chunk.name}{FAILED}")

    def _write(self, order: Order) -> None:
        if self.plm is None or self.opened != order.plm:
            self.plm = None  # of two PLMs only one need be in memory
            self.plm, self.opened = open_plm(order.plm, self.device), order.plm
            self.plm.report_to(partial(print, flush=True))
        (output,) = self.plm.write([order.chunk])
        with suppress(FileNotFoundError):  # nobody waits for it any more
            write_whole(json.dumps(asdict(output), ensure_ascii=False), order.folder / f"{order.chunk.name}.done")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave a chunk, which holds no tensor, as it is."""
        return batch


class Inbox:
    """Takes chunks from a folder, each in one process only, until the folder is closed and empty, or gone.

    parent: a process without which nobody waits for the outputs; none by default.
    """

    def __init__(self, folder: Path, parent: int | None = None) -> None:
        self.folder, self.parent = folder, parent

    def awaited(self) -> bool:
        """Whether anybody waits for the outputs, as far as this process can see."""
        return self.folder.is_dir() and self.parent in (None, os.getppid())

    def __len__(self) -> int:
        return (
            1 << 31
        )  # unknown; without a length Lightning reads ahead, and so takes chunks long before it writes them

    def __iter__(self) -> Iterator[Order]:
        while self.awaited():
            closed = (self.folder / "closed").exists()
            if claimed := self._claim():
                try:
                    order = Order.read(claimed)
                except FileNotFoundError:  # this process was taken for a lost one
                    continue
                yield order
                claimed.unlink(missing_ok=True)
            elif closed:
                return
            else:
                time.sleep(_POLL)

    def _claim(self) -> Path | None:
        for path in sorted(self.folder.glob("*.todo")):
            claimed = path.with_suffix(f"{HELD}{process_name()}")
            try:
                return path.rename(claimed)
            except FileNotFoundError:  # another process was faster
                continue
        return None

    def close(self) -> None:
        """Let each process stop once no chunk is left."""
        if self.folder.is_dir():
            (self.folder / "closed").touch()


def _request(fields: dict[str, Any]) -> ChunkRequest:
    fields["requests"] = [Request(**request) for request in fields["requests"]]
    fields["stops"] = [Stop(**stop) for stop in fields["stops"]]
    fields["decoding"] = DecodingConfig(**fields["decoding"])
    fields["debias"] = (ContrastConfig if "guidance" in fields["debias"] else DebiasConfig)(**fields["debias"])
    return ChunkRequest(**fields)


def _output(path: Path) -> ChunkOutput:
    fields = json.loads(path.read_text(encoding="utf-8"))
    names = {"finish": "finish_reason"}  # as version 0.1 wrote it
    rows = [{names.get(name, name): value for name, value in row.items()} for row in fields["continuations"]]
    return ChunkOutput([Continuation(**row) for row in rows], fields["tokens"], fields["seconds"])


class FolderWriter(PretrainedCodec):
    """Writes chunks by processes that take them from one folder and leave their outputs in another.

    Those that an earlier run left there are used and not written again. Only one instance at a time may write.
    config: of the PLM. parallel: number of processes. todo: where they take chunks from. folder: where outputs go, and
    lie until they are read.
    """

    def __init__(self, config: PlmConfig, parallel: int, todo: Path, folder: Path) -> None:
        super().__init__(config)
        self.config, self.parallel, self.todo, self.folder = config, parallel, todo, folder
        self.ahead, self.tokens = ahead_of(parallel), 0

    def write(
        self, chunks: Iterable[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        """Yield the output for each chunk, in their order. Raises `ChildFailed` when a process ends early.

        Where the caller has enough before the end, chunks that no process has taken are taken back.
        """
        upcoming = iter(chunks)
        taken: deque[ChunkRequest] = deque()
        seen: set[str] = set()  # names of the files of outputs that were counted
        try:
            while True:
                for chunk in islice(upcoming, self.ahead - len(taken)):
                    taken.append(chunk)
                    self._hand_out(chunk)
                if not taken:
                    return
                chunk, done = taken[0], self._done(taken[0])
                while not done.exists():
                    self.check()
                    self._hand_out(chunk)
                    time.sleep(_POLL)
                    there = {entry.name for entry in os.scandir(self.folder)} - seen if self.folder.is_dir() else set()
                    for other in taken:
                        if self._done(other).name in there:
                            seen.add(self._done(other).name)
                            on_row(len(other.requests))
                try:
                    output = _output(done)
                except FileNotFoundError:  # another run with this pool has taken it away
                    continue
                if done.name not in seen:
                    on_row(len(chunk.requests))
                seen.discard(done.name)
                taken.popleft()
                self.tokens += output.tokens
                yield replace(output, seconds=round(output.seconds / self.parallel, 3))
                done.unlink(missing_ok=True)
        finally:
            for chunk in taken:
                Order.path(chunk.name, self.todo).unlink(missing_ok=True)

    def _hand_out(self, chunk: ChunkRequest) -> None:
        """Put a chunk where processes take it from, unless it is there, with one of them, or done."""
        # In this order: a process lets go of a chunk once its output is there.
        if not any(self.todo.glob(f"{chunk.name}-{os.getpid()}.*")) and not self._done(chunk).exists():
            self.start()
            Order(chunk, self.config, self.folder).put(self.todo)

    def _done(self, chunk: ChunkRequest) -> Path:
        return self.folder / f"{chunk.name}.done"

    def start(self) -> None:
        """Start what writes, if it does not run yet."""

    def check(self) -> None:
        """Raise `ChildFailed` if what writes has ended."""

    def report_to(self, say: Callable[[str], None]) -> None:
        """Do nothing: each process prints such lines itself."""

    def release(self) -> None:
        """Do nothing: each process may be in the middle of a chunk."""


class Workers(FolderWriter):
    """Writes chunks in processes of their own, one per device, each with the whole PLM.

    Use it as a context; the processes start with the first chunk.
    """

    def __init__(self, config: PlmConfig, devices: Sequence[torch.device], folder: Path) -> None:
        todo = folder / f"of-{process_name()}"  # chunks of this instance alone
        super().__init__(config, len(devices), todo, folder)
        self.devices = devices
        self.processes: list[Any] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        Inbox(self.todo).close()
        if kind is not None:  # chunks under way are lost, outputs are not
            for process in self.processes:
                process.kill()
        for process in self.processes:
            process.join()
        shutil.rmtree(self.todo, ignore_errors=True)
        leave(self.folder, outputs=kind is None)

    def start(self) -> None:
        """Start a process per device."""
        if self.processes:
            return
        remove_stale(self.folder)
        self.todo.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        threads = threads_each(self.config, self.devices)
        # Ctrl-C reaches every process, from its first moment on; this one ends the others.
        main = threading.current_thread() is threading.main_thread()
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
        crowded = threads * len(self.devices) > torch.get_num_threads()
        try:
            with starting_crowds() if crowded else nullcontext():
                for device in self.devices:
                    arguments = (device, Inbox(self.todo, os.getpid()), threads)
                    process = context.Process(target=_serve, args=arguments, daemon=True)
                    process.start()
                    self.processes.append(process)
        finally:
            if main:
                signal.signal(signal.SIGINT, handler)

    def check(self) -> None:
        """Raise `ChildFailed` when a process has ended."""
        for process in self.processes:
            if process.exitcode is not None:
                raise ChildFailed(process.exitcode, "a process that writes texts")


def remove_stale(folder: Path) -> None:
    """Remove the chunks that runs of this machine which were killed have left for their processes."""
    for path in folder.glob("of-*"):
        number = path.name.rpartition("-")[2]
        if number.isdigit() and path.name == f"of-{process_name(int(number))}" and not is_running(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def leave(folder: Path, outputs: bool) -> None:
    """Remove a folder of outputs if nothing is left in it; another run with this pool may be writing there by now.

    outputs: remove those that nobody has read, whole or not, too; such a run has what it needs of them written again.
    """
    for path in (*folder.glob("*.done*"), *folder.glob(f"*{FAILED}*")) if outputs else ():
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def threads_each(config: PlmConfig, devices: Sequence[torch.device]) -> int:
    """Return the number of threads of each of several processes: a share, or all where it would change the rows.

    oneDNN splits the sums of a bfloat16 product over AMX tiles by the number of threads; every other product is the
    same for any number.
    """
    threads = torch.get_num_threads()
    if precision(config.dtype, devices[0]) == torch.bfloat16 and has_amx(devices[0]):
        return threads
    return max(1, threads // len(devices))


def _serve(device: torch.device, inbox: Inbox, threads: int) -> None:
    """Write the chunks of an inbox on one device until it is closed."""
    with reporting_errors():
        predict(
            GeneratorModule(threads),
            inbox,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index] if device.type == "cuda" else 1,
        )


def predict(module: GeneratorModule, inbox: Inbox, **options: Any) -> None:
    """Write the chunks of an inbox. options: of Lightning's Trainer, about devices and nodes."""
    with quiet_lightning():
        trainer = pl.Trainer(
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.predict(module, inbox, return_predictions=False)
