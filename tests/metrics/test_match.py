"""How synthetic texts differ from real ones."""

from collections import Counter
from random import Random

import numpy as np
import pytest

from zerogen.metrics.match import (
    MOST,
    area,
    energy_distance,
    match_vectors,
    match_words,
    samples,
    shared,
    telling,
    told_apart,
)


def gaussian(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, width))
    vectors[:, 0] += shift
    return vectors


def test_as_many_of_each_side_are_drawn_by_the_seed() -> None:
    synthetic, real = [f"s{i}" for i in range(300)], [f"r{i}" for i in range(70)]
    ours, theirs = samples(synthetic, real, 1)
    assert len(ours) == 70 and theirs == real
    assert ours == sorted(ours, key=synthetic.index) and set(ours) < set(synthetic)
    assert samples(synthetic, real, 1)[0] == ours != samples(synthetic, real, 2)[0]
    many = [str(i) for i in range(MOST + 500)]
    assert [len(side) for side in samples(many, many, 1)] == [MOST, MOST]


def test_lengths_and_words_of_both_sides() -> None:
    found = match_words(["A good film!", "good, good"], ["a bad film of theirs", "bad"])
    assert found["texts"] == 2
    assert found["words"]["synthetic"] == {"mean": 2.5, "quartiles": [2.0, 2.25, 2.5, 2.75, 3.0]}
    assert found["words"]["real"]["mean"] == 3
    assert found["shared"] == {"synthetic": 2 / 5, "real": 2 / 6}  # a, film
    assert match_words(["..."], ["a"])["shared"] == {"synthetic": None, "real": 0.0}


def test_a_share_counts_tokens_not_words() -> None:
    assert shared(Counter(a=9, b=1), Counter(a=1)) == 0.9
    assert shared(Counter(a=1), Counter(a=9, b=1)) == 1


def test_words_that_one_side_prefers_give_it_away() -> None:
    common = Counter({f"w{i}": 100 for i in range(50)})
    ours, theirs = common + Counter(movie=80, rare=1), common + Counter(film=60, movie=5)
    found = telling(ours, theirs)
    assert [one["word"] for one in found["synthetic"]] == ["movie"]
    assert [one["word"] for one in found["real"]] == ["film"]
    assert (found["synthetic"][0]["synthetic"], found["synthetic"][0]["real"]) == (80, 5)
    assert telling(theirs, ours)["real"][0]["z"] == found["synthetic"][0]["z"]  # either side may come first
    assert telling(ours, ours) == {"synthetic": [], "real": []}


def test_at_most_ten_words_and_those_first_that_tell_most() -> None:
    found = telling(Counter({f"w{i}": 40 + i for i in range(30)}), Counter(other=1000))["synthetic"]
    assert [one["word"] for one in found] == [f"w{i}" for i in range(29, 19, -1)]
    assert telling(Counter(only=3), Counter(only=4)) == {"synthetic": [], "real": []}


def test_an_area_is_how_often_one_score_exceeds_another() -> None:
    random = Random(0)
    above, below = ([random.randrange(8) for _ in range(count)] for count in (30, 20))  # with ties
    pairs = [(a > b) + (a == b) / 2 for a in above for b in below]
    assert area(np.array(above), np.array(below)) == pytest.approx(sum(pairs) / len(pairs))


def test_the_energy_distance_is_that_of_its_definition() -> None:
    first, second = gaussian(30, 3, 0, 2.0), gaussian(30, 3, 1)

    def mean(a: np.ndarray, b: np.ndarray, same: bool) -> float:
        return float(
            np.mean([np.linalg.norm(x - y) for i, x in enumerate(a) for j, y in enumerate(b) if not same or i != j])
        )

    between = mean(first, second, False)
    expected = (2 * between - mean(first, first, True) - mean(second, second, True)) / (2 * between)
    assert energy_distance(first, second) == pytest.approx(expected)
    assert energy_distance(np.zeros((5, 2)), np.ones((5, 2))) == 1
    assert energy_distance(np.ones((5, 2)), np.ones((5, 2))) == 0


def test_samples_of_one_distribution_cannot_be_told_apart_and_others_can() -> None:
    same = match_vectors(gaussian(400, 16, 0), gaussian(400, 16, 1), 0)
    assert same["distance"] < 0.005
    assert same["auc"]["interval"][0] < 0.5 < same["auc"]["interval"][1]
    other = match_vectors(gaussian(400, 16, 0, 2.0), gaussian(400, 16, 1), 0)
    assert other["distance"] > 10 * same["distance"]
    # Two normal distributions two standard deviations apart: Φ(√2) = 0.921.
    assert other["auc"]["share"] == pytest.approx(0.921, abs=0.02)
    assert other["auc"]["interval"][0] < 0.921 < other["auc"]["interval"][1]


def test_a_head_is_judged_by_what_it_has_not_seen() -> None:
    areas = [told_apart(gaussian(40, 200, 2 * seed), gaussian(40, 200, 2 * seed + 1), seed) for seed in range(8)]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.08)  # of vectors that it has seen, it would tell all


def test_a_head_does_not_depend_on_where_vectors_lie_and_how_long_they_are() -> None:
    first, second = gaussian(60, 8, 0, 1.0), gaussian(60, 8, 1)
    assert told_apart(1e-3 * first + 5, 1e-3 * second + 5, 0) == pytest.approx(told_apart(first, second, 0), abs=1e-3)
