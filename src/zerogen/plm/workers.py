"""The generator as a LightningModule, and worker processes that run it, one per device.

Works are handed out as files of one folder: `NAME.todo` is taken by whichever process renames it first, and what it
writes becomes `NAME.done`. So a work is written once whatever the number of processes, a result outlives the process
that made it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from zerogen.config import DebiasConfig, DecodingConfig, PlmConfig
from zerogen.console import reporting_errors
from zerogen.errors import ChildFailed
from zerogen.files import write_whole
from zerogen.lightning import quiet_lightning
from zerogen.models import has_amx, load_codec, resolve
from zerogen.plm.model import Plm, load_plm, precision
from zerogen.plm.protocol import ChunkOutput, ChunkRequest, Codec, longest_row
from zerogen.process import starting_crowds
from zerogen.records import Continuation, Request, Stop

_POLL = 0.05  # seconds between two looks at the folder


class GeneratorModule(pl.LightningModule):
    """Writes the works of a folder: `Trainer.predict(GeneratorModule(...), Inbox(folder), return_predictions=False)`.

    Every process of the trainer loads the PLM on its own device and takes works from the same folder.
    folder: where results go. threads: of torch in each process, on a CPU.
    """

    def __init__(self, config: PlmConfig, folder: Path, threads: int | None = None) -> None:
        super().__init__()
        self.config, self.folder, self.threads = config, folder, threads
        self.plm: Plm | None = None

    def on_predict_start(self) -> None:
        """Load the PLM."""
        if self.threads:
            torch.set_num_threads(self.threads)
        self.plm = load_plm(self.config, self.device)
        self.plm.report_to(partial(print, flush=True))

    def predict_step(self, work: ChunkRequest, batch_idx: int) -> None:
        """Write a chunk of requests and put what was written into the folder."""
        assert self.plm is not None
        (written,) = self.plm.write([work])
        write_whole(json.dumps(asdict(written), ensure_ascii=False), self.folder / f"{work.name}.done")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave a work, which holds no tensor, as it is."""
        return batch


class Inbox:
    """Takes works from a folder, each by one process only, until it is closed and empty, or gone.

    parent: a process without which nobody waits for what is written; none by default.
    """

    def __init__(self, folder: Path, parent: int | None = None) -> None:
        self.folder, self.parent = folder, parent

    def __len__(self) -> int:
        return 1 << 31  # not known; Lightning reads ahead, and so takes works that it does not yet write, without one

    def __iter__(self) -> Iterator[ChunkRequest]:
        while self.folder.is_dir() and self.parent in (None, os.getppid()):
            closed = (self.folder / "closed").exists()
            if work := self._take():
                yield work
            elif closed:
                return
            else:
                time.sleep(_POLL)

    def _take(self) -> ChunkRequest | None:
        for path in sorted(self.folder.glob("*.todo")):
            mine = path.with_suffix(f".{os.uname().nodename}-{os.getpid()}")
            try:
                path.rename(mine)
            except FileNotFoundError:  # another process was faster
                continue
            return _work(json.loads(mine.read_text(encoding="utf-8")))
        return None

    def close(self) -> None:
        """Let every process stop that finds no work."""
        if self.folder.is_dir():
            (self.folder / "closed").touch()


def _work(fields: dict[str, Any]) -> ChunkRequest:
    fields["requests"] = [Request(**request) for request in fields["requests"]]
    fields["stops"] = [Stop(**stop) for stop in fields["stops"]]
    fields["decoding"], fields["debias"] = DecodingConfig(**fields["decoding"]), DebiasConfig(**fields["debias"])
    return ChunkRequest(**fields)


def _written(path: Path) -> ChunkOutput:
    fields = json.loads(path.read_text(encoding="utf-8"))
    names = {"finish": "finish_reason"}  # as version 0.1 wrote it
    rows = [{names.get(name, name): value for name, value in row.items()} for row in fields["continuations"]]
    return ChunkOutput([Continuation(**row) for row in rows], fields["tokens"], fields["seconds"])


class Workers(Codec):
    """Writes works in processes of their own, one per device, each with the whole PLM.

    Use it as a context; the processes start with the first work. Finished works lie in `folder` until they are read:
    those that an earlier run has left there are used and not written again. Only one instance at a time may write.
    """

    def __init__(self, config: PlmConfig, devices: Sequence[torch.device], folder: Path) -> None:
        plm_config, tokenizer = load_codec(resolve(config.model, config.revision, "plm.model"), "plm.model")
        super().__init__(tokenizer, longest_row(plm_config), config.name)
        self.config, self.devices, self.folder = config, devices, folder
        self.parallel = len(devices)
        self.todo = folder / f"of-{os.getpid()}"  # works of this instance alone
        self.processes: list[Any] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        Inbox(self.todo).close()
        if kind is not None:  # what they are writing is lost, what they have written is not
            for process in self.processes:
                process.kill()
        for process in self.processes:
            process.join()
        shutil.rmtree(self.todo, ignore_errors=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def write(
        self, works: Sequence[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        """Yield what is written for each work, in their order. Raises `ChildFailed` when a process ends early."""
        missing = [work for work in works if not (self.folder / f"{work.name}.done").exists()]
        if missing and not self.processes:
            self._start()
        for work in missing:
            write_whole(json.dumps(asdict(work), ensure_ascii=False), self.todo / f"{work.name}.todo")
        seen: set[str] = set()
        for work in works:
            done = self.folder / f"{work.name}.done"
            while not done.exists():
                self._check()
                time.sleep(_POLL)
                for other in works:
                    if other.name not in seen and (self.folder / f"{other.name}.done").exists():
                        seen.add(other.name)
                        on_row(len(other.requests))
            if work.name not in seen:
                seen.add(work.name)
                on_row(len(work.requests))
            written = _written(done)
            yield replace(written, seconds=round(written.seconds / self.parallel, 3))
            done.unlink()

    def release(self) -> None:
        """Keep it: each process may be in the middle of a work."""

    def _start(self) -> None:
        for left in self.folder.glob("of-*"):  # by runs that were killed
            if not _alive(int(left.name.removeprefix("of-"))):
                shutil.rmtree(left, ignore_errors=True)
        self.todo.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        threads = _threads_each(self.config, self.devices)
        # Ctrl-C reaches every process, from its first moment on; this one ends the others.
        main = threading.current_thread() is threading.main_thread()
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
        crowded = threads * len(self.devices) > torch.get_num_threads()
        try:
            with starting_crowds() if crowded else nullcontext():
                for device in self.devices:
                    arguments = (self.config, device, self.todo, self.folder, threads, os.getpid())
                    process = context.Process(target=_serve, args=arguments, daemon=True)
                    process.start()
                    self.processes.append(process)
        finally:
            if main:
                signal.signal(signal.SIGINT, handler)

    def _check(self) -> None:
        for process in self.processes:
            if process.exitcode is not None:
                raise ChildFailed(process.exitcode, "a process that writes texts")


def _threads_each(config: PlmConfig, devices: Sequence[torch.device]) -> int:
    """Return how many threads each of several processes has: its share, or all where the rows depend on the number.

    oneDNN splits the sums of a bfloat16 product over AMX tiles by the number of threads; every other product is the
    same for any number.
    """
    threads = torch.get_num_threads()
    if precision(config.dtype, devices[0]) == torch.bfloat16 and has_amx(devices[0]):
        return threads
    return max(1, threads // len(devices))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _serve(config: PlmConfig, device: torch.device, todo: Path, folder: Path, threads: int, parent: int) -> None:
    """Write the works of folder `todo` into `folder` on one device until the first one is closed."""
    with reporting_errors(), quiet_lightning():
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index] if device.type == "cuda" else 1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.predict(GeneratorModule(config, folder, threads), Inbox(todo, parent), return_predictions=False)
