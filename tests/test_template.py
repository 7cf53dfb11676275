import pytest

from zerogen.template import placeholders, render, render_within


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
    prompt = render_within("[<C>]<X>", {"C": "0123456789", "X": "xyz"}, "C", budget, encode, decode)
    assert len(prompt) == min(budget, 15)
    assert prompt.endswith("]xyz")
    assert "0123456789".startswith(prompt[1:].split("]")[0])


def test_a_budget_below_the_rest_is_an_error() -> None:
    with pytest.raises(ValueError, match="over its budget of 4"):
        render_within("[<C>]<X>", {"C": "0123", "X": "xyz"}, "C", 4, encode, decode)
