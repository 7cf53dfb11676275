from itertools import pairwise
from pathlib import Path

import pytest

from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.generation.pool import Chunk, Journal, first_per_label, quotas


def chunk(index: int) -> Chunk:
    rows = [Example(f"{index}-{i}", f'text "{i}" ü\u2028', label, "C", -1.5) for i, label in enumerate(["bad", "good"])]
    return Chunk(index, rows, {"bad": 2, "good": 2}, {"bad": {"too_short": 1}, "good": {}}, [{"a": 1}], 10, 0.5)


def chunks_of(path: Path) -> list[Chunk]:
    return list(Journal.open(path).chunks())


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "pool" / "texts.jsonl"
    journal = Journal.open(path)
    for index in range(3):
        journal.append(chunk(index))
    assert chunks_of(path) == list(journal.chunks()) == [chunk(index) for index in range(3)]
    assert Journal.open(path).heads == journal.heads == [chunk(index).head() for index in range(3)]


@pytest.mark.parametrize("lost", [1, 20, 200])
def test_a_line_that_was_cut_off_is_dropped_and_written_again(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "texts.jsonl"
    for index in range(2):
        Journal.open(path).append(chunk(index))
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    assert chunks_of(path) == [chunk(0)]
    assert path.read_bytes() == whole[:-lost]  # a reader changes nothing
    journal = Journal.open(path, appends=True)
    assert list(journal.chunks()) == [chunk(0)]
    journal.append(chunk(1))
    assert path.read_bytes() == whole


def test_a_file_that_is_no_journal_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"index": 0}\n')
    with pytest.raises(UserError, match=r"texts.jsonl:1"):
        Journal.open(path)


def test_what_follows_a_damaged_line_is_written_again_if_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    for index in range(4):
        Journal.open(path).append(chunk(index))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = lines[0] + lines[1][:-9] + b"\n" + b"".join(lines[2:])
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"texts.jsonl:2: not a chunk of generated rows; .*pool.repair=true"):
        Journal.open(path, appends=True)
    assert path.read_bytes() == damaged
    assert list(Journal.open(path, repair=True).chunks()) == [chunk(0)]
    assert path.read_bytes() == damaged  # a reader changes nothing
    journal = Journal.open(path, appends=True, repair=True)
    assert path.with_name("texts.jsonl.damaged").read_bytes() == damaged
    for index in range(1, 4):
        journal.append(chunk(index))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("order", [(1, 2), (0, 0, 1), (0, 2), (0, 1, 1)])
def test_a_pool_that_lacks_a_line_or_has_one_twice_is_refused(tmp_path: Path, order: tuple[int, ...]) -> None:
    path = tmp_path / "texts.jsonl"
    for index in range(3):
        Journal.open(path).append(chunk(index))
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"".join(lines[index] + b"\n" for index in order))
    wrong = next(i for i, index in enumerate(order) if i != index)
    with pytest.raises(UserError, match=rf"texts.jsonl:{wrong + 1}: holds chunk {order[wrong]}, where chunk {wrong}"):
        Journal.open(path)


def test_a_pool_that_was_deleted_meanwhile_is_not_begun_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "pool" / "texts.jsonl"
    journal = Journal.open(path)
    journal.append(chunk(0))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        journal.append(chunk(1))
    assert not path.exists()


def test_quotas_share_equally() -> None:
    assert quotas(7, ["a", "b", "c"]) == {"a": 3, "b": 2, "c": 2}
    assert sum(quotas(1000, ["a", "b", "c"]).values()) == 1000


def test_smaller_sets_are_prefixes_of_larger_ones() -> None:
    rows = [Example(str(i), "t", "a" if i % 3 else "b") for i in range(30)]
    sets = [list(first_per_label(rows, quotas(n, ["a", "b"]))) for n in (4, 10, 16)]
    for small, large in pairwise(sets):
        for label in "ab":
            of_small = [row for row in small if row.label == label]
            assert of_small == [row for row in large if row.label == label][: len(of_small)]
    assert [len(rows) for rows in sets] == [4, 10, 16]
