"""Bundled demonstrations: what stands before prompts, and that what the PLM copies of it is rejected."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.conftest import byte_tokenizer, causal_model, toy_rows
from zerogen.config.schema import Config, DecodingConfig, FilterConfig, PlmConfig
from zerogen.config.task_schema import ParseConfig, TaskConfig
from zerogen.data.records import Continuation, Example
from zerogen.errors import UserError
from zerogen.generation.demonstrations import ROUND, copied, of_real_texts, of_the_label
from zerogen.generation.generator import Generator
from zerogen.generation.pool import Chunk
from zerogen.generation.weighting import helpful
from zerogen.plm.model import Plm
from zerogen.plm.protocol import ChunkOutput, ChunkRequest
from zerogen.runs.checks import check_code
from zerogen.runs.identity import pool_key

TEXTS = [replace(row, label="") for row in toy_rows(80)]


class Parrot(Plm):
    """Writes the first text that it is shown under label `bad`, and another one each time under `good`."""

    def __init__(self, parallel: int, positions: int) -> None:
        super().__init__(causal_model("llama"), byte_tokenizer())
        self.parallel, self.max_positions = parallel, positions
        self.prompts: dict[str, list[str]] = {}

    def write(
        self, chunks: Sequence[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        for chunk in chunks:
            self.prompts[chunk.name] = prompts = [request.prompt for request in chunk.requests]
            texts = [
                prompt.splitlines()[0].removeprefix('Text: "').removesuffix('"')
                if "\n" in prompt and prompt.endswith('B: "')
                else f"new {chunk.name} {i}"
                for i, prompt in enumerate(prompts)
            ]
            written = [Continuation(text, "stop", 3, -1.0) for text in texts]
            yield ChunkOutput(written, 1, 0.1)


def generator(
    demonstrations: str, parallel: int = 1, unlabelled: Sequence[Example] = TEXTS, positions: int = 1024
) -> tuple[Generator, Parrot]:
    task = TaskConfig("toy", labels=["bad", "good"], prompts={"bad": 'B: "', "good": 'G: "'}, max_new_tokens=6)
    task.parse = ParseConfig(fallback="sentence")
    plm, decoding = Parrot(parallel, positions), DecodingConfig(chunk_size=16)
    filters = FilterConfig(min_words=1, min_acceptance=0)
    made = Generator(task, lambda: plm, decoding, filters, 1, demonstrations=demonstrations, unlabelled=unlabelled)
    return made, plm


def chunks_of(made: Generator, count: int) -> list[Chunk]:
    for chunk in made.extend(4000):
        if chunk.index >= count - 1:
            break
    return list(made.journal.chunks())[:count]


def test_four_unlabelled_texts_stand_before_every_prompt() -> None:
    made, plm = generator("unlabelled")
    chunks_of(made, 2)
    texts = {row.text for row in TEXTS}
    prompts = [prompt for one in plm.prompts.values() for prompt in one]
    assert all(prompt.splitlines()[-1] in ('B: "', 'G: "') for prompt in prompts)
    shown = [prompt.splitlines()[:-1] for prompt in prompts]
    assert all(len(set(lines)) == 4 and {line[7:-1] for line in lines} <= texts for lines in shown)
    assert len({tuple(lines) for lines in shown}) > len(prompts) / 2  # each row is shown others


def test_what_is_copied_from_them_is_rejected_and_counted() -> None:
    made, _ = generator("unlabelled")
    for chunk in chunks_of(made, 2):
        assert chunk.rejects["bad"] == {"copied": chunk.asked["bad"]} and chunk.rejects["good"] == {}
        assert {sample["reason"] for sample in chunk.samples if sample["label"] == "bad"} == {"copied"}


@pytest.mark.parametrize("name", ["unlabelled", "random"])
def test_rows_do_not_depend_on_how_many_chunks_are_written_at_once(name: str) -> None:
    one, several = generator(name)[0], generator(name, 3)[0]
    assert [chunk.rows for chunk in chunks_of(one, 6)] == [chunk.rows for chunk in chunks_of(several, 6)]


def test_rows_of_the_label_stand_before_half_of_the_later_prompts() -> None:
    made, plm = generator("random")
    chunks = chunks_of(made, 2 * ROUND)
    of_good = {row.text for chunk in chunks[:ROUND] for row in chunk.rows if row.label == "good"}
    assert not any("\n" in prompt for index in range(ROUND) for prompt in plm.prompts[f"texts-{index:06d}"])
    later = [
        one for index in range(ROUND, 2 * ROUND) for one in plm.prompts[f"texts-{index:06d}"] if one.endswith('G: "')
    ]
    shown = [prompt.splitlines()[:-1] for prompt in later]
    assert 0.25 < sum(map(bool, shown)) / len(shown) < 0.75
    assert all(len(lines) == 8 and {line[7:-1] for line in lines} <= of_good for lines in shown if lines)


def test_influence_chooses_once_for_each_round_what_its_rows_are_shown() -> None:
    made, plm = generator("influence")
    asked: list[list[str]] = []

    def embed(rows: Sequence[Example]) -> dict[str, NDArray[np.float32]]:
        asked.append([row.uid for row in rows])
        return {row.uid: np.random.default_rng(i).normal(size=4).astype(np.float32) for i, row in enumerate(rows)}

    made.embed = embed
    chunks = chunks_of(made, 2 * ROUND + 1)
    before = [[row.uid for chunk in chunks[: ROUND * number] for row in chunk.rows] for number in (1, 2)]
    assert asked == before
    task = made.task
    rows = [row for chunk in chunks[: 2 * ROUND] for row in chunk.rows]
    eligible = helpful(rows, task, embed(rows))
    assert len(eligible) < len(rows)
    texts = {row.text for row in eligible if row.label == "good"}
    shown = {
        line[7:-1]
        for prompt in plm.prompts[f"texts-{2 * ROUND:06d}"]
        if prompt.endswith('G: "')
        for line in prompt.splitlines()[:-1]
    }
    assert shown and shown <= texts


def test_without_embeddings_nothing_has_influence() -> None:
    made, _ = generator("influence")
    with pytest.raises(UserError, match="demonstrations=influence: needs embeddings of rows, and nothing embeds them"):
        chunks_of(made, ROUND + 1)


def test_they_take_at_most_half_of_the_positions_of_the_plm() -> None:
    made, plm = generator("unlabelled", positions=120)
    chunks_of(made, 1)
    shown = [prompt.rpartition("\n")[0] + "\n" for prompt in plm.prompts["texts-000000"]]
    assert all(len(plm.encode(before)) <= 60 for before in shown) and any(before.strip() for before in shown)
    assert all(line.endswith('"') for before in shown for line in before.splitlines() if line)


def test_long_texts_are_cut_and_stand_on_one_line() -> None:
    rows = [replace(TEXTS[0], text="word \n" * 100), replace(TEXTS[0], text="字" * 1000)]
    lines = of_real_texts(TEXTS[0], rows, TaskConfig(), Random(0)).splitlines()
    assert sorted(lines) == ['Text: "' + " ".join(["word"] * 60) + '"', f'Text: "{"字" * 400}"']
    assert of_the_label(replace(TEXTS[0], label="none"), rows, TaskConfig(), Random(0)) == ""


def test_a_copy_is_nine_tenths_of_what_one_line_says() -> None:
    shown = 'Text: "one two three four five six seven eight nine ten"\nText: "Play some music"\n'
    assert copied("One, two three four five six seven eight nine ELEVEN.", shown)
    assert copied("three four five six seven", shown)  # cut short
    assert not copied("one two three four five six seven eight eleven twelve", shown)
    assert not copied("one one one one one one", shown) and not copied("ten nine eight seven six five", shown)
    assert not copied("it was a good film", 'Text: "it is a film that was as good as a day in the sun"\n')
    assert copied("play some music!", shown)
    assert not copied("three", shown) and not copied("play music", shown) and not copied("...", shown)
    assert not copied("one two three four five", "")


def test_what_is_shown_counts_for_the_pool(tmp_path: Path) -> None:
    path, device = tmp_path / "texts.txt", torch.device("cpu")
    path.write_text("\n".join(row.text for row in TEXTS))
    plain = Config(plm=PlmConfig("gpt2", "gpt2", dtype="float32"), unlabelled=str(path))
    asked = replace(plain, demonstrations="unlabelled")
    before = pool_key(asked, device)
    assert pool_key(replace(plain, unlabelled=None), device) == pool_key(plain, device) != before
    assert pool_key(replace(asked, unlabelled_limit=60), device) != before
    path.write_text("\n".join(row.text for row in TEXTS[1:]))
    assert pool_key(asked, device) != before
    random = replace(plain, demonstrations="random")
    assert pool_key(random, device) == pool_key(replace(random, unlabelled=None), device)


def test_without_texts_they_are_refused(tiny_config: Config) -> None:
    message = "demonstrations=unlabelled: shows texts without labels; set unlabelled=FILE, or gold"
    with pytest.raises(UserError, match=message):
        check_code([replace(tiny_config, demonstrations="unlabelled")])
    with pytest.raises(UserError, match=message):
        generator("unlabelled", unlabelled=())


def shown_own(draft: Example, rows: Sequence[Example], task: TaskConfig, random: Random) -> str:
    return f"({rows[0].text})\n"


def test_a_chooser_of_one_s_own_may_ask_for_them() -> None:
    shown_own.shows = "unlabelled"  # type: ignore[attr-defined]
    made, plm = generator("tests.test_demonstrations:shown_own")
    chunks_of(made, 1)
    assert {prompt.splitlines()[0] for prompt in plm.prompts["texts-000000"]} == {f"({TEXTS[0].text})"}
    shown_own.shows = "gold"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="shows='gold': allowed is earlier or unlabelled"):
        generator("tests.test_demonstrations:shown_own")
