"""`dry_run=true`: look at what is there, probe a little for real, and say what the whole run will take.

Nothing is fetched, and nothing is written but what a system keeps for itself.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zerogen.config.schema import Config
from zerogen.data.records import Example
from zerogen.errors import Unavailable, UserError
from zerogen.estimate import GENERATION, MISSING, Expected, Probe, Session, about, duration, seconds_to_predict, some

if TYPE_CHECKING:
    from rich.console import Console

    from zerogen.runs.run import Run

_MIB = 1 << 20
_SAID = (GENERATION, "setting")  # of which a line of their own says that nothing is known


def dry_run(configs: Sequence[Config], console: Console) -> None:
    """Say for each job what is there, two prompts of each label, and what the whole run will take.

    Raises `UserError` for what the run itself would refuse.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    from zerogen.jobs import expand
    from zerogen.plm.protocol import cost_of
    from zerogen.runs.settings import setting_of

    session = Session(console)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        session.say(f"other work wants {load:.1f} of {cores} cores: the run is probed slower than an idle machine is")
    total, runs, unknown = 0.0, 0, 0
    of_all, costs = Expected(), list[float | None]()
    with ExitStack() as stack:
        session.scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zerogen-")))
        for number, config in enumerate(configs, 1):
            seeds = expand(config)
            runs += len(seeds)
            plm, tam = setting_of(config).models(config)
            models = f"plm={plm} tam={tam}"
            words = f"{number}/{len(configs)} setting={setting_of(config).name} task={config.task.name} {models}"
            console.rule(words, align="left", style="dim")
            if len(seeds) > 1:
                session.say(f"{len(seeds)} runs: seeds {', '.join(str(one.seed) for one in seeds)}")
            session.begin_job()
            expected = [estimate(one, session) for one in seeds]
            total += sum(sum(one.seconds.values()) for one in expected)
            unknown += sum(bool(one.unknown) for one in expected)
            for one in expected:
                of_all.use(one.usage, 1)
                costs += [cost_of(config.plm, [one.usage])] if one.usage else []
    if runs > 1:
        known = f", about {duration(total)} in all" if total else ""
        left_out = f"; of {unknown} of them not all could be probed" if unknown else ""
        session.say(f"\n{runs} runs{known}{left_out}")
        if of_all.usage:
            session.say(_of_servers(of_all.usage, costs))
    session.say("nothing was written")


def estimate(config: Config, session: Session) -> Expected:
    """Say what is there for one run and return what it will take."""
    from zerogen.runs.loggers import require_logger
    from zerogen.runs.run import Run
    from zerogen.support.process import devices_of, require_writable

    require_writable(Path(config.output_dir))
    require_logger(config)
    run = Run(config, devices_of(config.gpu, config.processes))
    probe = Probe(session, run, {}, Expected())
    try:
        if _nothing_to_do(run, session):
            return probe.expected
    except Unavailable:
        pass  # what is missing is named below
    _read_gold(probe)
    if config.tam.checkpoint:
        _estimate_checkpoint(probe)
    else:
        run.setting.estimate(probe)
    _summarise(probe)
    return probe.expected


def _nothing_to_do(run: Run, session: Session) -> bool:
    """Tell whether a run is there already, or is that of an earlier job. Raises `UserError` for a smaller one."""
    from zerogen.runs.store import asked_for, finished, metrics_to_add

    folder = run.folder()
    earlier = finished(run)
    if earlier is not None:
        metrics = ", ".join(metrics_to_add(run, earlier))
        would = f"only {metrics} would be computed, from its predictions" if metrics else "nothing would be done"
        session.say(f"already there, {would}: {folder}")
        return True
    before = session.folders.get(folder)
    asked = asked_for(run.config)
    if asked == before:
        session.say("the same run as an earlier one of this command: nothing more would be done")
        return True
    if before and asked["n"] and before["n"] > asked["n"]:
        raise UserError(
            f"n={asked['n']}: an earlier run of this command, of n={before['n']}, has the same folder; "
            f"log_every={asked['n']} reports on sizes below n"
        )
    session.folders[folder] = asked
    return False


def _read_gold(probe: Probe) -> None:
    """Read the gold splits that a run needs; reading maps every label, so that what does not fit is refused."""
    from zerogen.data.gold import load_gold, source_of

    config, task = probe.config, probe.config.task
    source = source_of(task)
    if source is None:
        probe.say_once(f"gold data of {task.name}: none; nothing will be evaluated")
        return
    trains = "gold" in probe.run.setting.reads or (task.context is not None and task.context.source == "gold")
    splits = [source.evaluate_on, *(["train"] if trains or config.correctness.evaluator else [])]
    for split in dict.fromkeys(splits):
        what = f"gold data of {task.name}, {split}"
        try:
            rows: list[Example] = probe.once(["gold", asdict(task), split], partial(load_gold, task, split))
        except Unavailable:
            probe.missing(what, "gold data")
            continue
        counts = Counter(row.label for row in rows)
        by_label = "" if task.kind == "qa" else ": " + ", ".join(f"{counts[name]:,} {name}" for name in task.labels)
        without = [name for name in task.labels if not counts[name]]
        doubt = f"; no row has label {', '.join(without)}" if without else ""
        probe.say_once(f"{what}: {len(rows):,} rows{by_label}{doubt}")
        probe.gold["evaluate" if split == source.evaluate_on else split] = rows


def _estimate_checkpoint(probe: Probe) -> None:
    from zerogen.tam.tam import load_tam

    config = probe.config
    tam = load_tam(str(config.tam.checkpoint), probe.run.device, config.tam.dtype)
    if "evaluate" in probe.gold:
        seconds = seconds_to_predict(tam, some(probe.gold["evaluate"]))
        probe.expected.seconds["evaluate"] = seconds * probe.evaluated


def _summarise(probe: Probe) -> None:
    from zerogen.runs.store import peak_memory_mb

    expected = probe.expected
    if expected.seconds:
        stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in expected.seconds.items())
        probe.say(f"expected: about {duration(sum(expected.seconds.values()))} ({stages})")
        memory = max(peak_memory_mb(probe.run).values()) + expected.memory / _MIB
        tokens = f"{about(expected.tokens)} tokens, " if expected.tokens else ""
        scratch = f" and {expected.scratch / _MIB:,.0f} more while it trains" if expected.scratch else ""
        probe.say(f"expected: {tokens}{memory:,.0f} MiB of memory, {expected.disk / _MIB:,.1f} MiB on disk{scratch}")
    if expected.usage:
        from zerogen.plm.protocol import cost_of

        probe.say(_of_servers(expected.usage, [cost_of(probe.config.plm, [expected.usage])]))
    missing = [what for what in expected.unknown if what not in _SAID]
    if missing:
        probe.say(f"{', '.join(missing)}: {MISSING}")
    if GENERATION in expected.unknown and expected.seconds:
        probe.say("that is without generation, of which nothing can be said")


def _of_servers(usage: Mapping[str, float], costs: Sequence[float | None]) -> str:
    """Say what servers are asked for, and what that costs where all prices are known."""
    known = [cost for cost in costs if cost is not None]
    priced = f", which would cost about {sum(known):,.3g}" if len(known) == len(costs) else ""
    return (
        f"expected of the server: {about(usage['requests'])} requests, {about(usage['tokens_in'])} tokens read, "
        f"{about(usage['tokens_out'])} written{priced}"
    )
