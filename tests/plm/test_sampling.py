"""The fast sampler draws from the same distribution as the sorted one."""

import pytest
import torch

from zerogen.plm.contrast import Contrast
from zerogen.plm.debias import SelfDebiasing
from zerogen.plm.rng import fold_in, uniform
from zerogen.plm.sampling import Sampler, _propose, nucleus, nucleus_probabilities, sorted_nucleus

VOCABULARY = 1000
DRAWS = 40_000


def logits_of(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "peaked":
        return torch.randn(VOCABULARY, generator=generator) * 4
    if kind == "flat":
        return torch.randn(VOCABULARY, generator=generator) * 0.1
    if kind == "tied":  # the border of the nucleus falls into a run of equal tokens
        return torch.log(torch.tensor([0.4, *[0.1] * 6, *[1e-9] * (VOCABULARY - 7)]))
    return torch.zeros(VOCABULARY)  # all equal


def keys_of(seed: int, count: int = DRAWS) -> torch.Tensor:
    return fold_in(torch.full((count,), seed), torch.arange(count))


def total_variation(tokens: torch.Tensor, expected: torch.Tensor) -> float:
    found = torch.bincount(tokens, minlength=VOCABULARY).double() / len(tokens)
    return float((found - expected).abs().sum() / 2)


def noise(expected: torch.Tensor) -> float:
    """Total variation that an exact sampler stays below: half the summed standard deviations, and a margin."""
    return float((expected * (1 - expected) / DRAWS).sqrt().sum() / 2) * 1.25 + 0.005


@pytest.mark.parametrize("kind", ["peaked", "flat", "tied", "equal"])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_nucleus_has_the_reference_distribution(kind: str, top_p: float) -> None:
    logits = logits_of(kind)
    expected = nucleus_probabilities(logits[None], top_p)[0]
    tokens, logprobs = nucleus(logits.expand(DRAWS, -1), top_p, keys_of(1))
    assert total_variation(tokens, expected) < noise(expected)
    assert torch.all(expected[tokens] > 0)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[tokens], atol=1e-4, rtol=0)


def test_the_bound_catches_a_wrong_sampler() -> None:
    logits = logits_of("peaked")
    expected = nucleus_probabilities(logits[None], 0.9)[0]
    untruncated, _ = nucleus(logits.expand(DRAWS, -1), 1.0, keys_of(1))
    assert total_variation(untruncated, expected) > noise(expected)


def test_tokens_tied_with_the_last_one_kept_are_all_kept() -> None:
    kept = nucleus_probabilities(logits_of("tied")[None], 0.5)[0] > 0
    assert kept.nonzero().squeeze().tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_tiny_nucleus_falls_back_to_sorting() -> None:
    logits = logits_of("flat")
    tokens, _ = nucleus(logits.expand(64, -1), 1e-6, keys_of(1, 64))
    assert set(tokens.tolist()) == {int(logits.argmax())}


def test_sorted_nucleus_agrees_with_its_probabilities() -> None:
    logits = logits_of("peaked")
    expected = nucleus_probabilities(logits[None], 0.9)[0]
    tokens = sorted_nucleus(logits.expand(DRAWS, -1), 0.9, keys_of(2))
    assert total_variation(tokens, expected) < noise(expected)


def test_top_k_and_temperature() -> None:
    logits = logits_of("peaked")
    expected = (logits / 2).double()
    expected[expected < expected.topk(5).values[-1]] = -torch.inf
    tokens, logprobs = Sampler(top_k=5, temperature=2.0)(logits.expand(DRAWS, 1, -1), keys_of(1))
    assert total_variation(tokens, expected.softmax(-1)) < noise(expected.softmax(-1))
    torch.testing.assert_close(logprobs[:, 0], logits.log_softmax(-1)[tokens], atol=1e-4, rtol=0)


def test_greedy_takes_the_most_probable_token() -> None:
    logits = torch.stack([logits_of("peaked"), logits_of("flat")])
    tokens, logprobs = Sampler(top_k=1)(logits[:, None], keys_of(0, 2))
    assert tokens.tolist() == logits.argmax(-1).tolist()
    torch.testing.assert_close(logprobs[:, 0], logits.log_softmax(-1).amax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampler", [Sampler(top_p=0.9), Sampler(top_k=1), Sampler(top_k=3, temperature=0.5)])
def test_a_nan_is_an_error(sampler: Sampler) -> None:
    logits = torch.zeros(2, VOCABULARY)
    logits[1, 3] = torch.nan
    with pytest.raises(FloatingPointError):
        sampler(logits[:, None], keys_of(0, 2))


@pytest.mark.parametrize("top_k", [0, 1])
@pytest.mark.parametrize("line", [0, 1])
def test_a_nan_in_a_contrast_is_an_error(top_k: int, line: int) -> None:
    logits = torch.zeros(2, 2, VOCABULARY)
    logits[1, line, 3] = torch.nan
    with pytest.raises(FloatingPointError):
        Sampler(0.9, top_k, debias=Contrast(2.0))(logits, keys_of(0, 2))


@pytest.mark.parametrize("top_k", [0, 1])
def test_what_is_no_number_in_a_contrast_is_an_error_though_no_logit_is_one(top_k: int) -> None:
    logits = torch.zeros(2, 2, VOCABULARY)
    logits[1, 1, 3] = -torch.inf  # all that is left of a token which no counter-prompt allows is an infinite weight
    keys, sampler = keys_of(0, 2), Sampler(0.9, top_k, debias=Contrast(2.0))
    with pytest.raises(FloatingPointError):
        sampler(logits, keys)
    _, logprobs, _ = sampler.attempt(logits, keys, torch.zeros(2, dtype=torch.long))
    assert logprobs.isnan().any(-1).tolist() == [False, True]


@pytest.mark.parametrize("top_k", [0, 1])
def test_a_token_that_no_prompt_allows_is_not_drawn_by_a_contrast(top_k: int) -> None:
    logits = torch.zeros(500, 2, 5)
    logits[:, :, 3:] = -torch.inf
    tokens, logprobs = Sampler(1.0, top_k, debias=Contrast(2.0, 0.0))(logits, keys_of(0, 500))
    assert set(tokens.tolist()) == ({0, 1, 2} if not top_k else {0})
    assert logprobs.isfinite().all()


def test_a_tiny_temperature_is_greedy() -> None:
    logits = logits_of("peaked").expand(20, 1, -1) * 10
    tokens, _ = Sampler(temperature=1e-38)(logits, keys_of(0, 20))
    assert set(tokens.tolist()) == {int(logits[0].argmax())}


def test_a_draw_depends_on_its_logits_and_key_alone() -> None:
    logits = torch.cat([logits_of("flat").expand(30, -1), logits_of("peaked").expand(30, -1)])
    torch.manual_seed(1)
    together, logprobs = nucleus(logits, 0.3, keys_of(5, 60))
    torch.manual_seed(2)
    for i in range(60):
        token, logprob = nucleus(logits[i : i + 1], 0.3, keys_of(5, 60)[i : i + 1])
        assert (token, logprob) == (together[i], logprobs[i])


@pytest.mark.parametrize("size", [768, VOCABULARY])  # whole blocks, and some tokens more
@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
def test_draws_are_the_same_in_the_memory_of_the_logits(size: int, top_p: float) -> None:
    logits = torch.stack([logits_of(kind)[:size] for kind in ("peaked", "flat", "tied", "equal")]).repeat(20, 1)
    kept, keys = logits.clone(), keys_of(7, len(logits))
    expected = nucleus(logits, top_p, keys)
    assert torch.equal(logits, kept)
    for found, wanted in zip(nucleus(logits, top_p, keys, overwrite=True), expected, strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(logits, kept) == (size == VOCABULARY)


def expected_scores(effect: SelfDebiasing | Contrast, p: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The formula, written out: p [V] after a prompt, others [K, V] after its counter-prompts, all in float64."""
    if isinstance(effect, SelfDebiasing):
        return (p * (-effect.decay * (others.amax(0) - p).clamp(min=0)).exp().clamp(min=0.01)).log()
    scores = others.mean(0) * (p / others.mean(0)) ** effect.guidance
    return torch.where(p < effect.floor * p.max(), 0.0, scores).log()


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(0.9, debias=SelfDebiasing(20.0)),
        Sampler(1.0, 3, 0.7, SelfDebiasing(5.0)),
        Sampler(0.9, debias=Contrast(1.5)),
        Sampler(1.0, debias=Contrast(3.0, 0.01)),
        Sampler(1.0, debias=Contrast(0.5, 0.0)),
        Sampler(1.0, 3, 0.7, Contrast(2.0, 0.1)),
    ],
)
def test_a_draw_with_counter_prompts_has_the_distribution_of_the_formula(sampler: Sampler) -> None:
    noisy = torch.randn(2, VOCABULARY, generator=torch.Generator().manual_seed(3))
    logits = torch.stack([logits_of("peaked"), *(logits_of("peaked") + noisy)])
    p, *others = logits.double().softmax(-1)
    scores = expected_scores(sampler.debias, p, torch.stack(others)) / sampler.temperature
    if sampler.top_k:
        scores[scores < scores.topk(sampler.top_k).values[-1]] = -torch.inf
    expected = nucleus_probabilities(scores[None], sampler.top_p)[0]
    tokens, logprobs = sampler(logits.expand(DRAWS, -1, -1), keys_of(1))
    assert total_variation(tokens, expected) < noise(expected)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[:, tokens].T, atol=1e-4, rtol=0)
    biased, _ = Sampler(sampler.top_p, sampler.top_k, sampler.temperature)(logits[:1].expand(DRAWS, 1, -1), keys_of(1))
    assert total_variation(biased, expected) > noise(expected)


@pytest.mark.parametrize("counters", [1, 2])
@pytest.mark.parametrize("guidance", [0.0, 0.7, 1.5, 20.0])
@pytest.mark.parametrize("floor", [0.0, 0.001, 0.5])
def test_a_contrast_is_that_of_the_formula(counters: int, guidance: float, floor: float) -> None:
    logits = torch.randn(20, 1 + counters, VOCABULARY, generator=torch.Generator().manual_seed(5)) * 3
    found = Contrast(guidance, floor)(logits).double().softmax(-1)
    for row, (p, *others) in zip(found, logits.double().softmax(-1), strict=True):
        expected = expected_scores(Contrast(guidance, floor), p, torch.stack(others)).softmax(-1)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-3)
        assert torch.equal(row > 0, p >= floor * p.max()) or guidance == 20  # whose least probable tokens underflow


def test_a_guidance_of_1_is_off_to_the_last_bit() -> None:
    logits = torch.randn(50, 3, VOCABULARY, generator=torch.Generator().manual_seed(5)) * 3
    off = SelfDebiasing()(logits)
    assert torch.equal(Contrast(1.0, 0.5)(logits), off)
    assert torch.equal(Contrast(3.0)(logits[:, :1]), off)  # and there is nothing to contrast with
    assert not torch.equal(Contrast(1.01)(logits), off)


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(0.4),
        Sampler(0.9),
        Sampler(1.0),
        Sampler(top_k=1),
        Sampler(0.8, 3, 0.5, SelfDebiasing(20.0)),
        Sampler(0.8, debias=Contrast(2.0, 0.1)),
    ],
)
def test_attempts_end_in_the_draw_of_a_call(sampler: Sampler) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(400, 1 if sampler.debias == SelfDebiasing() else 3, VOCABULARY, generator=generator) * 3
    keys = keys_of(4, 400)
    expected, expected_logprobs = sampler(logits, keys)
    tries = torch.zeros(400, dtype=torch.long)
    tokens, logprobs, settled = sampler.attempt(logits, keys, tries)
    assert settled.float().mean() > 0.95
    for _ in range(8):
        tries += sampler.draws(torch.device("cpu"))
        again, more, now = sampler.attempt(logits, keys, tries)
        tokens, logprobs = torch.where(settled, tokens, again), torch.where(settled[:, None], logprobs, more)
        settled |= now
    assert settled.all()
    assert torch.equal(tokens, expected)
    torch.testing.assert_close(logprobs, expected_logprobs)


def test_half_precision_logits_are_not_rounded_again() -> None:
    logits = logits_of("peaked").bfloat16()
    expected = nucleus_probabilities(logits[None], 0.9)[0]
    both = [nucleus(rows.expand(DRAWS, -1), 0.9, keys_of(1)) for rows in (logits, logits.float())]
    assert torch.equal(both[0][0], both[1][0])
    assert torch.equal(both[0][1], both[1][1])
    assert total_variation(both[0][0], expected) < noise(expected)


def test_a_token_without_weight_is_not_drawn() -> None:
    """Not even where rounding takes a draw to the end of a block, which holds tokens of no weight."""
    last = torch.full((1, 1), 1 - 2.0**-53, dtype=torch.float64)
    drawn = []
    for seed in range(200):
        logits = torch.full((1, 300), -200.0)
        logits[:, :200] = torch.randn(200, generator=torch.Generator().manual_seed(seed))
        token, logprob, inside = _propose(logits, 1.0, last)
        drawn.append(bool(inside))
        assert not inside or (token < 200 and logprob > -20)
    assert 0 < sum(drawn) < 200


def test_a_tiny_nucleus_is_not_left_to_attempts() -> None:
    assert [Sampler(top_p).settles for top_p in (1.0, 0.9, 0.4, 0.3, 0.01)] == [True, True, True, False, False]
    assert Sampler(0.01, top_k=1).settles


def test_draws_are_uniform_and_independent_of_their_neighbours() -> None:
    rows, tokens = torch.arange(400)[:, None], torch.arange(400)
    for seed in (0, 1, (1 << 62) + 12345):
        keys = fold_in(fold_in(torch.full((400, 1), seed), rows), tokens)
        drawn = uniform(keys)
        assert len(keys.unique()) == keys.numel()
        assert drawn.min() >= 0
        assert drawn.max() < 1
        counts = torch.bincount((drawn.flatten() * 100).long(), minlength=100).double()
        assert float(((counts - 1600) ** 2 / 1600).sum()) < 160  # chi-squared, 99 degrees of freedom: p = 1e-4
        bits = drawn - 0.5
        pairs = [(bits[1:], bits[:-1]), (bits[:, 1:], bits[:, :-1]), (bits, uniform(fold_in(keys, 1)) - 0.5)]
        for a, b in [*pairs, (bits, uniform(fold_in(fold_in(torch.full((400, 1), seed + 1), rows), tokens)) - 0.5)]:
            assert abs(float((a * b).mean()) * 12) < 4.5 / a.numel() ** 0.5  # correlation, in standard deviations
