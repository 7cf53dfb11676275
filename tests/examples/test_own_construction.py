"""A construction of the user's own: it makes the rows of its label, and what it returns is checked."""

import re
import sys
from pathlib import Path
from random import Random

import pytest
import torch

import zerogen
from tests.test_construction import no_plm
from zerogen.config.schema import Config, DecodingConfig, FilterConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.errors import UserError
from zerogen.generation.construction import Passages
from zerogen.generation.generator import Generator
from zerogen.runs.identity import pool_key

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_construction"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(EXAMPLE)])
    monkeypatch.chdir(EXAMPLE)


def task() -> TaskConfig:
    return zerogen.load_task(EXAMPLE / "conf" / "task" / "places.yaml")


def test_its_rows_have_two_names_in_each_others_place() -> None:
    generator = Generator(task(), no_plm, DecodingConfig(), FilterConfig(), 0)
    for _ in generator.extend(20):
        pass
    rows = [row for row in generator.rows(20) if row.label == "does_not"]
    assert len(rows) == 10
    for row in rows:
        assert row.way == "swapped:swapped"
        assert row.text != row.context
        assert sorted(re.findall(r"\w+", row.text)) == sorted(re.findall(r"\w+", row.context or ""))


def test_its_file_names_the_pool() -> None:
    config = Config(task=task())
    before = pool_key(config, torch.device("cpu"))
    assert "swapped:swapped@" in str(before)
    config.task.construction["does_not"] = ["negated"]
    assert pool_key(config, torch.device("cpu")) != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one_text", "returned 'a text'; allowed is \\(context, text\\) or None"),
        ("fails", "raised ZeroDivisionError"),
        ("nothing", "not_constructed"),
    ],
)
def test_what_is_no_pair_is_refused_in_one_line(name: str, message: str) -> None:
    own = task()
    own.construction["does_not"] = [f"tests.examples.test_own_construction:{name}"]
    generator = Generator(own, no_plm, DecodingConfig(), FilterConfig(patience=64), 0)
    with pytest.raises(UserError, match=message) as error:
        for _ in generator.extend(20):
            pass
    assert "\n" not in str(error.value)


def one_text(passage: str, passages: Passages, random: Random) -> object:
    return "a text"


def fails(passage: str, passages: Passages, random: Random) -> object:
    return 1 / 0


def nothing(passage: str, passages: Passages, random: Random) -> object:
    return None
