"""A filter of the user's own: its reason is counted, and its rows are in a pool of their own."""

import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import byte_tokenizer, causal_model
from zerogen.config.schema import Config, DecodingConfig, FilterConfig, PlmConfig
from zerogen.config.task_schema import ParseConfig, TaskConfig
from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.generation.filters import Filter
from zerogen.generation.generator import Generator
from zerogen.plm.model import Plm
from zerogen.runs.identity import pool_key

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_filter"
OWN = FilterConfig(min_words=1, functions=["shouting:shouting"], min_acceptance=0)


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(EXAMPLE)])


def test_its_reason_is_counted() -> None:
    prompts = {"bad": 'Bad: "', "good": 'Good: "'}
    task = TaskConfig("toy", labels=["bad", "good"], prompts=prompts, max_new_tokens=12)
    task.parse = ParseConfig(fallback="sentence")
    plm = Plm(causal_model("llama"), byte_tokenizer())
    plain, own = (
        Generator(task, lambda: plm, DecodingConfig(), filters, 1)
        for filters in (FilterConfig(min_words=1, min_acceptance=0), OWN)
    )
    for generator in (plain, own):
        next(generator.extend(4))
    accepted = {row.uid: row.text for row in next(own.journal.chunks()).rows}
    shouted = [row for row in next(plain.journal.chunks()).rows if row.uid not in accepted]
    assert shouted and all(sum(map(str.isupper, r.text)) > sum(map(str.islower, r.text)) for r in shouted)
    rejects = own.journal.heads[0].rejects
    assert sum(reasons.get("shouting", 0) for reasons in rejects.values()) >= len(shouted)


def test_it_gives_the_pool_another_name(tmp_path: Path) -> None:
    config = Config(plm=PlmConfig("gpt2", "gpt2", dtype="float32"))
    before = pool_key(config, torch.device("cpu"))
    config.filter.functions = ["shouting:shouting"]
    assert pool_key(config, torch.device("cpu")) != before


def test_what_is_no_reason_is_refused() -> None:
    own = Filter(FilterConfig(functions=["tests.examples.test_own_filter:yes"]))
    with pytest.raises(UserError, match="test_own_filter:yes: returned True; allowed is a reason"):
        own.reason(Example("1", "A text.", "good"))
    with pytest.raises(UserError, match="filter.functions: 'lenght' is unknown.*did you mean 'length'"):
        Filter(FilterConfig(functions=["lenght"]))


def yes(row: Example, limits: FilterConfig) -> object:
    return True
