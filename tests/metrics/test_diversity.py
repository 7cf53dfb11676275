from random import Random

import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from zerogen.config import DiversityConfig
from zerogen.errors import UserError
from zerogen.metrics.diversity import copies, distinct, diversity, near_duplicates, self_bleu, tokenizer
from zerogen.records import Example

WEIGHTS = [tuple([1 / order] * order) for order in range(1, 6)]


def plain(texts: list[list[str]]) -> list[float]:
    smoothing = SmoothingFunction().method1
    scores = [
        sentence_bleu(texts[:i] + texts[i + 1 :], text, WEIGHTS, smoothing)  # type: ignore[arg-type]
        for i, text in enumerate(texts)
    ]
    return [sum(score[order] for score in scores) / len(scores) for order in range(5)]


def random_texts(random: Random, count: int, words: str, longest: int) -> list[list[str]]:
    return [[random.choice(words) for _ in range(random.randrange(longest + 1))] for _ in range(count)]


def test_self_bleu_is_that_of_nltk() -> None:
    random = Random(0)
    texts = random_texts(random, 180, "abcdefgh", 25)
    texts += [*random.sample(texts, 17), [], [], ["a"]]
    assert self_bleu(texts) == pytest.approx(plain(texts), abs=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_self_bleu_of_few_short_texts_is_that_of_nltk(seed: int) -> None:
    random = Random(seed)
    texts = random_texts(random, random.randrange(2, 6), "abc", 6)
    assert self_bleu(texts) == pytest.approx(plain(texts), abs=1e-9)


def test_self_bleu_does_not_depend_on_the_order_of_texts() -> None:
    random = Random(1)
    texts = random_texts(random, 50, "abcdef", 12)
    assert self_bleu(random.sample(texts, 50)) == pytest.approx(self_bleu(texts))


def test_self_bleu_of_one_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        self_bleu([["a"]])


def test_distinct() -> None:
    assert distinct([["a", "b", "a"], ["b", "a"]], 1) == 2 / 5
    assert distinct([["a", "b", "a"], ["b", "a"]], 2) == 2 / 3
    assert distinct([["a"]], 2) == 0


def test_near_duplicates_are_those_of_comparing_every_pair() -> None:
    random = Random(2)
    texts: list[str] = []
    for _ in range(120):
        words = [f"w{random.randrange(400)}" for _ in range(25)]
        texts.append(" ".join(words))
        for _ in range(random.randrange(3)):  # like it but for one or two words
            changed = list(words)
            for _ in range(random.randrange(1, 3)):
                changed[random.randrange(25)] = "other"
            texts.append(" ".join(changed))

    def trigrams(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return set(zip(words, words[1:], words[2:], strict=False))

    kept: list[set[tuple[str, ...]]] = []
    expected = []
    for one in map(trigrams, texts):
        expected.append(any(len(one & other) / len(one | other) >= 0.7 for other in kept))
        if not expected[-1]:
            kept.append(one)
    assert near_duplicates(texts) == expected
    assert 30 < sum(expected) < len(texts) - 100


def test_what_is_like_a_duplicate_alone_is_none() -> None:
    words = [f"w{i}" for i in range(30)]
    end = [*words[:27], "x", "y", "z"]
    both = ["u", "v", "w", *end[3:]]
    first, second, third = (" ".join(one) for one in (words, end, both))
    assert near_duplicates([first, second, third]) == [False, True, False]
    assert near_duplicates([second, first, third]) == [False, True, True]


def test_case_and_punctuation_hide_no_duplicate() -> None:
    assert near_duplicates(["A great film, I say!", "a GREAT film I say", "", "two words", "Two words."]) == [
        False,
        True,
        False,
        False,
        True,
    ]


def test_copies() -> None:
    context = "The bird was found in Rome in 1901 by a farmer."
    assert copies("The bird was found in Rome, they say.", context)
    assert not copies("They say the bird was found in Oslo once.", context)


def test_diversity_counts() -> None:
    rows = [
        Example("0", "one two three four", "good", context="one two three four five"),
        Example("1", "six seven eight nine ten eleven", "bad", context="nothing of this"),
        Example("2", "six seven eight nine ten eleven", "good"),
    ]
    found = diversity(rows, DiversityConfig(), seed=0)
    assert found["labels"] == {"bad": 1, "good": 2}
    assert found["words"]["mean"] == pytest.approx(16 / 3)
    assert found["words"]["quartiles"] == [4, 5, 6, 6, 6]
    assert found["distinct"] == [10 / 16, 8 / 13, 6 / 10, 4 / 7]
    assert found["near_duplicates"] == pytest.approx(1 / 3)
    assert found["copies_context"] == 0.5
    assert found["self_bleu_texts"] == 3


def test_a_sample_is_the_seed_s() -> None:
    random = Random(3)
    rows = [Example(str(i), " ".join(text), "a") for i, text in enumerate(random_texts(random, 60, "abcdef", 9))]
    config = DiversityConfig(self_bleu_texts=20)
    assert diversity(rows, config, 0) == diversity(rows, config, 0)
    assert diversity(rows, config, 0)["self_bleu"] != diversity(rows, config, 1)["self_bleu"]
    assert diversity(rows, config, 0)["self_bleu_texts"] == 20


@pytest.mark.parametrize("quarter", range(4))
def test_a_sample_is_drawn_from_all_rows(quarter: int) -> None:
    texts = ["always the same" if i // 20 == quarter else f"x{i} y{i} z{i}" for i in range(80)]
    rows = [Example(str(i), text, "a") for i, text in enumerate(texts)]
    found = diversity(rows, DiversityConfig(self_bleu_texts=20), 0)
    assert 0.1 <= found["self_bleu"][0] <= 0.5  # the share of the quarter, within which alone texts are alike


def test_one_row_has_no_self_bleu() -> None:
    assert diversity([Example("0", "alone", "a")], DiversityConfig(), 0)["self_bleu"] is None


def test_tokenizers() -> None:
    assert tokenizer("13a")("It's fine, isn't it?") == ["It's", "fine", ",", "isn't", "it", "?"]
    try:
        import spacy  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install spacy"):
            tokenizer("spacy")
    else:
        assert tokenizer("spacy")("It's fine.") == ["It", "'s", "fine", "."]
