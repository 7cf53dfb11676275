"""Actors of a Ray cluster that write chunks, each with the whole PLM."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count, islice
from typing import Any

import torch

from zerogen.config.schema import EngineConfig, PlmConfig
from zerogen.data.records import Continuation
from zerogen.errors import ServerFailed, UserError
from zerogen.plm.open import open_plm
from zerogen.plm.pretrained import PretrainedCodec
from zerogen.plm.protocol import ChunkOutput, ChunkRequest, ahead_of

_TRIES = 3
_LONGEST_ANSWER = 5  # seconds
_PATIENCE = 30  # seconds without an actor after which the user is told


class Actor:
    """Holds a PLM in a process of the cluster."""

    def open(self, config: PlmConfig, threads: int, cuda: bool) -> str:
        """Open the PLM; return the node that it is on. threads: of torch, on a CPU. cuda: whether there is a GPU."""
        import ray

        torch.set_num_threads(threads)
        self.plm = open_plm(config, torch.device("cuda", 0) if cuda else torch.device("cpu"))
        self.plm.report_to(partial(print, flush=True))
        return str(ray.get_runtime_context().get_node_id())

    def write(self, chunk: ChunkRequest) -> ChunkOutput:
        """Write a chunk."""
        (output,) = self.plm.write([chunk])
        return output


@dataclass(order=True)
class _Job:
    """A chunk to be written, in the order of urgency."""

    depth: int
    number: int
    chunk: ChunkRequest = field(compare=False)
    on_row: Callable[[int], None] = field(compare=False)
    tries: int = field(default=0, compare=False)
    wanted: bool = field(default=True, compare=False)


class Actors(PretrainedCodec):
    """Writes chunks by actors of a Ray cluster, as many at a time as there are actors. Use it as a context.

    An actor that is lost, with its process or its node, is replaced, and its chunk written again. A chunk in which an
    actor fails three times is named, and none of its requests has a text. The loss of a node does not count.
    gpu: auto (a GPU for each actor, if the cluster has any) or none.
    """

    def __init__(self, config: PlmConfig, engine: EngineConfig, gpu: str) -> None:
        super().__init__(config)
        self.config, self.engine = config, engine
        self.say: Callable[[str], None] = lambda line: None
        self.tokens = 0
        self.waiting: list[_Job] = []  # a heap
        self.depth, self.numbers = 0, count()
        self.outputs: dict[str, ChunkOutput] = {}
        self.starting: dict[Any, Any] = {}  # what tells an actor's node, to the actor
        self.busy: dict[Any, tuple[Any, _Job]] = {}  # what tells an output, to the actor and its chunk
        self.idle: list[Any] = []
        self.nodes: dict[Any, str] = {}
        self.failures = 0  # of actors, since a chunk was written
        self.bad = 1  # chunks that failed for good since one was written; one to begin with: the first must not fail
        self.idle_since = time.monotonic()
        self._connect(gpu)

    def _connect(self, gpu: str) -> None:
        import ray

        self.ray = ray
        _require_answer(self.engine.address or os.environ.get("RAY_ADDRESS") or "")
        try:
            with _own_signals():
                ray.init(self.engine.address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"engine.address={self.engine.address}: no Ray cluster answers there: {reason}") from error
        self.cuda = gpu != "none" and ray.cluster_resources().get("GPU", 0) >= 1
        # On a GPU, a PLM hardly needs a processor.
        self.threads = self.engine.cpus or (1 if self.cuda else torch.get_num_threads())
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        rooms = [int(node.get("CPU", 0)) // self.threads for node in nodes]
        if self.cuda:
            rooms = [min(room, int(node.get("GPU", 0))) for room, node in zip(rooms, nodes, strict=True)]
        room = sum(rooms)
        if not room:
            ray.shutdown()
            most = max(int(node.get("CPU", 0)) for node in nodes)
            raise UserError(
                f"engine.cpus={self.threads}: no node of the Ray cluster has as many cores; allowed are up to {most}"
            )
        self.parallel = self.engine.workers or room
        self.ahead = ahead_of(self.parallel)

    def __enter__(self) -> Actors:
        return self

    def __exit__(self, *raised: object) -> None:
        self.ray.shutdown()  # which ends the actors of this process

    def write(
        self, chunks: Iterable[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        """Yield the output for each chunk, in their order. Raises `ServerFailed` when no actor can be had.

        Where the caller has enough before the end, chunks that no actor has taken are taken back.
        """
        while len(self.starting) + len(self.busy) + len(self.idle) < self.parallel:
            self._start()
        upcoming = iter(chunks)
        taken: deque[str] = deque()
        # The caller may be in the middle of other chunks, and needs these first.
        self.depth += 1
        try:
            while True:
                for chunk in islice(upcoming, self.ahead - len(taken)):
                    taken.append(chunk.name)
                    under_way = [job for _, job in self.busy.values() if job.chunk.name == chunk.name]
                    for job in under_way:
                        job.on_row, job.wanted = on_row, True
                    if chunk.name not in self.outputs and not under_way:
                        heappush(self.waiting, _Job(-self.depth, next(self.numbers), chunk, on_row))
                if not taken:
                    return
                while taken[0] not in self.outputs:
                    self._step()
                output = self.outputs.pop(taken.popleft())
                self.tokens += output.tokens
                yield replace(output, seconds=round(output.seconds / self.parallel, 3))
        finally:
            self.depth -= 1
            self.waiting = [job for job in self.waiting if job.chunk.name not in taken]
            heapify(self.waiting)
            for _, job in self.busy.values():
                if job.chunk.name in taken:
                    job.on_row, job.wanted = lambda rows: None, False

    def report_to(self, say: Callable[[str], None]) -> None:
        """Call `say` with a line whenever a chunk or the cluster fails."""
        self.say = say

    def release(self) -> None:
        """Do nothing: each actor may be in the middle of a chunk."""

    def _start(self) -> None:
        options = {"num_cpus": self.threads, "num_gpus": int(self.cuda), "max_restarts": 0}
        actor = self.ray.remote(Actor).options(**options).remote()
        self.starting[actor.open.remote(self.config, self.threads, self.cuda)] = actor

    def _step(self) -> None:
        """Give chunks to idle actors, and wait for the next event of the cluster."""
        while self.idle and self.waiting:
            actor, job = self.idle.pop(), heappop(self.waiting)
            self.busy[actor.write.remote(job.chunk)] = actor, job
        ready, _ = self.ray.wait([*self.busy, *self.starting], timeout=1)
        if self.busy or self.idle or ready:
            self.idle_since = time.monotonic()
        elif time.monotonic() - self.idle_since > _PATIENCE:
            self.idle_since = float("inf")
            free = self.ray.available_resources()
            self.say(
                f"engine=ray: waiting for a node with {self.threads} cores{' and a GPU' * self.cuda} to write on; "
                f"{free.get('CPU', 0):.0f} cores are free in all"
            )
        for reference in ready:
            if reference in self.starting:
                self._welcome(reference)
            else:
                self._collect(reference)

    def _welcome(self, reference: Any) -> None:
        """Let an actor write that is there now; replace one that could not be had."""
        actor = self.starting.pop(reference)
        try:
            self.nodes[actor] = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self.say(f"engine=ray: an actor could not begin, another one is started: {_reason(error)}")
            self._lose(actor, error)
            return
        self.idle.append(actor)

    def _collect(self, reference: Any) -> None:
        """Take the output of a chunk, or what became of it."""
        actor, job = self.busy.pop(reference)
        try:
            output = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # the actor lives
            self.idle.append(actor)
            self._retry(job, _reason(error))
            return
        except self.ray.exceptions.RayError as error:
            if self._node_lives(actor):
                self._retry(job, _reason(error))
            elif job.wanted:
                heappush(self.waiting, job)
                self.say(f"engine=ray: a node was lost, chunk {job.chunk.name} is written again")
            self._lose(actor, error)
            return
        self.failures = self.bad = 0
        self.idle.append(actor)
        self.outputs[job.chunk.name] = output
        job.on_row(len(job.chunk.requests))

    def _lose(self, actor: Any, error: Exception) -> None:
        """Start another actor in place of one that has failed."""
        self.nodes.pop(actor, None)
        cause = getattr(error, "cause", None)
        if isinstance(cause, UserError):
            raise UserError(f"engine=ray: on a node of the cluster: {cause}") from error
        self.failures += 1
        if self.failures > _TRIES * self.parallel:
            raise ServerFailed(f"engine=ray: the last {self.failures} actors failed: {_reason(error)}")
        self._start()

    def _retry(self, job: _Job, reason: str) -> None:
        """Put a chunk back that has failed, unless it has failed too often or nobody wants it any more."""
        if not job.wanted:
            return
        job.tries += 1
        name = job.chunk.name
        if job.tries < _TRIES:
            self.say(f"engine=ray: chunk {name} failed and is written again: {reason}")
            heappush(self.waiting, job)
            return
        self.bad += 1
        if self.bad > 1:  # it is not the chunk
            raise ServerFailed(f"engine=ray: chunk {name} failed {_TRIES} times, as all did since: {reason}")
        self.say(f"engine=ray: chunk {name} failed {_TRIES} times, which costs its rows: {reason}")
        rows = [Continuation("", "failed", 0, None) for _ in job.chunk.requests]
        self.outputs[name] = ChunkOutput(rows, 0, 0.0)
        job.on_row(len(rows))

    def _node_lives(self, actor: Any) -> bool:
        node = self.nodes[actor]
        return any(entry["NodeID"] == node and entry["Alive"] for entry in self.ray.nodes())


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _require_answer(address: str) -> None:
    """Raise `UserError` if nothing answers at HOST:PORT; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), _LONGEST_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"engine.address={address}: no Ray cluster answers there: {error}") from error


def _reason(error: Exception) -> str:
    """Return in one line what a failure was."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
