"""Demonstrations of the user's own stand before prompts, and rows do not depend on how many chunks are parallel."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from tests.conftest import byte_tokenizer, causal_model
from zerogen.config.schema import Config, DecodingConfig, FilterConfig, PlmConfig
from zerogen.config.task_schema import ParseConfig, TaskConfig
from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.generation.demonstrations import ROUND
from zerogen.generation.generator import Generator
from zerogen.plm.model import Plm
from zerogen.plm.protocol import ChunkOutput, ChunkRequest
from zerogen.runs.identity import pool_key
from zerogen.runs.migration import former_pool_key

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_demonstrations"
OWN = "earlier:some_of_the_label"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(EXAMPLE)])


class Recorder(Plm):
    """Writes several chunks at once, and keeps their prompts."""

    def __init__(self, parallel: int) -> None:
        super().__init__(causal_model("llama"), byte_tokenizer())
        self.parallel = parallel
        self.prompts: dict[str, list[str]] = {}

    def write(
        self, chunks: Sequence[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        self.prompts |= {chunk.name: [request.prompt for request in chunk.requests] for chunk in chunks}
        return super().write(chunks, on_row)


def written(parallel: int, demonstrations: str) -> tuple[list[Example], dict[str, list[str]]]:
    task = TaskConfig("toy", labels=["bad", "good"], prompts={"bad": 'B: "', "good": 'G: "'}, max_new_tokens=6)
    task.parse = ParseConfig(fallback="sentence")
    plm = Recorder(parallel)
    filters = FilterConfig(min_words=1, min_acceptance=0, functions=["tests.examples.test_own_demonstrations:short"])
    decoding = DecodingConfig(chunk_size=16)
    generator = Generator(task, lambda: plm, decoding, filters, 1, demonstrations=demonstrations)
    for chunk in generator.extend(400):
        if chunk.index == 2 * ROUND:
            break
    return [row for chunk in list(generator.journal.chunks())[: 2 * ROUND] for row in chunk.rows], plm.prompts


def short(row: Example, limits: FilterConfig) -> str | None:
    return "long" if len(row.text) > 12 else None


def test_earlier_texts_stand_before_half_of_the_later_prompts() -> None:
    rows, prompts = written(1, OWN)
    texts = {row.text for row in rows}
    before = [prompt.rsplit("\n", 1)[0] for prompt in prompts[f"texts-{ROUND:06d}"] if "\n" in prompt]
    assert 3 <= len(before) <= 13  # of 16
    assert all(line.strip('"') in texts for one in before for line in one.splitlines())
    assert not any("\n" in prompt for index in range(ROUND) for prompt in prompts[f"texts-{index:06d}"])
    assert all(prompt.endswith(': "') for one in prompts.values() for prompt in one)


@pytest.mark.parametrize("demonstrations", ["none", OWN])
def test_rows_do_not_depend_on_how_many_chunks_are_written_at_once(demonstrations: str) -> None:
    assert written(1, demonstrations)[0] == written(3, demonstrations)[0]


def test_they_give_the_pool_another_name() -> None:
    config, device = Config(plm=PlmConfig("gpt2", "gpt2", dtype="float32")), torch.device("cpu")
    own = replace(config, demonstrations=OWN)
    assert pool_key(own, device) != pool_key(config, device)
    assert former_pool_key(own, device) is None is not former_pool_key(config, device)


def of_no_use(draft: Example, rows: Sequence[Example], task: TaskConfig, random: Random) -> int:
    return 3


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(UserError, match="demonstrations=tests.*:of_no_use: returned int; allowed is a text"):
        written(1, "tests.examples.test_own_demonstrations:of_no_use")
    with pytest.raises(UserError, match="demonstrations: 'non' is unknown; allowed: none.*did you mean 'none'"):
        written(1, "non")
