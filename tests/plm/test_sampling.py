"""The fast sampler draws from the same distribution as the sorted one."""

import pytest
import torch

from zerogen.plm.debias import SelfDebiasing
from zerogen.plm.sampling import Sampler, nucleus, nucleus_probabilities, sorted_nucleus

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
    tokens, logprobs = nucleus(logits.expand(DRAWS, -1), top_p, torch.Generator().manual_seed(1))
    assert total_variation(tokens, expected) < noise(expected)
    assert torch.all(expected[tokens] > 0)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[tokens], atol=1e-4, rtol=0)


def test_the_bound_catches_a_wrong_sampler() -> None:
    logits = logits_of("peaked")
    expected = nucleus_probabilities(logits[None], 0.9)[0]
    untruncated, _ = nucleus(logits.expand(DRAWS, -1), 1.0, torch.Generator().manual_seed(1))
    assert total_variation(untruncated, expected) > noise(expected)


def test_tokens_tied_with_the_last_one_kept_are_all_kept() -> None:
    kept = nucleus_probabilities(logits_of("tied")[None], 0.5)[0] > 0
    assert kept.nonzero().squeeze().tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_tiny_nucleus_falls_back_to_sorting() -> None:
    logits = logits_of("flat")
    tokens, _ = nucleus(logits.expand(64, -1), 1e-6, torch.Generator().manual_seed(1))
    assert set(tokens.tolist()) == {int(logits.argmax())}


def test_sorted_nucleus_agrees_with_its_probabilities() -> None:
    logits = logits_of("peaked")
    expected = nucleus_probabilities(logits[None], 0.9)[0]
    tokens = sorted_nucleus(logits.expand(DRAWS, -1), 0.9, torch.Generator().manual_seed(2))
    assert total_variation(tokens, expected) < noise(expected)


def test_top_k_and_temperature() -> None:
    logits = logits_of("peaked")
    expected = (logits / 2).double()
    expected[expected < expected.topk(5).values[-1]] = -torch.inf
    tokens, logprobs = Sampler(top_k=5, temperature=2.0)(logits.expand(DRAWS, 1, -1), torch.Generator().manual_seed(1))
    assert total_variation(tokens, expected.softmax(-1)) < noise(expected.softmax(-1))
    torch.testing.assert_close(logprobs[:, 0], logits.log_softmax(-1)[tokens], atol=1e-4, rtol=0)


def test_greedy_takes_the_most_probable_token() -> None:
    logits = torch.stack([logits_of("peaked"), logits_of("flat")])
    tokens, logprobs = Sampler(top_k=1)(logits[:, None], torch.Generator())
    assert tokens.tolist() == logits.argmax(-1).tolist()
    torch.testing.assert_close(logprobs[:, 0], logits.log_softmax(-1).amax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampler", [Sampler(top_p=0.9), Sampler(top_k=1), Sampler(top_k=3, temperature=0.5)])
def test_a_nan_is_an_error(sampler: Sampler) -> None:
    logits = torch.zeros(2, VOCABULARY)
    logits[1, 3] = torch.nan
    with pytest.raises(FloatingPointError):
        sampler(logits[:, None], torch.Generator())


def test_draws_depend_on_the_generator_alone() -> None:
    logits = logits_of("flat").expand(50, -1)
    torch.manual_seed(1)
    first, _ = nucleus(logits, 0.9, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    second, _ = nucleus(logits, 0.9, torch.Generator().manual_seed(5))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "sampler", [Sampler(0.9, debias=SelfDebiasing(20.0)), Sampler(1.0, 3, 0.7, SelfDebiasing(5.0))]
)
def test_a_debiased_draw_has_the_distribution_of_the_formula(sampler: Sampler) -> None:
    noisy = torch.randn(2, VOCABULARY, generator=torch.Generator().manual_seed(3))
    logits = torch.stack([logits_of("peaked"), *(logits_of("peaked") + noisy)])
    p, *others = logits.double().softmax(-1)
    wanted = (torch.stack(others).amax(0) - p).clamp(min=0)
    scores = (p * (-sampler.debias.decay * wanted).exp().clamp(min=0.01)).log() / sampler.temperature
    if sampler.top_k:
        scores[scores < scores.topk(sampler.top_k).values[-1]] = -torch.inf
    expected = nucleus_probabilities(scores[None], sampler.top_p)[0]
    tokens, logprobs = sampler(logits.expand(DRAWS, -1, -1), torch.Generator().manual_seed(1))
    assert total_variation(tokens, expected) < noise(expected)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[:, tokens].T, atol=1e-4, rtol=0)
    biased, _ = Sampler(sampler.top_p, sampler.top_k, sampler.temperature)(
        logits[:1].expand(DRAWS, 1, -1), torch.Generator().manual_seed(1)
    )
    assert total_variation(biased, expected) > noise(expected)
