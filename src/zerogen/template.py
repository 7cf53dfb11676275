"""Prompt templates: `<C>` is the context, `<X>` the text, `<Y>` the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache

_PLACEHOLDER = re.compile(r"<(\w+)>")
_BROKEN = "\ufffd"
_FAR = 8  # characters per token of the budget: a text with more is hardly ever short enough
_SEAM = 200  # characters at an end of a text that what a template puts there may be tokenized with


def placeholders(template: str) -> list[str]:
    """Return the names between angle brackets, in order."""
    return _PLACEHOLDER.findall(template)


def render(template: str, values: Mapping[str, str]) -> str:
    """Fill all placeholders in one pass, so that a `<X>` inside a value stays as it is."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def shortened(
    templates: Sequence[str],
    values: Mapping[str, str],
    cut: str,
    budget: int,
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
    around: tuple[int, int] = (0, 0),
) -> str:
    """Return the value named `cut`, shortened so that each template, filled, takes at most `budget` tokens.

    So all templates of a row hold the same part of it. around: characters (start, end) of the value that stay, with as
    much as fits on both sides of them; by default its beginning stays. Raises ValueError when the rest of a template
    alone is longer than the budget.
    """
    encode = cache(encode)

    def excess(value: str) -> int:
        return max(len(encode(render(template, {**values, cut: value}))) for template in templates) - budget

    value, (start, end) = values[cut], around
    over = 0
    if len(value) > _FAR * budget + 2 * _SEAM:
        # How many tokens a template adds depends on the ends of the text alone: it is tokenized once, not with each.
        ends = value[:_SEAM] + value[-_SEAM:]
        over = len(encode(value)) - len(encode(ends)) + excess(ends)
    if over <= 0:
        over = excess(value)
    if over <= 0:
        return value
    before, after = encode(value[:start]) if start else [], encode(value[end:])
    # Cutting may merge tokens at the seam differently, so the result is measured again.
    while over > 0 and (before or after):
        left = max(len(before) + len(after) - over, 0)
        first = min(len(before), max(left // 2, left - len(after)))
        before, after = before[len(before) - first :], after[: left - first]
        # A character of several tokens may be cut in two: what is left of it is no character.
        kept = decode(before).lstrip(_BROKEN) + value[start:end] + decode(after).rstrip(_BROKEN)
        over = excess(kept)
    if over > 0:
        raise ValueError(f"the prompt without <{cut}> is {over} tokens over its budget of {budget}")
    return kept
