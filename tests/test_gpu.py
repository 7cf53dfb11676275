"""On a GPU: what it writes, scores and learns is what a CPU does, and the same twice. Skipped where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.conftest import FAMILIES, byte_tokenizer, causal_model, toy_pairs, toy_questions, toy_rows
from zerogen.config.schema import Config, DecodingConfig, SettingConfig, TamConfig, TrainerConfig
from zerogen.config.task_schema import DebiasConfig, TaskConfig
from zerogen.data.records import Request, Stop
from zerogen.jobs import run_one
from zerogen.plm.model import Plm
from zerogen.plm.score import logprobs
from zerogen.tam.fit import fit
from zerogen.tam.tam import Tam, load_tam

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

PROMPTS = ["A", "The movie review", 'Movie: "', "Is this the question", "The", "x" * 20, "The movie", "No."] * 6
STOPS = [Stop("e"), Stop(" ")]


def both(family: str) -> list[Plm]:
    """The same model on the CPU and on the GPU."""
    return [Plm(causal_model(family).to(device), byte_tokenizer()) for device in ("cpu", "cuda")]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("counters", [0, 2])
def test_rows_are_those_of_the_cpu(family: str, counters: int) -> None:
    asked = [
        Request(str(i), prompt, counters={str(k): PROMPTS[i + 1 + k] for k in range(counters)})
        for i, prompt in enumerate(PROMPTS[:40])
    ]
    cpu, gpu = both(family)
    said: list[str] = []
    gpu.say = said.append
    for decoding in (DecodingConfig(top_k=1), DecodingConfig(top_p=0.6), DecodingConfig(temperature=0.7, top_k=20)):
        for batch_size in (16, None):
            here, there = (
                plm.generate(asked, replace(decoding, batch_size=batch_size), STOPS, 24, 5, DebiasConfig(decay=20.0))
                for plm in (cpu, gpu)
            )
            assert [(row.text, row.finish_reason) for row in here] == [(row.text, row.finish_reason) for row in there]
            assert [row.logprob for row in there] == pytest.approx([row.logprob for row in here], abs=1e-3)
    assert said == []  # above all not that a step could not be recorded


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_cpu(family: str) -> None:
    draws = torch.Generator().manual_seed(5)
    texts = [torch.randint(1, 320, (length,), generator=draws).tolist() for length in range(3, 60)]
    rows = [[5, 6, 7, *text, *ending] for text in texts for ending in ([1, 2], [2, 1, 3])]
    found = []
    for plm in both(family):
        batches = logprobs(plm.network, rows, [4] * len(rows), plm.cached, 512, longest_fork=plm.longest_fork)
        sums = {i: total for batch, totals in batches for i, total in zip(batch, totals, strict=True)}
        found.append([sums[i] for i in range(len(rows))])
    assert found[1] == pytest.approx(found[0], abs=2e-3)


def test_a_batch_that_memory_does_not_hold_is_halved() -> None:
    cpu, gpu = both("gpt2")
    asked = [Request(str(i), PROMPTS[i % 8]) for i in range(4096)]
    said: list[str] = []
    gpu.say = said.append
    torch.cuda.empty_cache()
    used, whole = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((used + 48 * 2**20) / whole)
    try:
        found = gpu.generate(asked, DecodingConfig(batch_size=4096), STOPS, 24, 5)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "no memory for 4096 rows at a time" in said[0]
    assert [row.text for row in found] == [row.text for row in cpu.generate(asked, DecodingConfig(), STOPS, 24, 5)]


TASKS = [
    TaskConfig(name="texts", labels=["bad", "good"], max_length=64),
    TaskConfig(name="pairs", kind="pair", labels=["bad", "good"], max_length=64),
    TaskConfig(name="asked", kind="qa", labels=["question"], max_length=64, answer_tokens=8),
]


@pytest.mark.parametrize("task", TASKS, ids=["text", "pair", "qa"])
@pytest.mark.parametrize("kind", ["encoder", "lstm"])
def test_the_same_seed_gives_the_same_weights(task: TaskConfig, kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    config = TamConfig(name="tiny", model=str(tiny_encoder), dtype="float32")
    if kind == "lstm":
        config = TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=24, hidden=24)
    rows = {"classification": toy_rows, "pair": toy_pairs, "qa": toy_questions}[task.kind](120)

    def trained() -> Tam:
        return fit(rows, task, config, TrainerConfig(lr=3e-3, epochs=2), seed=1, device="cuda")[0]

    before = torch.cuda.get_rng_state()
    first, second = trained(), trained()
    assert torch.equal(before, torch.cuda.get_rng_state())
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    first.save(tmp_path / "tam")
    inputs = first.inputs_of(rows)
    here, there = (load_tam(tmp_path / "tam", device, "float32").predict(inputs) for device in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        if task.kind == "qa":
            assert other.probability == pytest.approx(one.probability, abs=1e-3)
        else:
            assert other.probabilities == pytest.approx(one.probabilities, abs=1e-3)


@pytest.mark.parametrize("setting", ["zerogen", "prompting", "supervised"])
def test_a_whole_run_is_the_same_twice(tiny_config: Config, setting: str) -> None:
    found = []
    for folder in ("one", "two"):
        config = replace(tiny_config, setting=SettingConfig(setting), n=60, gpu=0)
        result = run_one(replace(config, output_dir=f"{tiny_config.output_dir}/{folder}"), Console(quiet=True))
        assert result.peak_memory_mb["gpu"] > 0
        (path,) = Path(f"{tiny_config.output_dir}/{folder}").glob(f"*/{setting}*/predictions.jsonl")
        found.append((result.metrics, path.read_text()))
    assert found[0] == found[1]
