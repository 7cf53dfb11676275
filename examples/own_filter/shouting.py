"""A filter of your own: reject texts that shout, with more capital letters than small ones.

    cd examples/own_filter
    python -m zerogen experiment=demo setting=zerogen 'filter.functions=["shouting:shouting"]'

The reason that a filter returns is counted with the others in result.json and in the report.
"""

from zerogen import Example, FilterConfig


def shouting(row: Example, limits: FilterConfig) -> str | None:
    """Return the reason to reject a row, None to accept it."""
    capitals = sum(letter.isupper() for letter in row.text)
    small = sum(letter.islower() for letter in row.text)
    return "shouting" if capitals > small else None
