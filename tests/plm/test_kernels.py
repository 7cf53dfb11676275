"""The GPU's kernels give what torch does: on a GPU, or on a CPU in Triton's interpreter (`make test-kernels`)."""

from __future__ import annotations

import os
from contextlib import nullcontext
from importlib.util import find_spec

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.conftest import byte_tokenizer, causal_model
from zerogen.config.schema import DecodingConfig
from zerogen.config.task_schema import DebiasConfig
from zerogen.data.records import Request, Stop
from zerogen.plm import cache, gpu_kernels, sampling
from zerogen.plm.model import Plm
from zerogen.plm.rng import fold_in, uniform
from zerogen.plm.sampling import Sampler

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None

pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="needs a GPU, or Triton's interpreter: make test-kernels"
)


@pytest.fixture(autouse=True)
def kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter take tensors of a CPU."""
    if DEVICE == "cpu":
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())


@pytest.fixture
def kernels() -> gpu_kernels.GpuKernels:
    from zerogen.plm.triton_attention import attend, write
    from zerogen.plm.triton_sampling import block_sums, draw

    return gpu_kernels.GpuKernels(attend, write, block_sums, draw)


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "shared", "width"), [(4, 4, 64), (9, 3, 64), (8, 2, 128), (5, 5, 40), (4, 1, 256)])
def test_attention_is_that_of_the_products(heads: int, shared: int, width: int, dtype: torch.dtype) -> None:
    from zerogen.plm.triton_attention import attend

    rows = torch.arange(11, device=DEVICE)
    for columns in (1, 7, 64, 100):
        # A slice, as of one product for queries, keys and values.
        query = random(11, 1, 2, heads, width).to(dtype)[:, :, 1].transpose(1, 2)
        key, value = (random(11, shared, columns, width, seed=seed).to(dtype) for seed in (2, 3))
        last = rows.clamp(max=columns - 1)
        places = torch.arange(columns, device=DEVICE)[None]
        unseen = (places > last[:, None]) | (places <= last[:, None] - 5)  # a window of five
        mask = torch.zeros(unseen.shape, device=DEVICE).masked_fill_(unseen, torch.finfo(torch.float32).min)
        mask = mask[:, None, None]
        source = torch.tensor([0, 1, 0, 1, 4, 1, 4, 0, 8, 9, 9], device=DEVICE)
        common = rows.clamp(max=columns) // 2
        alike = (places < common[:, None])[:, None, :, None]
        key, value = (torch.where(alike, states[source], states) for states in (key, value))
        found = attend(query, key, value, mask, width**-0.5)
        keys, values = (states.double().repeat_interleave(heads // shared, 1) for states in (key, value))
        expected = scaled_dot_product_attention(query.double(), keys, values, mask.double()).transpose(1, 2)
        assert (found.double() - expected).abs().max() < (1e-5 if dtype == torch.float32 else 2e-2)
        # What it reads in another row, it does not read in its own.
        elsewhere = alike & (source != rows)[:, None, None, None]
        key, value = (states.masked_fill(elsewhere, torch.nan) for states in (key, value))
        assert torch.equal(attend(query, key, value, mask, width**-0.5, last, source, common), found)


@pytest.mark.parametrize(("heads", "width"), [(3, 64), (2, 40)])
@pytest.mark.parametrize(("length", "first"), [(1, [6, 0, 10, 3, 3]), (5, [2] * 5), (11, [0] * 5)])
def test_keys_are_written_as_by_an_index(heads: int, width: int, length: int, first: list[int]) -> None:
    from zerogen.plm.triton_attention import write

    copies, rows = torch.tensor([[0, 2, 0, 1, 2], [5, 0, 3, 1, 4]], device=DEVICE)
    key, value = (random(3, length, heads, 2 * width, seed=seed)[..., width:].transpose(1, 2) for seed in (1, 2))
    keys, values = (random(6, heads, 11, width, seed=seed) for seed in (3, 4))
    expected = [keys.clone(), values.clone()]
    for memory, states in zip(expected, (key, value), strict=True):
        for copy, row, start in zip(copies.tolist(), rows.tolist(), first, strict=True):
            memory[row, :, start : start + length] = states[copy]
    write(key, value, keys, values, copies, rows, torch.tensor(first, device=DEVICE))
    assert torch.equal(keys, expected[0])
    assert torch.equal(values, expected[1])


@pytest.mark.parametrize("width", [100, 256, 50_257])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_are_drawn_as_by_torch(width: int, dtype: torch.dtype) -> None:
    from zerogen.plm.triton_sampling import block_sums, draw

    logits = (3 * random(40, 2, width)).to(dtype)[:, 1]  # not dense, as where there are counter-prompts
    logits[1, : width // 2] = -torch.inf
    tops, sums = sampling._block_sums(logits, 256)
    found_tops, found_sums = block_sums(logits, 256)
    assert torch.equal(found_tops, tops)
    torch.testing.assert_close(found_sums, sums)
    upto = (sums * (tops - tops.amax(-1, keepdim=True)).exp()).cumsum(-1, dtype=torch.float64)
    for draws, top_p in ((1, 1.0), (1, 0.9), (9, 0.6), (16, 0.1)):
        keys = torch.arange(40 * draws, device=DEVICE).view(40, draws)
        uniforms = uniform(fold_in(keys, 7))
        found = draw(logits, tops, upto, uniforms, top_p, 256)
        expected = sampling._draw(logits, tops, upto, uniforms, top_p, 256)
        assert torch.equal(found[2], expected[2])
        inside = found[2]
        assert inside.all() if top_p == 1 else inside.float().mean() > 0.5
        assert (found[0] == expected[0])[inside].float().mean() > 0.97  # a draw may fall on an edge
        assert torch.equal(found[1], logits.float().gather(-1, found[0][:, None]).squeeze(-1))


def test_a_sum_that_is_no_number_ends_the_draws() -> None:
    from zerogen.plm.triton_sampling import block_sums, draw

    logits = random(5, 300)
    logits[0, 7], logits[1, 299], logits[2] = torch.nan, torch.inf, -torch.inf
    tops, sums = block_sums(logits, 256)
    expected = sampling._block_sums(logits, 256)[1]
    torch.testing.assert_close(sums, expected, equal_nan=True)
    upto = (sums * (tops - tops.amax(-1, keepdim=True)).exp()).cumsum(-1, dtype=torch.float64)
    assert upto[:, -1].isnan().tolist() == [True, True, True, False, False]
    inside = draw(logits, tops, upto, torch.full((5, 1), 0.5, dtype=torch.float64, device=DEVICE), 0.9, 256)[2]
    assert inside[:3].all()


@pytest.mark.parametrize("top_p", [0.5, 0.9, 1.0])
def test_an_attempt_gives_the_tokens_of_a_call(
    top_p: float, kernels: gpu_kernels.GpuKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = 3 * torch.randn(60, 1, 5000, generator=torch.Generator().manual_seed(1))
    keys, tries = torch.arange(60) * 7919, torch.zeros(60, dtype=torch.long)
    expected, logprobs = Sampler(top_p)(logits, keys)
    monkeypatch.setattr(sampling, "gpu_kernels", lambda device: kernels)
    found = Sampler(top_p).attempt(logits.to(DEVICE), keys.to(DEVICE), tries.to(DEVICE))
    tokens, scores, settled = (one.cpu() for one in found)
    assert settled.all()
    assert (tokens == expected).float().mean() > 0.98
    torch.testing.assert_close(scores[tokens == expected], logprobs[tokens == expected], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "phi3"])
@pytest.mark.parametrize("counters", [0, 1])
def test_rows_are_those_without_kernels(
    family: str, counters: int, kernels: gpu_kernels.GpuKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With slots that are filled again, and prompts that several rows have."""
    prompts = ["The movie", "A", "The movie", "The movies", "The", "The movie", "A"]
    asked = [
        Request(str(i), prompt, counters={"c": "The movies"} if counters else {}) for i, prompt in enumerate(prompts)
    ]
    found = []
    for ours in (None, kernels):
        plm = Plm(causal_model(family).to(DEVICE), byte_tokenizer())
        plm.static_shapes = True
        used: list[str] = []
        for module in (sampling, cache):
            monkeypatch.setattr(module, "gpu_kernels", lambda device, ours=ours, used=used: used.append("") or ours)
        rows = plm.generate(asked, DecodingConfig(batch_size=3 * (1 + counters)), [Stop("e")], 12, 5, DebiasConfig())
        found.append([(row.text, row.finish_reason) for row in rows])
        assert used
    assert found[1] == found[0]


def test_the_kernels_are_found_where_they_work() -> None:
    if DEVICE == "cuda":
        assert gpu_kernels.gpu_kernels(torch.device(DEVICE)) is not None
    assert gpu_kernels.gpu_kernels(torch.device("cpu")) is None
