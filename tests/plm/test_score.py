"""Scores of long rows, which are read in blocks, are those of rows read whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
)

from tests.conftest import byte_tokenizer, causal_model, every_fast_family
from zerogen.plm.model import Plm
from zerogen.plm.network import Network
from zerogen.plm.pack import can_pack, pack_linears
from zerogen.plm.score import forks, logprobs
from zerogen.support.progress import Advance, Progress
from zerogen.support.weights import has_bfloat16


def random_rows(lengths: list[int], shared: int = 0) -> list[list[int]]:
    """Rows of token ids, that many of them the same at their beginning."""
    draws = torch.Generator().manual_seed(5)
    common = torch.randint(1, 320, (shared,), generator=draws).tolist()
    return [common + torch.randint(1, 320, (length - shared,), generator=draws).tolist() for length in lengths]


def by_own_forward(plm: Plm, row: list[int], begin: int) -> float:
    logits = causal_model(plm.name)(torch.tensor([row])).logits[0]
    logp = logits[:-1].log_softmax(-1).gather(-1, torch.tensor(row[1:])[:, None])
    return logp[begin - 1 :].sum().item()


def scored(plm: Plm, rows: list[list[int]], begins: list[int], tokens: int, cached: bool = True) -> list[float]:
    found = {
        i: total
        for batch, sums in logprobs(plm.network, rows, begins, cached, tokens, longest_fork=plm.longest_fork)
        for i, total in zip(batch, sums, strict=True)
    }
    return [found[i] for i in range(len(rows))]


@contextmanager
def inputs_of(plm: Plm) -> Iterator[list[tuple[int, ...]]]:
    """Collect the shapes of what the model reads."""
    seen: list[tuple[int, ...]] = []
    hook = plm.network.model.base_model.register_forward_pre_hook(
        lambda module, given, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    hook.remove()


@pytest.fixture(params=["own kernel", "fused kernel"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let long rows attend by the one or by the other."""
    monkeypatch.setattr("zerogen.plm.cache._SCORES", 1 << 20 if request.param == "own kernel" else 16 * 16)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("length", [15, 16, 17, 18, 33, 128])
@pytest.mark.parametrize("shared", [0, 14])
def test_a_row_in_blocks_scores_as_a_whole_one(plm: Plm, length: int, shared: int) -> None:
    rows = random_rows([length, 15, length, 40], shared)
    for begins in ([1] * 4, [14, 14, length - 1, 39]):
        expected = [by_own_forward(plm, row, begin) for row, begin in zip(rows, begins, strict=True)]
        with inputs_of(plm) as seen:
            found = scored(plm, rows, begins, tokens=16)
        assert found == pytest.approx(expected, abs=1e-3)
        assert max(rows * width for rows, width in seen) <= 16


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("shared", "count"), [(17, 2), (40, 3), (16, 9), (33, 9), (100, 9), (119, 9)])
def test_a_long_common_beginning_is_read_once_and_in_blocks(plm: Plm, shared: int, count: int) -> None:
    """By two rows already; the rows after it may be long themselves."""
    rows = random_rows([120, shared + 1] * (count // 2) + [shared + 4] * (count % 2), shared)
    begins = [1 + 13 * i % (len(row) - 1) for i, row in enumerate(rows)]
    expected = [by_own_forward(plm, row, begin) for row, begin in zip(rows, begins, strict=True)]
    with inputs_of(plm) as seen:
        found = scored(plm, rows, begins, tokens=16)
    assert found == pytest.approx(expected, abs=1e-3)
    assert max(rows * width for rows, width in seen) <= 16
    own = sum(len(row) - shared for row in rows)
    assert sum(rows * width for rows, width in seen) <= shared + own + 16  # of padding


class Largest(TorchDispatchMode):
    """Finds how many numbers the largest tensor holds that is computed."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return out


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("lengths", "shared"), [([128], 0), ([128, 124], 120), ([123] * 60, 120)])
def test_memory_does_not_grow_with_the_square_of_the_length(plm: Plm, lengths: list[int], shared: int) -> None:
    rows = random_rows(lengths, shared)
    with Largest() as largest:
        scored(plm, rows, [1] * len(rows), tokens=8)
    # The largest are weights and attention scores: 4 heads of a block of 8 and all that stands before it.
    assert largest.numel <= 320 * 32 < 128 * 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_model_reads_blocks_with_nothing_to_score(dtype: torch.dtype) -> None:
    """Such as those before the text, of which scope=text counts no token."""
    if dtype == torch.bfloat16 and not has_bfloat16(torch.device("cpu")):
        pytest.skip("a processor without bfloat16")
    if not can_pack(dtype, torch.device("cpu")):
        pytest.skip("no oneDNN")
    plain = Plm(causal_model("llama").to(dtype), byte_tokenizer())
    packed = Plm(causal_model("llama").to(dtype), byte_tokenizer())
    pack_linears(packed.network.model)
    packed = Plm(packed.network.model, byte_tokenizer())
    rows, begins = random_rows([100, 60, 60], 40), [99, 59, 3]
    expected = scored(plain, rows, begins, 4096)
    assert scored(packed, rows, begins, 16) == pytest.approx(expected, rel=1e-5 if dtype == torch.float32 else 0.05)


def test_progress_counts_the_tokens_of_every_block(plm: Plm) -> None:
    class Counts(Progress):
        @contextmanager
        def bar(self, description: str, total: int | None, unit: str) -> Iterator[Advance]:
            totals.append((total, unit))
            yield done.append

    totals: list[tuple[int | None, str]] = []
    done: list[int] = []
    texts = ["word " * 20, "word " * 20 + "and more", "The movie", *(f"The movie is {i}" for i in range(9))]
    sizes = [len(plm.encode(text)) - 1 for text in texts]
    for tokens in (8, 4096):
        totals.clear()
        done.clear()
        list(plm.logprob(texts, tokens, progress=Counts()))
        assert totals == [(sum(sizes), "tokens")]
        assert sum(done) == sum(sizes)
        if tokens == 8:
            assert max(done) <= 8 * 9  # a block of what nine rows begin with
    plm.cached = False
    done.clear()
    list(plm.logprob(texts, progress=Counts()))
    assert sum(done) == sum(sizes)


def test_rows_are_read_whole_where_positions_depend_on_their_length() -> None:
    """Positions of a model that was extended for long texts (Phi-3's way): blocks would have those of short rows."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 16}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        rope_parameters=rope,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LlamaForCausalLM(config).eval()
    plm = Plm(model, byte_tokenizer())
    assert (plm.cached, plm.network.window) == (True, 16)
    text = "a film about a family and its dog " * 3
    ids = plm.encode(text)
    assert len(ids) > 40
    logp = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])
    ((_, score),) = plm.logprob([text], batch_tokens=16, total=True)
    assert score == pytest.approx(logp.sum().item(), abs=1e-3)
    by_kind = causal_model("gemma3")
    by_kind.config.rope_parameters = {"sliding_attention": {"rope_type": "default"}, "full_attention": rope}
    assert Network(by_kind).window == 16


ENDINGS = [[[3, 4], [5]], [[3, 4, 5], [3, 4, 6], [7]], [[3], [3]], [[3, 4, 5, 6], [3, 4, 5, 6, 7, 8]]]


@pytest.mark.parametrize("endings", ENDINGS)
@pytest.mark.parametrize("begin", [1, 9, 12, 13])
@pytest.mark.parametrize("tokens", [1024, 40])
def test_endings_of_one_text_are_read_with_it_once(plm: Plm, endings: list[list[int]], begin: int, tokens: int) -> None:
    texts = random_rows([12, 9, 15])
    rows = [text + ending for text in texts for ending in endings]
    begins = [min(begin, len(row) - 1) for row in rows]
    with inputs_of(plm) as seen:
        found = scored(plm, rows, begins, tokens)
    expected = [by_own_forward(plm, row, at) for row, at in zip(rows, begins, strict=True)]
    assert found == pytest.approx(expected, abs=1e-4)
    assert sum(lines for lines, _ in seen) == len(texts)  # and no row beside these


def test_forks_hold_rows_that_share_at_least_half() -> None:
    rows = [[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 9, 9, 9], [1, 2, 3, 4], [7]]
    (fork,) = forks(rows)
    assert (fork.length, sorted(fork.members), fork.tokens) == (3, [0, 1, 3], 3 + 1 + 2 + 1)
    assert not forks([rows[2], rows[4]])


@every_fast_family
@pytest.mark.parametrize("begin", [1, 3, 6, 7, 20, 36])
def test_endings_share_a_text_and_texts_a_beginning(plm: Plm, begin: int) -> None:
    beginning, texts = random_rows([6])[0], random_rows([30] * 9)
    rows = [beginning + text + [ending] for text in texts for ending in (3, 4)]
    with inputs_of(plm) as seen:
        found = scored(plm, rows, [begin] * len(rows), 1024)
    assert sum(lines for lines, _ in seen) == 1 + len(texts)  # the beginning, and each text with both endings after it
    assert found == pytest.approx([by_own_forward(plm, row, begin) for row in rows], abs=1e-4)


@pytest.mark.parametrize("labels", [2, 9])
@pytest.mark.parametrize("beginning", [0, 40])
def test_a_text_is_read_once_whatever_the_number_of_labels(plm: Plm, labels: int, beginning: int) -> None:
    first, *texts = random_rows([40] + [20] * 10)
    rows = [first[:beginning] + text + [3 + label] for text in texts for label in range(labels)]
    with inputs_of(plm) as seen:
        found = scored(plm, rows, [beginning + 20] * len(rows), 1024)
    assert sum(lines for lines, _ in seen) == len(texts) + bool(beginning)
    assert found == pytest.approx([by_own_forward(plm, row, beginning + 20) for row in rows], abs=1e-4)


def test_no_rows_have_no_scores(plm: Plm) -> None:
    for cached in (False, True):
        assert list(logprobs(plm.network, [], [], cached, 64)) == []


def other_model(name: str) -> PreTrainedModel:
    """A random model that places tokens, or hides some of them, in a way of its own."""
    sizes = {"vocab_size": 320, "max_position_embeddings": 128}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model: PreTrainedModel
        if name == "mpt":  # ALiBi: a bias that grows with the distance in the row as it is laid out
            model = MptForCausalLM(MptConfig(vocab_size=320, d_model=32, n_layers=2, n_heads=4, max_seq_len=128))
        else:  # GPT-Neo: every other layer sees the last tokens only
            kinds = [[["global", "local"], 1]]
            model = GPTNeoForCausalLM(
                GPTNeoConfig(hidden_size=32, num_layers=2, num_heads=4, attention_types=kinds, window_size=8, **sizes)
            )
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("name", ["mpt", "gpt_neo"])
def test_models_that_place_tokens_otherwise_have_the_scores_of_rows_read_whole(name: str) -> None:
    model = other_model(name)
    plm = Plm(model, byte_tokenizer())
    beginning, *texts = random_rows([40] + [20] * 5)
    rows = [beginning + text + ending for text in texts for ending in ([3, 4], [5])]
    with torch.no_grad():
        expected = [
            model(torch.tensor([row])).logits[0, :-1].log_softmax(-1).gather(-1, torch.tensor(row[1:])[:, None])
            for row in rows
        ]
    found = scored(plm, rows, [1] * len(rows), 1024, cached=plm.cached)
    assert found == pytest.approx([logp.sum().item() for logp in expected], abs=1e-3)
