"""SUPERVISED never reports on the rows it has trained on."""

import pytest

from tests.conftest import toy_rows
from zerogen.errors import UserError
from zerogen.runs.supervised import shared_texts


@pytest.mark.parametrize(("train", "evaluated"), [((0, 8), (0, 8)), ((0, 8), (2, 5)), ((2, 5), (0, 8))])
def test_a_split_that_holds_the_other_is_refused(train: tuple[int, int], evaluated: tuple[int, int]) -> None:
    rows = toy_rows(8)
    with pytest.raises(UserError, match="evaluate_on=test names the rows"):
        shared_texts(rows[slice(*train)], rows[slice(*evaluated)], "task 'toy'", "test")


def test_shared_texts_are_counted() -> None:
    rows = toy_rows(8)
    assert shared_texts(rows[:5], rows[5:], "task 'toy'", "test") == 0
    assert shared_texts(rows[:5], rows[3:], "task 'toy'", "test") == 2
