"""Teachers are combined on one scale, and the surest texts are taken in the proportions of the priors."""

from collections import Counter

import numpy as np
import pytest

from zerogen.metrics.pseudo_labels import agreement, combined, surest


def teacher(truth: np.ndarray, noise: float, scale: float, bias: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    odds = scale * (np.where(truth, 1.0, -1.0) + noise * random.normal(size=len(truth))) + bias
    return np.stack([-odds / 2, odds / 2], axis=1)


def test_teachers_that_err_differently_are_right_more_often_together() -> None:
    truth = np.arange(4000) % 2 == 1
    one, other = teacher(truth, 1.5, 1.0, 2.0, seed=1), teacher(truth, 1.5, 0.01, -0.05, seed=2)
    single = [(combined([scores], [0.5, 0.5]).argmax(1) == truth).mean() for scores in (one, other)]
    both = (combined([one, other], [0.5, 0.5]).argmax(1) == truth).mean()
    assert both > max(single) + 0.03


def test_a_teachers_scale_and_bias_change_nothing() -> None:
    truth = np.arange(500) % 2 == 1
    plain, other = teacher(truth, 1.0, 1.0, 0.0, seed=3), teacher(truth, 1.0, 1.0, 0.0, seed=4)
    changed = 50 * plain + [3.0, -3.0]
    assert combined([changed, other], [0.5, 0.5]) == pytest.approx(combined([plain, other], [0.5, 0.5]), abs=0.02)


@pytest.mark.parametrize("priors", [[0.5, 0.5], [0.8, 0.2], [0.5, 0.3, 0.2]])
def test_the_surest_texts_are_chosen_by_label(priors: list[float]) -> None:
    scores = np.random.default_rng(5).normal(size=(1000, len(priors)))
    scores = combined([scores], priors)
    chosen = surest(scores, priors, 0.4)
    counts = Counter(label for _, label in chosen)
    assert [counts[label] for label in range(len(priors))] == pytest.approx([400 * prior for prior in priors], abs=1)
    assert len({text for text, _ in chosen}) == len(chosen)
    taken = dict(chosen)
    for label in range(len(priors)):
        leads = {
            text: row[label] - np.delete(row, label).max() for text, row in enumerate(scores) if row.argmax() == label
        }
        inside = min(leads[text] for text in leads if text in taken)
        assert inside >= max((leads[text] for text in leads if text not in taken), default=inside)


def test_a_teacher_that_says_nothing_is_harmless() -> None:
    truth = np.arange(100) % 2 == 1
    silent = np.zeros((100, 2))
    assert np.isfinite(combined([silent, teacher(truth, 1.0, 1.0, 0.0, seed=6)], [0.5, 0.5])).all()


def test_agreement_is_with_a_teacher_as_it_teaches() -> None:
    truth, half = np.arange(4000) % 2 == 1, [0.5, 0.5]
    learned, other = teacher(truth, 1.0, 1.0, 0.0, seed=5), teacher(truth, 1.5, 1.0, 0.0, seed=6)
    assert agreement(learned, learned, half) == pytest.approx(1, abs=0.05)
    share = agreement(learned, other, half)
    assert agreement(learned, other + np.array([5.0, -5.0]), half) == share  # it is shifted to the priors first
    assert share == pytest.approx((learned.argmax(1) == other.argmax(1)).mean(), abs=0.03)  # balanced already
    assert 0.5 < share < 1
