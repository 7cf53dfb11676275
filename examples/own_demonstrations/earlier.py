"""Show earlier texts of the same label before half of the prompts.

    cd examples/own_demonstrations
    python -m zerogen experiment=demo setting=zerogen demonstrations=earlier:some_of_the_label

The rows of the first chunks have none before them: there are no earlier texts yet.
"""

from collections.abc import Sequence
from random import Random

from zerogen import Example, TaskConfig


def some_of_the_label(draft: Example, rows: Sequence[Example], task: TaskConfig, random: Random) -> str:
    """Return up to four texts of the label that is asked for, each on a line, or nothing."""
    texts = [row.text for row in rows if row.label == draft.label]
    if not texts or random.random() < 0.5:
        return ""
    return "".join(f'"{text}"\n' for text in random.sample(texts, min(4, len(texts))))
