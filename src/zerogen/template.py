"""Prompt templates: `<C>` is the context, `<X>` the text."""

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
) -> str:
    """Fill a template so that it takes at most `budget` tokens, by shortening the value named `cut` at its end.

    Raises ValueError when the rest of the template alone is longer than the budget.
    """
    prompt = render(template, values)
    excess = len(encode(prompt)) - budget
    if excess <= 0:
        return prompt
    tokens = encode(values[cut])
    # Cutting may merge tokens at the seam differently, so the result is measured again.
    while excess > 0 and tokens:
        tokens = tokens[: max(len(tokens) - excess, 0)]
        prompt = render(template, {**values, cut: decode(tokens)})
        excess = len(encode(prompt)) - budget
    if excess > 0:
        raise ValueError(f"the prompt without <{cut}> is {excess} tokens over its budget of {budget}")
    return prompt
