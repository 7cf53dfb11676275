from collections import Counter

import pytest

from tests.conftest import toy_rows
from zerogen.data.records import Example
from zerogen.tam.batches import Buckets, by_length, split_heldout
from zerogen.tam.labels import Encoded, collate


@pytest.mark.parametrize("seed", range(3))
def test_no_context_stands_on_both_sides_and_labels_are_stratified(seed: int) -> None:
    rows = toy_rows(200)
    train, heldout = split_heldout(rows, 0.1, seed)
    assert len(train) + len(heldout) == 200
    assert len(heldout) == 20
    assert not {row.context for row in train} & {row.context for row in heldout}
    assert Counter(row.label for row in heldout) == {"good": 10, "bad": 10}


def test_the_split_depends_on_its_seed_alone() -> None:
    rows = toy_rows(200)
    assert split_heldout(rows, 0.1, 1) == split_heldout(rows, 0.1, 1)
    assert split_heldout(rows, 0.1, 1) != split_heldout(rows, 0.1, 2)


def test_one_context_for_all_falls_back_to_single_rows() -> None:
    rows = [Example(str(i), "t", "a" if i % 2 else "b", context="one") for i in range(40)]
    assert [len(side) for side in split_heldout(rows, 0.1, 0)] == [36, 4]


def test_every_label_keeps_a_training_row() -> None:
    rows = [Example("1", "t", "a"), Example("2", "t", "b")]
    assert [len(side) for side in split_heldout(rows, 0.5, 0)] == [2, 0]


def test_buckets_hold_every_row_once_in_a_new_order_each_epoch() -> None:
    lengths = [i % 17 + 1 for i in range(500)]
    buckets = Buckets(lengths, 8, seed=1)
    first, second = list(buckets), list(buckets)
    assert sorted(i for batch in first for i in batch) == list(range(500))
    assert first != second
    assert list(Buckets(lengths, 8, seed=1)) == first
    assert len(first) == len(buckets) == 63
    padding = sum(len(batch) * max(lengths[i] for i in batch) for batch in first) / sum(lengths)
    assert padding < 1.1  # batches in random order would pad by 1.8


def test_prediction_batches_start_with_the_longest_row() -> None:
    assert by_length([3, 9, 1, 5], 2) == [[1, 3], [0, 2]]


def test_collate_pads_on_the_right() -> None:
    batch = collate([Encoded([5, 6], [], 1), Encoded([], [], 0)], pad=9)
    assert batch["input_ids"].tolist() == [[5, 6], [9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [0, 0]]
    assert batch["labels"].tolist() == [1, 0]
