import random

import pytest

from tests.conftest import byte_tokenizer
from zerogen.config.template import placeholders, render, shortened


def test_placeholders_are_found_in_order() -> None:
    assert placeholders('a <C> and "<X>" <C>') == ["C", "X", "C"]


def test_rendering_is_one_pass() -> None:
    assert render("<C>|<X>", {"C": "holds <X>", "X": "holds <C>"}) == "holds <X>|holds <C>"


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def decode(ids: list[int]) -> str:
    return "".join(map(chr, ids))


@pytest.mark.parametrize("budget", [5, 8, 12, 100])
def test_only_the_named_value_is_cut(budget: int) -> None:
    values = {"C": "0123456789", "X": "xyz"}
    prompt = render("[<C>]<X>", values | {"C": shortened(["[<C>]<X>"], values, "C", budget, encode, decode)})
    assert len(prompt) == min(budget, 15)
    assert prompt.endswith("]xyz")
    assert "0123456789".startswith(prompt[1:].split("]")[0])


def test_a_budget_below_the_rest_is_an_error() -> None:
    with pytest.raises(ValueError, match="over its budget of 4"):
        shortened(["[<C>]<X>"], {"C": "0123", "X": "xyz"}, "C", 4, encode, decode)


@pytest.mark.parametrize("budget", [7, 9, 12, 100])
@pytest.mark.parametrize("place", [0, 4, 9])
def test_what_must_stay_is_cut_around(budget: int, place: int) -> None:
    value = "0123456789"
    values = {"C": value, "X": "xyz"}
    kept = shortened(["[<C>]<X>"], values, "C", budget, encode, decode, (place, place + 1))
    assert len(kept) == min(budget - 5, 10)
    assert value[place] in kept
    assert kept in value
    sides = kept.index(value[place]), len(kept) - kept.index(value[place]) - 1
    spare = place - sides[0], 9 - place - sides[1]
    assert abs(sides[0] - sides[1]) <= 1 or 0 in spare  # as much on both sides, where there is as much


def test_all_templates_hold_the_same_part() -> None:
    templates = ["<C>:<X>", "a longer one <C>:<X>"]
    kept = shortened(templates, {"C": "0123456789", "X": "xyz"}, "C", 22, encode, decode)
    assert kept == "01234"
    assert len(render(templates[1], {"C": kept, "X": "xyz"})) == 22


@pytest.mark.parametrize("budget", range(14, 40))
def test_no_character_is_cut_in_two(budget: int) -> None:
    """Of a tokenizer that makes several tokens of a character."""
    tokenizer = byte_tokenizer()
    value = "あ東京は首都で長い。"
    start = value.index("首")

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    kept = shortened(["<C>!"], {"C": value}, "C", budget, ids, tokenizer.decode, (start, start + 1))
    assert "首" in kept
    assert kept in value
    assert len(ids(kept + "!")) <= budget


@pytest.mark.parametrize("around", [False, True])
def test_a_text_that_is_far_too_long_is_tokenized_once(monkeypatch: pytest.MonkeyPatch, around: bool) -> None:
    """And what stays of it is what stays when it is tokenized with every template."""
    tokenizer, draws = byte_tokenizer(), random.Random(3)
    templates = ['Good: "<X>"', "<X> is bad", "<X>", 'It is: "<X>', "(<X>)"]
    words = ["movie", "The", "Is", "in", "sentiment", "い", '"', ".", ' "', "\n", "  ", "a", "bright"]
    read: list[int] = []

    def ids(text: str) -> list[int]:
        read.append(len(text))
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    for _ in range(30):
        value = "".join(draws.choice(words) + " " * draws.randrange(2) for _ in range(draws.randrange(400, 700)))
        start = draws.randrange(len(value) - 9) if around else 0
        budget, span = draws.randrange(50, 100), (start, start + 9 * around)
        read.clear()
        kept = shortened(templates, {"X": value}, "X", budget, ids, tokenizer.decode, span)
        whole = 1 + around  # around something, what stands before it and after it is tokenized on its own, too
        assert sum(read) < whole * len(value) + len(templates) * (400 + 4 * 3 * budget * 4)
        assert sum(length >= len(value) for length in read) == 1
        with monkeypatch.context() as patch:
            patch.setattr("zerogen.config.template._FAR", 1 << 20)
            assert kept == shortened(templates, {"X": value}, "X", budget, ids, tokenizer.decode, span)
            assert sum(length >= len(value) for length in read) > 1
