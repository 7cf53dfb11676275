"""What synthetic rows are made up of: who made them, which question words they have, what their answers are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from zerogen.data.records import PLM, Example
from zerogen.generation.answers import answer_kind

_question_word = re.compile(r"\b(how (?:many|much|long)|what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE)


def composition(rows: Sequence[Example]) -> dict[str, dict[str, int]]:
    """Count rows by `way` (who made them), `question_word` and `answer` (`answer_kind`), the most frequent value first.

    Without `way` where a PLM wrote all rows, `question_word` where fewer than half are questions, and `answer` where
    none has one.
    """
    counts = {}
    if any(row.way != PLM for row in rows):
        counts["way"] = _counted(row.way for row in rows)
    questions = [row.text for row in rows if row.text.endswith("?")]
    if 2 * len(questions) > len(rows):
        counts["question_word"] = _counted(question_word(text) for text in questions)
    if any(row.answers for row in rows):
        counts["answer"] = _counted(answer_kind(row.context or "", row.answers[0]) for row in rows if row.answers)
    return counts


def question_word(text: str) -> str:
    """Return the first question word of a text in lower case, `none` where it has none."""
    word = _question_word.search(text)
    return word[1].lower() if word else "none"


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
