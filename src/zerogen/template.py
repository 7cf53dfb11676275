"""Prompt templates: `<C>` is the context, `<X>` the text, `<Y>` the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_PLACEHOLDER = re.compile(r"<(\w+)>")


def placeholders(template: str) -> list[str]:
    """Return the names between angle brackets, in order."""
    return _PLACEHOLDER.findall(template)


def render(template: str, values: Mapping[str, str]) -> str:
    """Fill all placeholders in one pass, so that a `<X>` inside a value stays as it is."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def render_within(
    template: str,
    values: Mapping[str, str],
    cut: str,
    budget: int,
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
    around: tuple[int, int] = (0, 0),
) -> str:
    """Fill a template so that it takes at most `budget` tokens, by shortening the value named `cut`.

    around: characters (start, end) of that value that stay, with as much as fits on both sides of them; by default its
    beginning stays. Raises ValueError when the rest of the template alone is longer than the budget.
    """
    prompt = render(template, values)
    excess = len(encode(prompt)) - budget
    if excess <= 0:
        return prompt
    start, end = around
    value = values[cut]
    before, after = encode(value[:start]) if start else [], encode(value[end:])
    # Cutting may merge tokens at the seam differently, so the result is measured again.
    while excess > 0 and (before or after):
        left = max(len(before) + len(after) - excess, 0)
        first = min(len(before), max(left // 2, left - len(after)))
        before, after = before[len(before) - first :], after[: left - first]
        prompt = render(template, {**values, cut: decode(before) + value[start:end] + decode(after)})
        excess = len(encode(prompt)) - budget
    if excess > 0:
        raise ValueError(f"the prompt without <{cut}> is {excess} tokens over its budget of {budget}")
    return prompt
