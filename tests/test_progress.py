"""What a log is told of long steps, and when."""

import errno
import io
import re
import threading
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from zerogen.support.progress import RichProgress

TIMES = (0.1, 0.2)  # seconds; then every 0.2
LATE = 30  # seconds after which a busy machine is no excuse


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[RichProgress]:
    monkeypatch.setattr(RichProgress, "times", TIMES)
    before = threading.active_count()
    yield RichProgress(Console(file=io.StringIO(), width=200))
    assert threading.active_count() == before  # none outlives its block


def lines(log: RichProgress) -> list[str]:
    return log.console.file.getvalue().splitlines()


def wait_for(log: RichProgress, count: int) -> None:
    """Go on when so many lines were said: how soon that is depends on what else runs on the machine."""
    until = time.monotonic() + LATE
    while len(lines(log)) < count:
        assert time.monotonic() < until, lines(log)
        time.sleep(0.01)


def test_a_log_hears_of_two_seconds_and_then_ever_less_often() -> None:
    assert RichProgress.times == (2, 10, 30)


@pytest.mark.parametrize("total", [4000, None])
def test_a_bar_is_told_of_while_a_single_item_runs(log: RichProgress, total: int | None) -> None:
    with log.bar("scoring", total, "texts") as advance:
        advance(1000)
        wait_for(log, 3)
    said = lines(log)
    of = "" if total is None else " of 4,000"
    assert all(re.fullmatch(rf"scoring: 1,000{of} texts after \d s, [\d,.]+ texts/s", line) for line in said)
    time.sleep(0.2)
    assert lines(log) == said  # nothing after its end


def test_lines_say_how_far_it_is_by_then(log: RichProgress) -> None:
    with log.bar("scoring", 2, "texts") as advance:
        wait_for(log, 1)
        advance(1)
        wait_for(log, len(lines(log)) + 1)
    said = [line.split(" texts")[0] for line in lines(log)]
    assert (said[0], said[-1]) == ("scoring: 0 of 2", "scoring: 1 of 2")
    assert lines(log)[0].endswith(" s")  # no rate yet


def test_a_wait_is_told_of_with_its_seconds(log: RichProgress) -> None:
    with log.wait("loading [a]"):
        wait_for(log, 2)
    assert all(re.fullmatch(r"loading \[a\]: \d s so far", line) for line in lines(log))


def test_short_blocks_say_nothing(log: RichProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RichProgress, "times", (LATE,))
    for _ in range(20):
        with log.bar("scoring", 1, "texts") as advance:
            advance(1)
        with log.wait("loading"):
            time.sleep(0.01)
    time.sleep(0.15)
    assert lines(log) == []


def test_lines_end_with_a_block_that_raises(log: RichProgress) -> None:
    for block in (log.wait("loading"), log.bar("scoring", 1, "texts")):
        with pytest.raises(KeyError), block:
            wait_for(log, len(lines(log)) + 1)
            raise KeyError
    said = lines(log)
    time.sleep(0.3)
    assert lines(log) == said


def test_a_block_within_another_has_its_lines_with_those_of_the_outer_one(log: RichProgress) -> None:
    with log.bar("rows", 9, "rows"):
        wait_for(log, 1)
        with log.wait("long"):
            while "long" not in lines(log)[-1]:
                wait_for(log, len(lines(log)) + 1)
        wait_for(log, len(lines(log)) + 1)
    said = [line.split(":")[0] for line in lines(log)]
    assert said[0] == said[-1] == "rows"
    # Never alone: each line of the inner one comes right after one of the outer one.
    assert all(said[place - 1] == "rows" for place, name in enumerate(said) if name == "long")


def test_lines_of_several_threads_stay_whole(log: RichProgress) -> None:
    with log.wait("w" * 100):
        until = time.monotonic() + LATE
        while sum(line[0] == "w" for line in lines(log)) < 2 and time.monotonic() < until:
            log.say("s" * 100)
    assert {re.sub(r"\d", "0", line) for line in lines(log)} == {"s" * 100, "w" * 100 + ": 0 s so far"}


def test_a_log_that_cannot_be_written_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(RichProgress, "times", (0.02,))
    with pytest.raises(OSError, match="no space left"), RichProgress(Console(file=Full())).wait("loading"):
        time.sleep(0.05)


def test_a_bar_on_a_terminal_takes_an_unknown_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RichProgress, "times", (0.01,))
    log = RichProgress(Console(file=io.StringIO(), force_terminal=True, width=100))
    with log.bar("scoring", None, "texts") as advance:
        advance(7)
        time.sleep(0.05)
    shown = log.console.file.getvalue()
    assert "7/?" in shown
    assert "after" not in shown  # a bar needs no lines
