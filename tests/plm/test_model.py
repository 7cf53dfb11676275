"""Generation and scoring are exact whatever the batch looks like."""

from collections.abc import Sequence

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

from tests.conftest import byte_tokenizer, causal_model
from zerogen.config import DecodingConfig
from zerogen.plm.model import Plm
from zerogen.plm.pack import Float32Head, PackedLinear, pack_linears
from zerogen.plm.sampling import Sampler
from zerogen.records import Request, Stop

PROMPTS = ["A", "The movie review", 'Movie: "', "Is this the question", "The", "x" * 20, "The movie", 'Movie: "', "No."]
NEVER = [Stop("\x00never\x00")]


def requests(prompts: Sequence[str]) -> list[Request]:
    return [Request(str(i), prompt) for i, prompt in enumerate(prompts)]


def greedy_by_transformers(plm: Plm, prompt: str, tokens: int) -> str:
    """One row at a time, without padding, by transformers' own loop and attention."""
    model = causal_model(plm.model.config.model_type)
    ids = torch.tensor([plm.encode(prompt)])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=0
    )
    return plm.decode(out[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_greedy_decoding_equals_generate_token_by_token(plm: Plm, slots: int) -> None:
    assert plm.cached
    decoding = DecodingConfig(top_k=1, batch_size=slots)
    found = plm.generate(requests(PROMPTS), decoding, NEVER, 20, seed=0)
    assert [row.text for row in found] == [greedy_by_transformers(plm, prompt, 20) for prompt in PROMPTS]


def test_a_model_outside_the_attention_interface_is_decoded_without_a_cache() -> None:
    plm = Plm(causal_model("bloom"), byte_tokenizer())
    assert not plm.cached
    found = plm.generate(requests(PROMPTS), DecodingConfig(top_k=1, batch_size=4), NEVER, 12, seed=0)
    assert [row.text for row in found] == [greedy_by_transformers(plm, prompt, 12) for prompt in PROMPTS]


def test_sampling_depends_on_the_seed_alone(plm: Plm) -> None:
    torch.manual_seed(1)
    first = plm.generate(requests(PROMPTS), DecodingConfig(batch_size=4), NEVER, 20, seed=5)
    torch.manual_seed(2)
    assert first == plm.generate(requests(PROMPTS), DecodingConfig(batch_size=4), NEVER, 20, seed=5)
    assert first != plm.generate(requests(PROMPTS), DecodingConfig(batch_size=4), NEVER, 20, seed=6)


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
        assert cut.finish == "stop"
        assert cut.text == row.text[: place + 2 * keep]
        assert cut.tokens <= row.tokens
        checked += 1
    assert checked >= 3


def test_end_of_text_ends_a_row(gpt2: Plm) -> None:
    whole = gpt2.generate(requests(PROMPTS[:1]), DecodingConfig(top_k=1), NEVER, 20, seed=0)[0]
    second = gpt2.encode(whole.text)
    gpt2.eos.add(next(token for token in second[1:] if token != second[0]))
    cut = gpt2.generate(requests(PROMPTS[:1]), DecodingConfig(top_k=1), NEVER, 20, seed=0)[0]
    assert cut.finish == "eos"
    assert cut.tokens < whole.tokens


def test_the_logprob_of_a_continuation_is_its_mean_token_logprob(plm: Plm) -> None:
    prompt = "The movie"
    row = plm.generate(requests([prompt]), DecodingConfig(), NEVER, 10, seed=3)[0]
    assert row.finish == "length"
    # Sampled ids need not be what the tokenizer makes of their text: compare with the ids themselves.
    expected = []
    ids = plm.encode(prompt)
    engine_free = causal_model(plm.model.config.model_type)
    generator = torch.Generator().manual_seed(3)
    for _ in range(row.tokens):
        logits = engine_free(torch.tensor([ids])).logits[:, -1]
        token, _ = Sampler(0.9)(logits, generator)
        expected.append(logits.log_softmax(-1)[0, token].item())
        ids.append(int(token))
    assert row.logprob == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_a_prompt_that_leaves_no_room_is_refused(gpt2: Plm) -> None:
    with pytest.raises(ValueError, match="128 positions"):
        gpt2.generate(requests(["x" * 120]), DecodingConfig(), NEVER, 20, seed=0)


def test_padding_does_not_change_a_score(plm: Plm) -> None:
    texts = [prompt for prompt in PROMPTS if len(plm.encode(prompt)) > 1]
    together = dict(plm.logprob(texts, batch_tokens=4096))
    alone = [next(iter(plm.logprob([text])))[1] for text in texts]
    assert [together[i] for i in range(len(texts))] == pytest.approx(alone, abs=1e-5)


def test_a_score_is_the_mean_token_logprob_by_the_models_own_forward(plm: Plm) -> None:
    text = 'The movie review in positive sentiment is: "<|endoftext|>"'  # padding's id is a real token here
    ids = torch.tensor([plm.encode(text)])
    assert 0 in ids[0, 1:]
    logp = causal_model(plm.model.config.model_type)(ids).logits[0, :-1].log_softmax(-1)
    expected = logp.gather(-1, ids[0, 1:, None]).mean().item()
    assert dict(plm.logprob([text, text + " and more words"]))[0] == pytest.approx(expected, abs=1e-5)


def test_a_text_of_one_token_cannot_be_scored(gpt2: Plm) -> None:
    with pytest.raises(ValueError, match="cannot score"):
        list(gpt2.logprob(["A"]))


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16")
def test_packed_weights_give_the_same_product() -> None:
    linear = torch.nn.Linear(64, 96).bfloat16()
    holder = torch.nn.Sequential(linear)
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        expected = {rows: linear(x[:rows]) for rows in (1, 7, 64, 500)}
        pack_linears(holder, None)
        assert isinstance(holder[0], PackedLinear)
        for rows, product in expected.items():
            torch.testing.assert_close(holder(x[:rows]), product, atol=0.02, rtol=0.02)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16")
@pytest.mark.parametrize("bias", [False, True])
def test_logits_of_a_packed_model_are_not_rounded(bias: bool) -> None:
    head = torch.nn.Linear(64, 96, bias=bias).bfloat16()
    holder = torch.nn.Sequential(head)
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = torch.nn.functional.linear(x.double(), head.weight.double(), head.bias.double() if bias else None)
    with torch.inference_mode():
        pack_linears(holder, head)
        assert isinstance(holder[0], Float32Head)
        for rows in (1, 7, 64, 500):
            logits = holder(x[:rows])
            assert logits.dtype == torch.float32
            torch.testing.assert_close(logits.double(), expected[:rows], atol=1e-5, rtol=1e-5)


def test_sliding_windows_and_soft_caps_are_the_models_own() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        common = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        common |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
        mistral = MistralForCausalLM(MistralConfig(**common, sliding_window=8)).eval()
        capped = Gemma2ForCausalLM(Gemma2Config(**common, head_dim=8, attn_logit_softcapping=5.0)).eval()
    prompt = "The movie review in positive sentiment"  # longer than the window
    for model in (mistral, capped):
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
        model.generation_config.eos_token_id = 0
        plm = Plm(model, byte_tokenizer())
        ids = torch.tensor([plm.encode(prompt)])
        expected = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).mean().item()
        assert dict(plm.logprob([prompt, "short"]))[0] == pytest.approx(expected, abs=1e-4)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, pad_token_id=0, use_cache=False
        )
        found = plm.generate(requests([prompt, "A"]), DecodingConfig(top_k=1), NEVER, 8, seed=0)[0]
        assert found.text == plm.decode(out[0, ids.shape[1] :].tolist())
