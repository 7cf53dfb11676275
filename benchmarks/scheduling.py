"""How chunks are best handed to workers that fail or are slow: a simulation, in rounds and in a sliding window.

    python benchmarks/scheduling.py [--chunks-per-worker 200] [--mtbf 24] [--restart 300] [--seed 0]

A driver hands out chunks and appends them to the pool in their order. In rounds, it waits until every chunk of one is
there before it hands out those of the next; in a sliding window, a chunk may be begun as soon as fewer than a
window's chunks separate it from the last one appended. Both hold up to 8 chunks per worker. A chunk that is lost with
its worker is run again first; a try may fail, and a chunk that fails three times is left out here (a run would stop).
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

PER_WORKER = 8  # chunks of a round, or of the window, per worker
TRIES = 3


@dataclass(frozen=True)
class Cluster:
    """What workers are like. Times are in seconds.

    chunk: what a typical worker takes for a chunk. spread: standard deviation of the logarithm of a worker's speed, and
    of a chunk's length. stragglers: share of workers that run at a quarter of the speed. mtbf: mean time between
    failures of a worker. restart: until a worker that failed takes chunks again. bad: share of tries that fail.
    """

    workers: int
    chunk: float = 60.0
    spread: float = 0.1
    stragglers: float = 0.02
    mtbf: float = 24 * 3600.0
    restart: float = 300.0
    bad: float = 1e-4


@dataclass
class Outcome:
    """What came of a simulation.

    seconds: until the last chunk was appended. busy: seconds of work that ended in a chunk, over all workers. lost:
    seconds of work on chunks that were lost or failed. restarts: seconds in which workers were down. again: tries
    that were lost or failed. left_out: chunks that failed three times. buffer: the most chunks that waited in the
    driver for one before them.
    """

    seconds: float = 0.0
    busy: float = 0.0
    lost: float = 0.0
    restarts: float = 0.0
    again: int = 0
    left_out: int = 0
    buffer: int = 0


def simulate(cluster: Cluster, chunks: int, rounds: bool, seed: int) -> Outcome:
    """Run a number of chunks on a cluster, in rounds or else in a sliding window."""
    draws, outcome = random.Random(seed), Outcome()
    speeds = [
        draws.lognormvariate(0, cluster.spread) * (0.25 if draws.random() < cluster.stragglers else 1.0)
        for _ in range(cluster.workers)
    ]
    # A chunk takes what it takes, whoever runs it and in whatever order they are handed out.
    lengths = [cluster.chunk * draws.lognormvariate(0, cluster.spread) for _ in range(chunks)]
    fails_at = [draws.expovariate(1 / cluster.mtbf) for _ in speeds]
    window = PER_WORKER * cluster.workers
    failures = [0] * chunks
    waiting: deque[int] = deque()  # handed out again, or not begun yet
    ended: set[int] = set()  # not appended yet
    appended, next_chunk, end_of_round = 0, 0, 0
    idle = list(range(cluster.workers))
    events: list[tuple[float, int, int, float]] = []  # (time, worker, chunk or -1 for a restart, seconds of work)
    now = 0.0
    while appended < chunks:
        if rounds and appended == end_of_round:
            end_of_round = min(chunks, end_of_round + window)
        limit = end_of_round if rounds else min(chunks, appended + window)
        while next_chunk < limit:
            waiting.append(next_chunk)
            next_chunk += 1
        while idle and waiting:
            worker, chunk = idle.pop(), waiting.popleft()
            work = lengths[chunk] / speeds[worker]
            # A worker that failed while it had nothing to do is noticed now.
            work = min(work, max(0.0, fails_at[worker] - now))
            heapq.heappush(events, (now + work, worker, chunk, work))
        now, worker, chunk, work = heapq.heappop(events)
        if chunk < 0:
            fails_at[worker] = now + draws.expovariate(1 / cluster.mtbf)
            idle.append(worker)
            continue
        lost = now >= fails_at[worker]
        if lost:
            outcome.restarts += cluster.restart
            heapq.heappush(events, (now + cluster.restart, worker, -1, 0.0))
        else:
            idle.append(worker)
        bad = not lost and draws.random() < cluster.bad
        failures[chunk] += bad
        if lost or bad:
            outcome.lost += work
            outcome.again += 1
            if failures[chunk] < TRIES:
                waiting.appendleft(chunk)
                continue
            outcome.left_out += 1
        else:
            outcome.busy += work
        ended.add(chunk)
        while appended in ended:
            ended.remove(appended)
            appended += 1
        outcome.buffer = max(outcome.buffer, len(ended))
    outcome.seconds = now
    return outcome


def line(cluster: Cluster, chunks: int, rounds: bool, seed: int) -> Sequence[str]:
    """Return a row of the table: a share is of all workers' time until the end."""
    outcome = simulate(cluster, chunks, rounds, seed)
    total = cluster.workers * outcome.seconds
    idle = total - outcome.busy - outcome.lost - outcome.restarts
    shares = (outcome.busy, idle, outcome.lost, outcome.restarts)
    name = "rounds" if rounds else "window"
    return (
        f"{cluster.workers:,}",
        name,
        *(f"{max(0.0, one) / total:.1%}" for one in shares),
        f"{outcome.again:,}",
        f"{outcome.buffer:,}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks-per-worker", type=int, default=200, help="chunks in all, per worker")
    parser.add_argument("--mtbf", type=float, default=24.0, help="mean hours between failures of a worker")
    parser.add_argument("--restart", type=float, default=300.0, help="seconds until a failed worker goes on")
    parser.add_argument("--stragglers", type=float, default=0.02, help="share of workers at a quarter of the speed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| workers | handed out | useful | idle | lost | down | tries again | chunks in the driver |")
    print("|---|---|---|---|---|---|---|---|")
    for workers in (8, 64, 256, 1024):
        cluster = Cluster(workers, mtbf=options.mtbf * 3600, restart=options.restart, stragglers=options.stragglers)
        for rounds in (True, False):
            cells = line(cluster, options.chunks_per_worker * workers, rounds, options.seed)
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
