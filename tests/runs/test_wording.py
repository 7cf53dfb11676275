"""A run whose texts are asked for in several wordings, and written in contrast to the other labels."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from zerogen.config.rules import check
from zerogen.config.schema import Config
from zerogen.errors import UserError
from zerogen.generation.pool import Journal
from zerogen.jobs import run_one
from zerogen.runs.checks import check_code


def test_margins_need_counter_prompts(tiny_config: Config) -> None:
    tiny_config.select = ["margin"]
    with pytest.raises(UserError, match="needs margins, which only task.debias.decay above 0 or a task.contrast"):
        check_code([tiny_config])
    tiny_config.task.contrast.guidance = 1.5
    check_code([tiny_config])


def test_a_run_in_several_wordings_with_contrast(tiny_config: Config) -> None:
    task = tiny_config.task
    task.further_prompts = [{"bad": 'Bad, <A>: "', "good": 'Good, <A>: "'}]
    task.attributes, task.contrast.guidance = {"length": ["short", "long"]}, 2.0
    config = replace(tiny_config, n=20, overgenerate=2.0, select=["margin"])
    check(config)
    check_code([config])
    result = run_one(config, Console(quiet=True))
    assert result.n_train == 20 and result.pool is not None
    samples = [sample for chunk in Journal.open(Path(result.pool) / "texts.jsonl").chunks() for sample in chunk.samples]
    begun = {sample["prompt"].split('"')[0] for sample in samples if sample["label"] == "bad"}
    assert begun <= {"A bad ", "Bad, short: ", "Bad, long: "} and len(begun) > 1
    page = (result.folder / "report.html").read_text()
    assert '"prompts": {}' in page or '"prompts":{}' in page  # which of them a text followed is not kept
