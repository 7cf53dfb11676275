"""Prompt templates: fill `<C>` context, `<X>` text, `<Y>` answer, `<A>` attributes, cut to a token budget."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache

_PLACEHOLDER = re.compile(r"<(\w+)>")
_BROKEN = "\ufffd"
_FAR = 8  # characters per token of the budget; a longer text hardly ever fits
_SEAM = 200  # characters at each end of a text whose tokens may depend on the template around it


def placeholders(template: str) -> list[str]:
    """Return the names in angle brackets, in order."""
    return _PLACEHOLDER.findall(template)


def render(template: str, values: Mapping[str, str]) -> str:
    """Fill all placeholders in one pass, so that a `<X>` inside a value stays unchanged."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def without_attributes(template: str) -> str:
    """Return a template without `<A>` and the space after it: `A <A> film` becomes `A film`."""
    return template.replace("<A> ", "").replace("<A>", "")


def shortened(
    templates: Sequence[str],
    values: Mapping[str, str],
    cut: str,
    budget: int,
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
    around: tuple[int, int] = (0, 0),
) -> str:
    """Return the value named `cut`, shortened so that each filled template takes at most `budget` tokens.

    All templates of a row then hold the same part of it. around: characters (start, end) of the value to keep, with as
    much as fits on both sides; by default, keep its beginning. Raises ValueError if a template without the value is
    already longer than the budget.
    """
    encode = cache(encode)

    def excess(value: str) -> int:
        return max(len(encode(render(template, {**values, cut: value}))) for template in templates) - budget

    value, (start, end) = values[cut], around
    over = 0
    if len(value) > _FAR * budget + 2 * _SEAM:
        # The number of tokens a template adds depends only on the ends of the text, so tokenize the whole text once.
        ends = value[:_SEAM] + value[-_SEAM:]
        over = len(encode(value)) - len(encode(ends)) + excess(ends)
    if over <= 0:
        over = excess(value)
    if over <= 0:
        return value
    before, after = encode(value[:start]) if start else [], encode(value[end:])
    # Tokens at the seam may merge differently after the cut, so measure the result again.
    while over > 0 and (before or after):
        left = max(len(before) + len(after) - over, 0)
        first = min(len(before), max(left // 2, left - len(after)))
        before, after = before[len(before) - first :], after[: left - first]
        # Cutting through a character of several tokens leaves replacement characters: remove them.
        shorter = decode(before).lstrip(_BROKEN) + value[start:end] + decode(after).rstrip(_BROKEN)
        over = excess(shorter)
    if over > 0:
        raise ValueError(f"the prompt without <{cut}> is {over} tokens over its budget of {budget}")
    return shorter
