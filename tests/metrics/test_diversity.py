import re
import tracemalloc
from random import Random

import pytest
from datasketch import MinHash, MinHashLSH
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from zerogen.config.schema import DiversityConfig
from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.metrics.diversity import (
    copies,
    distinct,
    diversity,
    near_duplicates,
    numbered,
    self_bleu,
    tokenizer,
    tokenizer_of,
    unsaid,
)

WEIGHTS = [tuple([1 / order] * order) for order in range(1, 6)]
# A text in each script, of which one character differs.
ALIKE = {
    "13a": "The food at this place tastes very good, and we will surely come here again, says guest {}",
    "zh": "这家餐厅的第{}道菜味道很好，下次还会再来。",
    "ja-mecab": "このレストランの料理{}はとてもおいしいです。",
    "char": "อาหารจานที่{}ของร้านนี้อร่อยมากจริงๆ",
}


def alike(name: str) -> list[Example]:
    signs = "กขคงจฉชซญด" if name == "char" else "一二三四五六七八九十"
    return [Example(str(i), ALIKE[name].format(sign), "a") for i, sign in enumerate(signs)]


def plain(texts: list[list[str]]) -> list[float | None]:
    """The definition; nothing for n-grams that are longer than every text."""
    smoothing = SmoothingFunction().method1
    scores = [sentence_bleu(texts[:i] + texts[i + 1 :], text, WEIGHTS, smoothing) for i, text in enumerate(texts)]
    longest = max(map(len, texts))
    return [sum(score[order] for score in scores) / len(scores) if order < longest else None for order in range(5)]


def random_texts(random: Random, count: int, words: str, longest: int) -> list[list[str]]:
    return [[random.choice(words) for _ in range(random.randrange(longest + 1))] for _ in range(count)]


def test_self_bleu_is_that_of_nltk() -> None:
    random = Random(0)
    texts = random_texts(random, 180, "abcdefgh", 25)
    texts += [*random.sample(texts, 17), [], [], ["a"]]
    assert self_bleu(numbered(texts)) == pytest.approx(plain(texts), abs=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_self_bleu_of_few_short_texts_is_that_of_nltk(seed: int) -> None:
    random = Random(seed)
    texts = random_texts(random, random.randrange(2, 6), "abc", 6)
    assert self_bleu(numbered(texts)) == pytest.approx(plain(texts), abs=1e-9)


def test_self_bleu_does_not_depend_on_the_order_of_texts() -> None:
    random = Random(1)
    texts = random_texts(random, 50, "abcdef", 12)
    assert self_bleu(numbered(random.sample(texts, 50))) == pytest.approx(self_bleu(numbered(texts)))


def test_self_bleu_of_one_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        self_bleu(numbered([["a"]]))


def test_distinct() -> None:
    assert distinct(numbered([["a", "b", "a"], ["b", "a"]])) == [2 / 5, 2 / 3, 1, None]
    assert distinct(numbered([["a"], ["a"]]), 2) == [1 / 2, None]


@pytest.mark.parametrize(("counted", "together"), [(8_000_000, 10_000), (100, 7)])  # in one part, in many
def test_distinct_is_that_of_counting(monkeypatch: pytest.MonkeyPatch, counted: int, together: int) -> None:
    monkeypatch.setattr("zerogen.metrics.diversity._COUNTED", counted)
    monkeypatch.setattr("zerogen.metrics.diversity._TEXTS", together)
    texts = random_texts(Random(5), 300, "abcdefgh", 12)
    for order, share in enumerate(distinct(numbered(texts)), 1):
        grams = [tuple(text[i : i + order]) for text in texts for i in range(len(text) - order + 1)]
        assert share == len(set(grams)) / len(grams)


@pytest.mark.parametrize("together", [10_000, 7])
def test_near_duplicates_are_those_of_comparing_every_pair(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr("zerogen.metrics.diversity._TEXTS", together)
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


@pytest.mark.parametrize("size", [2, 3])
def test_near_duplicates_are_those_of_the_library_s_index(size: int) -> None:
    random = Random(size)
    letters = "abcdefghijklmnop" if size == 3 else "电影故事演员导演音乐画面剧情结局"
    texts = []
    for _ in range(150):
        text = [random.choice(letters) for _ in range(random.randrange(1, 40))]
        texts.append(text)
        for _ in range(random.randrange(4)):  # like it, by more or less
            changed = [random.choice(letters) if random.random() < 0.06 else letter for letter in text]
            texts.append(changed)
    random.shuffle(texts)
    index = MinHashLSH(params=(32, 4), num_perm=128)
    indexed: dict[int, set[str]] = {}  # shingles by the place of their text
    expected: list[bool] = []
    for place, words in enumerate(texts):
        shingles = {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)} or {" ".join(words)}
        sketch = MinHash(num_perm=128)
        sketch.update_batch(one.encode() for one in shingles)
        shares = [len(shingles & indexed[other]) / len(shingles | indexed[other]) for other in index.query(sketch)]
        expected.append(any(share >= 0.7 for share in shares))
        if not expected[-1]:
            index.insert(place, sketch)
            indexed[place] = shingles
    assert near_duplicates([" ".join(words) for words in texts]) == expected
    assert 50 < sum(expected) < len(texts) - 50


@pytest.mark.parametrize("name", ALIKE)
def test_texts_that_differ_in_a_character_are_alike_in_every_script(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerogen.metrics.diversity.find_spec", lambda _: None)  # MeCab may be installed here
    found = diversity(alike(name), DiversityConfig(), seed=0)
    assert found["tokenizer"] == {"ja-mecab": "char"}.get(name, name)
    assert found["near_duplicates"] == 0.9
    assert found["self_bleu"][3] > 0.7
    assert list(unsaid(found)) == []


def test_the_tokenizer_for_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerogen.metrics.diversity.find_spec", lambda _: True)
    for name in ALIKE:
        texts = [row.text for row in alike(name)]
        assert tokenizer_of("auto", texts) == name
        assert tokenizer_of("char", texts) == "char"


def test_a_chosen_tokenizer_is_the_one_that_is_used() -> None:
    rows = alike("zh")
    found = diversity(rows, DiversityConfig(tokenizer="13a"), seed=0)
    assert found["tokenizer"] == "13a"
    assert found["near_duplicates"] == 0.9  # which no tokenizer has a part in
    assert found["words"]["mean"] == 19


def test_copies_of_a_context_in_characters() -> None:
    context = "这只鸟是1901年由一位农民在罗马发现的。"
    assert copies("他们说，这只鸟是由一位农民在罗马发现的", context)
    assert not copies("他们说，那种动物从来没有人在北京见过", context)


def test_figures_about_nothing_are_none() -> None:
    short = diversity(
        [Example(str(i), text, "a") for i, text in enumerate(["so good", "too bad", "so bad"])],
        DiversityConfig(),
        seed=0,
    )
    assert [value is None for value in short["self_bleu"]] == [False, False, True, True, True]
    assert [value is None for value in short["distinct"]] == [False, False, True, True]
    assert [re.sub(r".*that ", "", line) for line in unsaid(short)] == [
        "Self-BLEU says nothing from n = 3 on",
        "the share of distinct n-grams says nothing from n = 3 on",
    ]
    empty = diversity(
        [Example(str(i), text, "a", "...") for i, text in enumerate(["?! ... ?!", "..."])], DiversityConfig(), seed=0
    )
    assert empty["self_bleu"] is empty["near_duplicates"] is empty["copies_context"] is None
    assert empty["distinct"] == [None] * 4
    assert "hardly a text holds words" in next(unsaid(empty))
    alone = diversity([Example("0", "one text of six words alone", "a")], DiversityConfig(), 0)
    assert [line.startswith("Self-BLEU compares") for line in unsaid(alone)] == [True]


def test_rows_need_little_memory() -> None:
    random = Random(6)
    texts = [" ".join(f"w{int(random.paretovariate(0.7))}" for _ in range(25)) for _ in range(2000)]
    rows = [Example(str(i), text, "a") for i, text in enumerate(texts)]
    diversity(rows[:10], DiversityConfig(), 0)  # whatever is loaded once
    tracemalloc.start()
    diversity(rows, DiversityConfig(self_bleu_texts=10), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / len(rows) < 6_000  # bytes


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


def test_texts_in_a_script_that_nobody_here_knows_get_no_figures_about_words() -> None:
    texts = ["".join(chr(0x12000 + (7 * i + j) % 200) for j in range(40)) + chr(0x12100 + i) for i in range(10)]
    rows = [Example(str(i), text, "") for i, text in enumerate(texts)]
    found = diversity(rows, DiversityConfig(), 0)
    assert (found["self_bleu"], found["near_duplicates"], found["distinct"]) == (None, None, [None] * 4)
    assert "a script without spaces that is not known" in next(unsaid(found))
    assert diversity(rows, DiversityConfig(tokenizer="char"), 0)["self_bleu"] is not None
