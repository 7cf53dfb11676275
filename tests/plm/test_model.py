"""Generation and scoring are exact whatever the batch looks like."""

import gc
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.pytorch_utils import Conv1D

from tests.conftest import (
    SLOW,
    byte_tokenizer,
    causal_model,
    every_family,
    every_fast_family,
    every_sliding_family,
)
from zerogen.config.schema import DecodingConfig
from zerogen.config.task_schema import ContrastConfig, DebiasConfig
from zerogen.data.records import Continuation, Request, Stop
from zerogen.plm.contrast import Contrast
from zerogen.plm.cuda_graph import GraphedStep
from zerogen.plm.debias import SelfDebiasing
from zerogen.plm.decode import CachedEngine, Slots, read
from zerogen.plm.model import Plm
from zerogen.plm.network import Network, _LayerWithGelu, _with_fused_activations
from zerogen.plm.pack import PackedHead, PackedLinear, can_pack, pack_linears
from zerogen.plm.rng import fold_in
from zerogen.plm.sampling import Sampler
from zerogen.plm.score import shared_prefixes
from zerogen.support.weights import has_bfloat16

PROMPTS = ["A", "The movie review", 'Movie: "', "Is this the question", "The", "x" * 20, "The movie", 'Movie: "', "No."]
LONG = "The movie review in positive sentiment is not the question"  # longer than all sliding windows here
NEVER = [Stop("\x00never\x00")]


def requests(prompts: Sequence[str]) -> list[Request]:
    return [Request(str(i), prompt) for i, prompt in enumerate(prompts)]


def greedy_by_transformers(plm: Plm, prompt: str, tokens: int) -> str:
    """One row at a time, without padding, by transformers' own loop and attention."""
    model = causal_model(plm.name)
    ids = torch.tensor([plm.encode(prompt)])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=0
    )
    return plm.decode(out[0, ids.shape[1] :].tolist())


@every_fast_family
@pytest.mark.parametrize("slots", [1, 3, 16])
def test_greedy_decoding_equals_generate_token_by_token(plm: Plm, slots: int) -> None:
    assert plm.cached
    decoding = DecodingConfig(top_k=1, batch_size=slots)
    found = plm.generate(requests(PROMPTS), decoding, NEVER, 20, seed=0)
    assert [row.text for row in found] == [greedy_by_transformers(plm, prompt, 20) for prompt in PROMPTS]


@pytest.mark.parametrize("plm", SLOW, indirect=True)
def test_a_model_whose_attention_is_another_is_decoded_without_a_cache_and_said_to_be_slow(plm: Plm) -> None:
    said: list[str] = []
    plm.report_to(said.append)
    assert not plm.cached
    assert "slowly" in " ".join(said)
    found = plm.generate(requests(PROMPTS), DecodingConfig(top_k=1, batch_size=4), NEVER, 12, seed=0)
    assert [row.text for row in found] == [greedy_by_transformers(plm, prompt, 12) for prompt in PROMPTS]


def test_sampling_depends_on_the_seed_alone(plm: Plm) -> None:
    torch.manual_seed(1)
    first = plm.generate(requests(PROMPTS), DecodingConfig(batch_size=4), NEVER, 20, seed=5)
    torch.manual_seed(2)
    assert first == plm.generate(requests(PROMPTS), DecodingConfig(batch_size=4), NEVER, 20, seed=5)
    assert first != plm.generate(requests(PROMPTS), DecodingConfig(batch_size=4), NEVER, 20, seed=6)


@pytest.mark.parametrize(
    ("counters", "debias"), [(0, DebiasConfig()), (2, DebiasConfig(decay=20.0)), (2, ContrastConfig(1.5))]
)
def test_a_row_does_not_depend_on_the_rows_beside_it(
    plm: Plm, counters: int, debias: DebiasConfig | ContrastConfig
) -> None:
    """Nor on the slot it is decoded in, on when it is begun, or on how many steps pass between two looks at it."""
    asked = [
        Request(str(i), prompt, counters={str(k): PROMPTS[(i + 1 + k) % 9] for k in range(counters)})
        for i, prompt in enumerate(PROMPTS * 3)
    ]
    stops = [Stop("e"), Stop(" ")]
    for decoding in (DecodingConfig(top_p=0.6), DecodingConfig(temperature=0.7, top_k=20), DecodingConfig(top_k=1)):
        every = [
            plm.generate(asked, replace(decoding, batch_size=size * (1 + counters)), stops, 12, 5, debias)
            for size in (27, 5, 1)
        ]
        plm.static_shapes = True
        every += [
            plm.generate(asked, replace(decoding, batch_size=size * (1 + counters)), stops, 12, 5, debias)
            for size in (27, 5, 5)  # the second time with what the first has left in the same memory
        ]
        plm.static_shapes = False
        assert len({row.tokens for row in every[0]}) > 2
        for found in every[1:]:
            assert [(row.text, row.finish_reason, row.tokens) for row in found] == [
                (row.text, row.finish_reason, row.tokens) for row in every[0]
            ]
            for row, other in zip(found, every[0], strict=True):
                assert row.logprob == pytest.approx(other.logprob, abs=1e-4)
                assert row.counter_logprob == pytest.approx(other.counter_logprob, abs=1e-4)


def test_the_batch_shrinks_by_a_quarter_or_not_at_all(plm: Plm, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [40]

    class Counted(CachedEngine):
        def keep(self, lines: torch.Tensor) -> None:
            sizes.append(len(lines))
            super().keep(lines)

    monkeypatch.setattr("zerogen.plm.model.CachedEngine", Counted)
    stops = [Stop(letter) for letter in "eairs"]
    plm.generate(requests((PROMPTS * 5)[:40]), DecodingConfig(batch_size=40), stops, 40, seed=5)
    assert len(sizes) > 2
    assert all(after <= before * 3 / 4 for before, after in pairwise(sizes))


def test_the_cache_of_a_chunk_is_freed_with_it(plm: Plm) -> None:
    gc.collect()
    gc.disable()
    try:
        made: list[weakref.ref[CachedEngine]] = []

        class Watched(CachedEngine):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                made.append(weakref.ref(self))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("zerogen.plm.model.CachedEngine", Watched)
            plm.generate(requests(PROMPTS), DecodingConfig(batch_size=4), NEVER, 5, seed=5)
        assert [ref() for ref in made] == [None]
    finally:
        gc.enable()


class OnMeta(TorchDispatchMode):
    """Refuses every operation that reads or makes a tensor elsewhere: a GPU's recording has no copy from the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, made)):
            assert not isinstance(leaf, torch.Tensor) or leaf.device.type == "meta", func
        return made


def test_a_step_of_static_shapes_asks_nothing_of_the_host(plm: Plm) -> None:
    """Tensors on the meta device have no values: whoever asks for one fails. So would a recording on a GPU."""
    debiased, contrasted = Sampler(0.9, 20, 0.7, SelfDebiasing(20.0)), Sampler(0.9, debias=Contrast(1.5))
    for sampler in (Sampler(0.9), debiased, contrasted, Sampler(top_k=1)):
        for static_shapes in (True, False):
            network = Network(causal_model(plm.name))
            with torch.inference_mode(), network.slot_attention():
                engine = CachedEngine(network, lines=6, capacity=64, static_shapes=static_shapes)
                slots = Slots(engine, sampler, 3, 2, network.device)
                slots.fill([0, 1, 2], [[[1, 2], [3]]] * 3, torch.arange(3))
                for _ in range(2):
                    slots._take()
                to_meta(network.model, slots, engine.cache)
                if static_shapes:
                    with OnMeta():
                        slots._take()
                else:
                    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
                        slots._take()


def test_rows_of_static_shapes_reach_the_last_position(plm: Plm) -> None:
    """Also those that go on behind their end, until somebody looks."""
    asked = requests(["x" * length for length in range(1, 20)])
    longest = max(len(plm.encode(request.prompt)) for request in asked)
    decoding = DecodingConfig(batch_size=7)
    most = plm.max_positions - longest
    expected = plm.generate(asked, decoding, NEVER, most, seed=3)
    plm.static_shapes = True
    found = plm.generate(asked, decoding, NEVER, most, seed=3)
    assert [row.text for row in found] == [row.text for row in expected]
    assert max(row.tokens for row in found) == most


def test_another_sampler_does_not_get_the_steps_of_the_last_one(plm: Plm) -> None:
    plm.static_shapes = True
    for decoding in (DecodingConfig(), DecodingConfig(temperature=0.3), DecodingConfig(top_k=1)):
        found = [row.text for row in plm.generate(requests(PROMPTS), decoding, NEVER, 12, seed=3)]
        plm.static_shapes = False
        assert found == [row.text for row in plm.generate(requests(PROMPTS), decoding, NEVER, 12, seed=3)]
        plm.static_shapes = True


@pytest.mark.parametrize("static_shapes", [False, True])
def test_a_nan_ends_a_chunk_and_not_the_next_one(gpt2: Plm, static_shapes: bool) -> None:
    gpt2.static_shapes = static_shapes
    embedding = gpt2.network.model.get_input_embeddings().weight
    token = gpt2.encode("No.")[0]
    kept = embedding[token].clone()
    with torch.no_grad():
        embedding[token] = torch.nan
        with pytest.raises(FloatingPointError):
            gpt2.generate(requests(["No.", "A"]), DecodingConfig(), NEVER, 12, seed=3)
        embedding[token] = kept
    assert all(row.tokens == 12 for row in gpt2.generate(requests(["No.", "A"]), DecodingConfig(), NEVER, 12, seed=3))


def test_draws_follow_the_place_among_the_requests(plm: Plm) -> None:
    """Not the order in which rows are decoded: there the short prompt comes first."""
    first, second = (
        plm.generate(requests(prompts), DecodingConfig(), NEVER, 12, seed=3)[1].text
        for prompts in (["The movie review", "A"], ["No", "A"])
    )
    assert first == second


def test_only_a_step_of_static_shapes_is_recorded(plm: Plm, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> None:
        raise AssertionError("recorded")

    monkeypatch.setattr("zerogen.plm.decode.GraphedStep", refuse)
    plm.generate(requests(PROMPTS), DecodingConfig(), NEVER, 5, seed=3)
    plm.static_shapes = True
    plm.generate(requests(PROMPTS), DecodingConfig(top_p=0.1), NEVER, 5, seed=3)
    with pytest.raises(AssertionError, match="recorded"):
        plm.generate(requests(PROMPTS), DecodingConfig(), NEVER, 5, seed=3)


class Recorder(TorchDispatchMode):
    """Replays a step as a GPU does: the same operations on the same memory, and no Python in between."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.outputs: Sequence[torch.Tensor] | None = None
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self.refused = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made

    def __call__(self, step: Callable[[], Sequence[torch.Tensor]]) -> Sequence[torch.Tensor]:
        if self.outputs is None:
            with self:
                self.outputs = step()
            return self.outputs
        for func, args, kwargs, made in self.calls:
            given = {leaf.data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
            for old, new in zip(tree_leaves(made), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr() and new.data_ptr() not in given:
                    old.copy_(new)
        return self.outputs


def test_a_recorded_step_can_be_replayed(plm: Plm, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [plm.generate(requests(PROMPTS * 2), DecodingConfig(), [Stop("e")], 20, seed) for seed in (1, 2)]
    recorders: list[Recorder] = []

    def record(device: torch.device) -> Recorder:
        recorders.append(Recorder(device))
        return recorders[-1]

    monkeypatch.setattr("zerogen.plm.decode.GraphedStep", record)
    plm.static_shapes = True
    for seed, rows in zip((1, 2), expected, strict=True):  # the second chunk replays what the first recorded
        found = plm.generate(requests(PROMPTS * 2), DecodingConfig(batch_size=4), [Stop("e")], 20, seed)
        assert [row.text for row in found] == [row.text for row in rows]
    assert len(recorders) == 1
    assert len(recorders[0].calls) > 100


def test_first_tokens_that_an_attempt_leaves_out_are_drawn(plm: Plm) -> None:
    """Of 300 rows, since ten draws of which each is taken with a chance of 0.4 do not suffice for all."""
    asked, decoding = requests(["The movie review"] * 300), DecodingConfig(top_p=0.4, batch_size=300)
    expected = plm.generate(asked, decoding, NEVER, 2, seed=3)
    plm.static_shapes = True
    found = plm.generate(asked, decoding, NEVER, 2, seed=3)
    assert [row.text for row in found] == [row.text for row in expected]


def test_prompts_are_tokenized_as_one_by_one(plm: Plm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerogen.plm.protocol._PROMPTS", 2)
    assert plm.all_prompt_ids(PROMPTS) == [plm.prompt_ids(prompt) for prompt in PROMPTS]
    assert plm.all_prompt_ids([]) == []


def test_a_layer_with_its_activation_computes_the_same() -> None:
    ids = torch.arange(20)[None]
    model, other = causal_model("gpt2"), causal_model("gpt2")
    layers = [module for module in other.modules() if isinstance(module, GPT2MLP)]

    class Adapted(Conv1D):
        """As an adapter does it, computes something else than its weight says."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    layers[0].c_fc.__class__ = Adapted
    for one, replaced in ((model, 2), (other, 1)):
        with torch.inference_mode():
            expected = one(ids).logits
            found = _with_fused_activations(one)(ids).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert sum(isinstance(module, _LayerWithGelu) for module in one.modules()) == replaced


def test_a_step_that_cannot_be_recorded_is_said_once(gpt2: Plm, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(GraphedStep):
        def __call__(self, step: Callable[[], Sequence[torch.Tensor]]) -> Sequence[torch.Tensor]:
            self.refused = "it asked for a value"
            return step()

    said: list[str] = []
    gpt2.say = said.append
    gpt2.static_shapes = True
    monkeypatch.setattr("zerogen.plm.decode.GraphedStep", Refused)
    for seed in (1, 2):
        gpt2.generate(requests(PROMPTS), DecodingConfig(), NEVER, 5, seed)
    assert len(said) == 1
    assert "it asked for a value" in said[0]


def test_prompts_are_read_a_few_at_a_time_where_they_are_long(plm: Plm, monkeypatch: pytest.MonkeyPatch) -> None:
    def widest(most: int) -> tuple[list[Continuation], int]:
        monkeypatch.setattr("zerogen.plm.decode._PREFILL", most)
        seen: list[int] = []
        hook = plm.network.model.base_model.register_forward_pre_hook(
            lambda module, given, named: seen.append(named["input_ids"].numel() * named["input_ids"].shape[1]),
            with_kwargs=True,
        )
        found = plm.generate(requests(PROMPTS * 2), DecodingConfig(top_k=1), NEVER, 8, seed=3)
        hook.remove()
        return found, max(seen)

    whole, most = widest(1 << 22)
    parts, less = widest(1500)
    blocks, least = widest(100)  # of a single prompt
    assert least <= 100 < less <= 1500 < most
    for found in (parts, blocks):
        assert [(row.text, row.tokens) for row in found] == [(row.text, row.tokens) for row in whole]
        assert [row.logprob for row in found] == pytest.approx([row.logprob for row in whole], abs=1e-4)


@pytest.mark.parametrize("static_shapes", [False, True])
@pytest.mark.parametrize("length", [1, 29, 30, 31, 100])
@torch.inference_mode()
def test_a_prompt_read_in_blocks_leaves_the_cache_as_one_read_whole(
    plm: Plm, monkeypatch: pytest.MonkeyPatch, length: int, static_shapes: bool
) -> None:
    prompts = [[(7 * i + 3) % 320 for i in range(length)], [5, 6], [(7 * i + 3) % 320 for i in range(length)]]
    found = []
    for scores in (1 << 22, 10 * length):
        monkeypatch.setattr("zerogen.plm.decode._PREFILL", scores)
        engine = CachedEngine(plm.network, lines=4, capacity=128, static_shapes=static_shapes)
        with plm.network.slot_attention():
            first = engine.prefill(torch.tensor([3, 0, 1]), prompts).clone()
            positions = torch.tensor([2, length, 0, length])
            found.append((first, engine.step(torch.tensor([9, 8, 0, 9]), positions)[[0, 1, 3]].clone()))
    for whole, blocks in zip(*found, strict=True):
        torch.testing.assert_close(blocks, whole, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_slot_without_a_row_widens_no_cache(plm: Plm) -> None:
    engine = CachedEngine(plm.network, lines=2, capacity=128)
    slots = Slots(engine, Sampler(), 2, 1, plm.network.device)
    with plm.network.slot_attention():
        slots.fill([0, 1], [[[5] * 30], [[6]]], torch.arange(2))
        for _ in range(20):
            slots.rest([0])
            slots.advance(1)
    assert engine.cache.width == 32


@torch.inference_mode()
def test_a_refilled_slot_begins_with_its_first_draw(plm: Plm) -> None:
    taken = []
    for rejected in (0, 3):
        engine = CachedEngine(plm.network, lines=4, capacity=64, static_shapes=True)
        slots = Slots(engine, Sampler(0.3), 4, 1, plm.network.device)
        slots.tries.fill_(rejected)  # of the rows before
        with plm.network.slot_attention():
            slots.fill([0, 1, 2, 3], [[[5, 6]]] * 4, torch.arange(4))
            taken.append([[part.tolist() for part in step] for step in read(slots.advance(4))])
    assert taken[0] == taken[1]


@torch.inference_mode()
def test_a_line_shares_what_another_one_begins_with(plm: Plm) -> None:
    engine = CachedEngine(plm.network, lines=6, capacity=64, static_shapes=True)
    prompts = [[5, 6, 7], [5, 6], [5, 6, 7], [5, 6, 9, 9], [5, 6]]
    with plm.network.slot_attention():
        engine.prefill(torch.tensor([1, 2, 3, 4, 5]), prompts)
        cache, of_line = engine.cache, [[], *prompts]
        assert cache.source.tolist() == [0, 1, 1, 1, 1, 2]
        assert cache.shared.tolist() == [0, 2, 2, 3, 2, 2]
        engine.prefill(torch.tensor([1, 0]), [[8, 9], [5, 6, 7]])  # what the others read is written over
    of_line[:2] = [5, 6, 7], [8, 9]
    for line, (source, shared) in enumerate(zip(cache.source.tolist(), cache.shared.tolist(), strict=True)):
        assert of_line[source][:shared] == of_line[line][:shared]
        assert shared <= len(of_line[line])
    assert cache.shared.tolist() == [0, 0, 0, 3, 0, 2]


def test_no_step_is_taken_that_no_row_can_need(gpt2: Plm, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(GraphedStep):
        calls = 0

        def __call__(self, step: Callable[[], Sequence[torch.Tensor]]) -> Sequence[torch.Tensor]:
            Counted.calls += 1
            return super().__call__(step)

    gpt2.static_shapes = True
    monkeypatch.setattr("zerogen.plm.decode.GraphedStep", Counted)
    gpt2.generate(requests(PROMPTS), DecodingConfig(top_p=1.0), NEVER, 7, seed=3)
    assert Counted.calls == 6  # the first token is sampled where the prompts are read


def to_meta(model: torch.nn.Module, *holders: object) -> None:
    """Replace all tensors of a model, of a cache and of what is held beside them by ones that have no values."""
    model.to("meta")
    for holder in holders:
        for name, value in vars(holder).items():
            if isinstance(value, torch.Tensor):
                setattr(holder, name, value.to("meta"))
        for layer in getattr(holder, "layers", []):
            layer.keys, layer.values = layer.keys.to("meta"), layer.values.to("meta")


def test_generation_leaves_the_global_random_state_alone(plm: Plm) -> None:
    before = torch.get_rng_state()
    plm.generate(requests(PROMPTS), DecodingConfig(batch_size=4), NEVER, 5, seed=5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("keep", [False, True])
def test_a_row_ends_at_its_stop_string(plm: Plm, keep: bool) -> None:
    decoding = DecodingConfig(top_k=1)
    whole = plm.generate(requests(PROMPTS), decoding, NEVER, 20, seed=0)
    checked = 0
    for i, row in enumerate(whole):
        # Two whole characters: they may lie inside a token or across two.
        pairs = [row.text[i : i + 2] for i in range(1, len(row.text) - 3)]
        middle = next((pair for pair in pairs if "\ufffd" not in pair), None)
        if middle is None:
            continue
        cut = plm.generate(requests(PROMPTS[i : i + 1]), decoding, [Stop(middle, keep)], 20, seed=0)[0]
        place = row.text.index(middle)
        assert cut.finish_reason == "stop"
        assert cut.text == row.text[: place + 2 * keep]
        assert cut.tokens <= row.tokens
        checked += 1
    assert checked >= 3


def test_end_of_text_ends_a_row(gpt2: Plm) -> None:
    whole = gpt2.generate(requests(PROMPTS[:1]), DecodingConfig(top_k=1), NEVER, 20, seed=0)[0]
    second = gpt2.encode(whole.text)
    gpt2.eos.add(next(token for token in second[1:] if token != second[0]))
    cut = gpt2.generate(requests(PROMPTS[:1]), DecodingConfig(top_k=1), NEVER, 20, seed=0)[0]
    assert cut.finish_reason == "eos"
    assert cut.tokens < whole.tokens


@every_family
def test_a_sampled_continuation_and_its_mean_token_logprob_are_those_of_whole_forwards(plm: Plm) -> None:
    prompt = "The movie"
    row = plm.generate(requests([prompt]), DecodingConfig(), NEVER, 10, seed=3)[0]
    assert row.finish_reason == "length"
    # Sampled ids need not be what the tokenizer makes of their text: compare with the ids themselves.
    expected = []
    ids = plm.encode(prompt)
    model = causal_model(plm.name)
    key = fold_in(torch.tensor([3]), 0)
    for place in range(row.tokens):
        logits = model(torch.tensor([ids])).logits[:, -1]
        token, _ = Sampler(0.9)(logits[:, None], fold_in(key, place))
        expected.append(logits.log_softmax(-1)[0, token].item())
        ids.append(int(token))
    assert row.text == plm.decode(ids[-row.tokens :])
    assert row.logprob == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_a_prompt_that_leaves_no_room_is_refused(gpt2: Plm) -> None:
    with pytest.raises(ValueError, match="128 positions"):
        gpt2.generate(requests(["x" * 120]), DecodingConfig(), NEVER, 20, seed=0)


@every_family
def test_padding_does_not_change_a_score(plm: Plm) -> None:
    texts = [prompt for prompt in PROMPTS if len(plm.encode(prompt)) > 1]
    together = dict(plm.logprob(texts, batch_tokens=4096))
    alone = [next(iter(plm.logprob([text])))[1] for text in texts]
    assert [together[i] for i in range(len(texts))] == pytest.approx(alone, abs=1e-5)


@every_family
def test_a_score_is_the_mean_token_logprob_by_the_models_own_forward(plm: Plm) -> None:
    text = 'The movie review in positive sentiment is: "<|endoftext|>"'  # padding's id is a real token here
    ids = torch.tensor([plm.encode(text)])
    assert 0 in ids[0, 1:]
    logp = causal_model(plm.name)(ids).logits[0, :-1].log_softmax(-1)
    expected = logp.gather(-1, ids[0, 1:, None]).mean().item()
    assert dict(plm.logprob([text, text + " and more words"]))[0] == pytest.approx(expected, abs=1e-5)


def test_a_text_of_one_token_cannot_be_scored(gpt2: Plm) -> None:
    with pytest.raises(ValueError, match="cannot score"):
        list(gpt2.logprob(["A"]))


CPU = torch.device("cpu")
needs_float32 = pytest.mark.skipif(not can_pack(torch.float32, CPU), reason="this torch is built without oneDNN")
needs_bfloat16 = pytest.mark.skipif(
    not has_bfloat16(CPU) or not can_pack(torch.bfloat16, CPU), reason="this processor has no bfloat16"
)


@needs_float32
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_packed_model_writes_and_scores_what_the_plain_one_does(family: str) -> None:
    plain, packed = Plm(causal_model(family), byte_tokenizer()), causal_model(family)
    pack_linears(packed)
    found = Plm(packed, byte_tokenizer())
    assert found.cached
    assert found.network.halved
    decoding = DecodingConfig(top_k=1, batch_size=3)
    assert [row.text for row in found.generate(requests(PROMPTS), decoding, NEVER, 20, seed=0)] == [
        row.text for row in plain.generate(requests(PROMPTS), decoding, NEVER, 20, seed=0)
    ]
    texts = [prompt + " film" for prompt in PROMPTS]
    assert dict(found.logprob(texts)) == pytest.approx(dict(plain.logprob(texts)), abs=1e-5)


@needs_float32
def test_layers_that_read_the_same_tensor_are_one_product() -> None:
    model = causal_model("llama")
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    attention, mlp = model.model.layers[1].self_attn, model.model.layers[0].mlp
    with torch.inference_mode():
        names = ("q_proj", "k_proj", "v_proj")
        before = [getattr(attention, name)(x) for name in names], mlp(x)
        pack_linears(model)
        layers = [getattr(attention, name) for name in names]
        assert all(isinstance(layer, PackedLinear) for layer in layers)
        assert len({id(layer.shared) for layer in layers}) == 1
        assert mlp.gate_proj.shared is mlp.up_proj.shared
        assert attention.o_proj.shared is not layers[0].shared
        torch.testing.assert_close([layer(x) for layer in layers], before[0])
        torch.testing.assert_close([layer(x) for layer in reversed(layers)], before[0][::-1])
        torch.testing.assert_close(layers[1](2 * x), 2 * before[0][1])  # another input in between is not mixed up
        torch.testing.assert_close(layers[2](x), before[0][2])
        torch.testing.assert_close(mlp(x), before[1])


@needs_bfloat16
@pytest.mark.parametrize("bias", [False, True])
def test_logits_of_a_bfloat16_model_are_not_rounded(bias: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = torch.nn.Linear(64, 9000, bias=bias).bfloat16()
    x = torch.randn(130, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = torch.nn.functional.linear(x.double(), head.weight.double(), head.bias.double() if bias else None)
    with torch.inference_mode():
        rounded = (head(x).double() - expected).abs().max()
        packed = PackedHead(head)
        for rows in (1, 7, 64, 130):
            logits = packed(x[:rows])
            assert logits.dtype == torch.float32
            assert (logits.double() - expected[:rows]).abs().max() < rounded / 100


def test_rows_are_the_same_where_all_steps_share_the_memory_of_their_logits() -> None:
    """Tokens are drawn in it, as the vocabulary has whole blocks."""
    model = causal_model("llama", vocab_size=512)
    pack_linears(model)
    plm = Plm(model, byte_tokenizer())
    assert plm.network.reuses_memory
    asked, decoding = requests(PROMPTS * 3), DecodingConfig(top_p=0.6)
    every = [
        plm.generate(asked, replace(decoding, batch_size=size), [Stop("e"), Stop(" ")], 12, seed=5)
        for size in (27, 5, 1)
    ]
    assert len({row.tokens for row in every[0]}) > 2
    for found in every[1:]:
        assert [(row.text, row.finish_reason, row.tokens) for row in found] == [
            (row.text, row.finish_reason, row.tokens) for row in every[0]
        ]


@pytest.mark.parametrize("given", [None, "7"])
def test_packing_limits_the_kernels_kept_unless_the_user_has_set_how_many(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "0")  # so that the end of the test restores what was there
    if given is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, given)
    pack_linears(causal_model("llama"))
    assert os.environ[name] == (given or "64")


@every_sliding_family
def test_rows_longer_than_a_sliding_window_are_cached(plm: Plm) -> None:
    """What they are is compared elsewhere; here, that after its prompt a row costs a token at a time."""
    widths: list[int] = []
    plm.network.model.base_model.register_forward_pre_hook(
        lambda module, given, named: widths.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    plm.generate(requests([LONG]), DecodingConfig(top_k=1), NEVER, 20, seed=0)
    assert len(plm.encode(LONG)) > plm.network.config.sliding_window
    assert widths[0] > 1 == widths[1] == max(widths[1:])


@every_sliding_family
@pytest.mark.parametrize("by", [-1, 1])
def test_a_window_of_another_size_is_found_out_when_a_model_is_loaded(
    plm: Plm, by: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the rows that are then compared are short. Longer ones are read without a cache."""
    masks, expected = Network.masks, dict(plm.logprob([LONG]))
    assert plm.network.window > 128
    monkeypatch.setattr(Network, "masks", lambda network, mask, queries, keys: masks(network, mask, queries + by, keys))
    wrong = Plm(causal_model(plm.name), byte_tokenizer())
    assert (wrong.cached, wrong.network.window) == (True, 9)
    assert dict(wrong.logprob([LONG])) == pytest.approx(expected, abs=1e-5)


@every_sliding_family
def test_a_window_that_counts_places_in_a_fork_is_found_out(plm: Plm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endings of one text stand beside each other, but their positions are the same."""
    masks = Network.masks

    def by_place(network: Network, mask: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> Any:
        places = torch.arange(keys.shape[1])[None]
        return masks(network, mask, places[:, -queries.shape[1] :] if queries.shape[1] > 1 else queries, places)

    monkeypatch.setattr(Network, "masks", by_place)
    wrong = Plm(causal_model(plm.name), byte_tokenizer())
    assert (wrong.cached, wrong.longest_fork) == (True, 0)
    assert plm.longest_fork == 128


def test_a_window_that_only_the_configuration_has_hides_nothing() -> None:
    model = causal_model("llama")
    model.config.sliding_window = 9
    plm = Plm(model, byte_tokenizer())
    assert (plm.cached, plm.network.window) == (True, 9)
    assert model.config.sliding_window == 9
    expected = Plm(causal_model("llama"), byte_tokenizer())
    assert dict(plm.logprob([LONG])) == pytest.approx(dict(expected.logprob([LONG])), abs=1e-5)


def test_local_attention_is_the_models_own() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = GPTNeoForCausalLM(
            GPTNeoConfig(
                vocab_size=320, hidden_size=32, num_layers=2, num_heads=4, window_size=16,
                attention_types=[[["global", "local"], 1]], max_position_embeddings=128,
            )
        ).eval()  # fmt: skip
    prompt = "The movie review in positive sentiment is not the question; it was dull."  # longer than the window
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    model.generation_config.eos_token_id = 0
    plm = Plm(model, byte_tokenizer())
    ids = torch.tensor([plm.encode(prompt)])
    expected = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).mean().item()
    assert dict(plm.logprob([prompt, "short"]))[0] == pytest.approx(expected, abs=1e-4)
    found = plm.generate(requests([prompt, "A"]), DecodingConfig(top_k=1), NEVER, 20, seed=0)
    for row, text in zip(found, (prompt, "A"), strict=True):
        ids = torch.tensor([plm.encode(text)])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, pad_token_id=0,
            use_cache=False,
        )  # fmt: skip
        assert row.text == plm.decode(out[0, ids.shape[1] :].tolist())


def debiased(p: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Self-debiasing with a decay of 50, written out after the formula."""
    q = others.max(0).values
    return p * torch.maximum(torch.exp(-50 * (q - p).clamp(min=0)), torch.tensor(0.01, dtype=torch.float64))


def contrasted(p: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Contrast with a guidance of 2 and a floor of 0.01, written out after the formula."""
    return torch.where(p >= 0.01 * p.max(), others.mean(0) * (p / others.mean(0)) ** 2, 0)


@torch.inference_mode()
def by_hand(
    plm: Plm, prompts: Sequence[str], formula: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], tokens: int
) -> tuple[str, list[float]]:
    """Greedy decoding of one row with counter-prompts, token by token from whole forwards."""
    model = causal_model(plm.name)
    rows = [plm.encode(prompt) for prompt in prompts]
    written: list[int] = []
    sums = [0.0] * len(rows)
    for _ in range(tokens):
        distributions = [model(torch.tensor([[*row, *written]])).logits[0, -1].double().softmax(-1) for row in rows]
        token = int(formula(distributions[0], torch.stack(distributions[1:])).argmax())
        sums = [total + float(d[token].log()) for total, d in zip(sums, distributions, strict=True)]
        written.append(token)
        if token in plm.eos:
            break
    return plm.decode(written), [total / len(written) for total in sums]


@pytest.mark.parametrize("slots", [1, 4, 40])
def test_self_debiasing_follows_the_formula_for_every_row(plm: Plm, slots: int) -> None:
    counters = [["The movie", "A bad film"], ["No."], ["x" * 12, "Is this"], [], ["Movie", "The"]]
    asked = [
        Request(str(i), PROMPTS[i], counters={str(k): text for k, text in enumerate(counters[i % 5])}) for i in range(9)
    ]
    decoding = DecodingConfig(top_k=1, batch_size=slots)
    found = plm.generate(asked, decoding, NEVER, 12, seed=0, debias=DebiasConfig(decay=50))
    plain = plm.generate(asked, decoding, NEVER, 12, seed=0)
    for request, row in zip(asked, found, strict=True):
        prompts = [request.prompt, *request.counters.values()]
        text, scores = by_hand(plm, prompts if request.counters else prompts * 2, debiased, 12)
        assert row.text == text
        assert row.logprob == pytest.approx(scores[0], abs=1e-4)
        assert list(row.counter_logprob) == list(request.counters)
        assert list(row.counter_logprob.values()) == pytest.approx(scores[1 : 1 + len(request.counters)], abs=1e-4)
    assert [row.text for row in found] != [row.text for row in plain]


@pytest.mark.parametrize("slots", [1, 40])
@pytest.mark.parametrize("count", [1, 2])
def test_contrast_follows_the_formula_for_every_row(plm: Plm, count: int, slots: int) -> None:
    counters = [["The movie", "A bad film"], ["No.", "Yes"], ["x" * 12, "Is this"]]
    asked = [
        Request(str(i), PROMPTS[i], counters={str(k): text for k, text in enumerate(counters[i % 3][:count])})
        for i in range(9)
    ]
    decoding, contrast = DecodingConfig(top_k=1, batch_size=slots), ContrastConfig(2.0, 0.01)
    found = plm.generate(asked, decoding, NEVER, 12, seed=0, debias=contrast)
    for request, row in zip(asked, found, strict=True):
        text, scores = by_hand(plm, [request.prompt, *request.counters.values()], contrasted, 12)
        assert row.text == text
        assert row.logprob == pytest.approx(scores[0], abs=1e-4)
        assert list(row.counter_logprob.values()) == pytest.approx(scores[1:], abs=1e-4)
    assert [row.text for row in found] != [row.text for row in plm.generate(asked, decoding, NEVER, 12, seed=0)]


def test_contrast_refuses_requests_of_which_some_have_more_to_contrast_with(gpt2: Plm) -> None:
    asked = [Request("0", "A", counters={"a": "B", "b": "C"}), Request("1", "A", counters={"a": "B"})]
    with pytest.raises(ValueError, match="same number of counter-prompts"):
        gpt2.generate(asked, DecodingConfig(), NEVER, 4, seed=0, debias=ContrastConfig(2.0))


def test_counter_prompts_without_decay_only_score(gpt2: Plm) -> None:
    asked = [Request("0", PROMPTS[1], counters={"other": PROMPTS[3]})]
    alone = gpt2.generate(requests(PROMPTS[1:2]), DecodingConfig(), NEVER, 12, seed=4)[0]
    found = gpt2.generate(asked, DecodingConfig(), NEVER, 12, seed=4)[0]
    assert found.text == alone.text
    assert found.logprob is not None and found.counter_logprob["other"] < found.logprob


def test_common_beginnings_are_grouped_so_that_fewest_tokens_are_left() -> None:
    rows = [[1, 2, 3, 9], [1, 2, 3, 8, 8], [1, 2, 4, 7, 7], [1, 2, 4, 7, 6], [1, 2, 4, 7], [5, 5], [5, 5]]
    groups = shared_prefixes(rows)
    assert sorted((length, sorted(members)) for length, members in groups) == [(1, [5, 6]), (3, [0, 1]), (3, [2, 3, 4])]
    assert shared_prefixes([]) == []
    assert shared_prefixes([[1, 2, 3]]) == [(2, [0])]


@every_fast_family
@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_what_is_shared_does_not_change_a_score(plm: Plm, batch_tokens: int) -> None:
    ends = ["", "good", "good and bad", "The end. " * 4, "q", "good"]
    texts = [f'The movie review in {label} sentiment is: "{end}"' for label in ("bad", "good") for end in ends]
    model = causal_model(plm.name)
    expected = []
    for text in texts:
        ids = torch.tensor([plm.encode(text)])
        logp = model(ids).logits[0, :-1].log_softmax(-1)
        expected.append(logp.gather(-1, ids[0, 1:, None]).mean().item())
    found = dict(plm.logprob(texts, batch_tokens))
    assert [found[i] for i in range(len(texts))] == pytest.approx(expected, abs=1e-5)


def test_a_model_that_scales_its_logits_is_not_cut_in_halves() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = GraniteConfig(
            vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, logits_scaling=4.0,
        )  # fmt: skip
        model = GraniteForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    plm = Plm(model, byte_tokenizer())
    assert plm.cached
    assert not plm.network.halved
    with torch.inference_mode():
        rows = [[5, 6, 7], [8]]
        assert plm.network.read(rows).shape == (2, 3, 320)
        torch.testing.assert_close(plm.network.read_last(rows), plm.network.read(rows)[[0, 1], [2, 0]])
        seen: list[torch.Size] = []
        model.lm_head.register_forward_hook(lambda head, given, made: seen.append(made.shape))
        plm.network.read_last(rows)
    assert seen == [(2, 1, 320)]
    text = "The movie review in positive sentiment"
    ids = torch.tensor([plm.encode(text)])
    logits = model(ids).logits[0, :-1]
    expected = logits.log_softmax(-1).gather(-1, ids[0, 1:, None]).mean().item()
    assert dict(plm.logprob([text, "short"]))[0] == pytest.approx(expected, abs=1e-5)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, pad_token_id=0)
    found = plm.generate(requests([text, "A"]), DecodingConfig(top_k=1), NEVER, 8, seed=0)[0]
    assert found.text == plm.decode(out[0, ids.shape[1] :].tolist())


def test_long_rows_are_decoded_a_few_at_a_time(gpt2: Plm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of the rows under way take an eighth of the memory at most."""
    config = gpt2.network.config
    a_token = 2 * 4 * config.num_hidden_layers * config.hidden_size  # keys and values in float32
    monkeypatch.setattr("zerogen.plm.model.usable_memory", lambda: 8 * 100 * 50 * a_token)
    assert gpt2.rows_at_a_time(DecodingConfig(), 100) == 50
    assert gpt2.rows_at_a_time(DecodingConfig(), 10) == 192
    assert gpt2.rows_at_a_time(DecodingConfig(), 100_000) == 1
    assert gpt2.rows_at_a_time(DecodingConfig(batch_size=7), 100) == 7
