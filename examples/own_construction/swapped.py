"""A construction of your own: a sentence in which two names have changed places is not entailed.

    cd examples/own_construction
    python -m zerogen --config-dir conf task=places tam=minilm n=40

Passages come from `passages.txt`; `conf/task/places.yaml` names the construction of each label.
"""

import re
from random import Random

from zerogen.generation.construction import Passages


def swapped(passage: str, passages: Passages, random: Random) -> tuple[str, str] | None:
    """Return a passage and itself with two of its names in each other's place, None where it has fewer than two."""
    names = sorted(set(re.findall(r"(?<=\s)[A-Z]\w+", passage)))
    if len(names) < 2:
        return None
    one, other = random.sample(names, 2)
    changed = {one: other, other: one}
    return passage, re.sub(rf"\b(?:{one}|{other})\b", lambda match: changed[match[0]], passage)
