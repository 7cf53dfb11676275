from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

import pytest

from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.generation.pool import Chunk, Journal, first_per_label, quotas, rows_within, used_chunks
from zerogen.generation.shards import shards_of


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


TINY = 600  # bytes, of about two chunks


def sharded(path: Path, count: int) -> list[Path]:
    """Write chunks one by one, as processes do that go on after one another; return the shards."""
    for index in range(count):
        Journal.open(path, appends=True, shard_bytes=TINY).append(chunk(index))
    shards = [shard for _, shard in shards_of(path)]
    assert len(shards) > 2 and shards[0].name == "texts-000000.jsonl.zst"
    return shards


def test_a_pool_in_shards_holds_what_one_file_holds(tmp_path: Path) -> None:
    path, one, at_once = (tmp_path / name / "texts.jsonl" for name in ("several", "one", "at-once"))
    sharded(path, 11)
    journals = [Journal.open(path, shard_bytes=TINY), Journal.open(one), Journal.open(at_once, shard_bytes=TINY)]
    for index in range(11):
        journals[1].append(chunk(index))
        journals[2].append(chunk(index))
    assert path.stat().st_size < one.stat().st_size / 2
    for journal in (*journals, *map(Journal.open, (path, at_once))):
        assert list(journal.chunks()) == [chunk(index) for index in range(11)]
        assert journal.heads == [chunk(index).head() for index in range(11)]
        assert list(journal.rows()) == [row for index in range(11) for row in chunk(index).rows]
        for start in range(12):
            assert list(journal.chunks(start)) == [chunk(index) for index in range(start, 11)]
    assert [shard.read_bytes() for _, shard in shards_of(path)] == [
        shard.read_bytes() for _, shard in shards_of(at_once)
    ]


def test_a_file_without_shards_goes_on_whatever_its_size(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    old = Journal.open(path)
    for index in range(9):
        old.append(chunk(index))
    journal = Journal.open(path, appends=True, shard_bytes=TINY)
    assert not shards_of(path)
    journal.append(chunk(9))
    assert [number for number, _ in shards_of(path)] == [0]
    assert chunks_of(path) == list(journal.chunks()) == [chunk(index) for index in range(10)]


def test_a_kill_after_a_shard_was_made_leaves_no_chunk_twice(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    index, before = 0, b""
    while len(shards_of(path)) < 2:
        before = path.read_bytes() if path.exists() else b""
        Journal.open(path, appends=True, shard_bytes=TINY).append(chunk(index))
        index += 1
    whole = path.read_bytes()
    path.write_bytes(before)  # the shard was made, the new file was not
    assert chunks_of(path) == [chunk(i) for i in range(index - 1)]
    assert path.read_bytes() == before  # a reader changes nothing
    journal = Journal.open(path, appends=True, shard_bytes=TINY)
    assert path.read_bytes() == b""
    journal.append(chunk(index - 1))
    assert path.read_bytes() == whole
    assert chunks_of(path) == list(journal.chunks()) == [chunk(i) for i in range(index)]


def test_a_shard_that_could_not_be_written_leaves_the_file_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "texts.jsonl"
    journal = Journal.open(path, shard_bytes=1)
    journal.append(chunk(0))
    whole = path.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr("shutil.copyfileobj", full)
        journal.append(chunk(1))
    assert [file.name for file in tmp_path.iterdir()] == ["texts.jsonl"]
    assert path.read_bytes() == whole
    journal.append(chunk(1))
    assert chunks_of(path) == [chunk(0), chunk(1)]


def test_rows_are_read_from_the_shards_that_hold_them_alone(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    shards = sharded(path, 11)
    journal = Journal.open(path)
    shards[2].write_bytes(b"damaged")
    first = next(number for number, shard in shards_of(path) if shard == shards[2])
    rows = [row for index in range(first) for row in chunk(index).rows]
    assert list(first_per_label(journal.rows(), {"bad": first, "good": first})) == rows
    shards[0].write_bytes(b"damaged")
    assert next(journal.chunks(10)) == chunk(10)
    with pytest.raises(UserError, match=rf"{shards[0].name}:1: "):
        next(journal.rows())


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [cut, lambda content: b"", lambda content: b"x" * len(content)])
def test_a_damaged_shard_is_named_and_written_again_if_that_is_asked_for(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "texts.jsonl"
    shards = sharded(path, 11)
    contents = {file: file.read_bytes() for file in tmp_path.iterdir()}
    shards[1].write_bytes(damage(contents[shards[1]]))
    at = rf"({shards[1].name}:1: cannot be unpacked|{shards[2].name}: begins with chunk)"
    for appends in (False, True):
        with pytest.raises(UserError, match=rf"{at}.*; restore the file, set pool.repair=true"):
            Journal.open(path, appends=appends)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    kept = list(Journal.open(path, repair=True).chunks())
    assert kept == [chunk(index) for index in range(len(kept))] and kept
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    journal = Journal.open(path, appends=True, repair=True, shard_bytes=TINY)
    assert list(journal.chunks()) == kept == chunks_of(path)
    assert {file.read_bytes() for file in tmp_path.glob("*.damaged")} <= set(before.values())
    assert len(list(tmp_path.glob("*.damaged"))) >= len(shards) - 1
    for index in range(len(kept), 11):
        journal.append(chunk(index))
    assert {file: file.read_bytes() for file in contents} == contents


def test_a_line_of_a_shard_that_is_damaged_ends_what_is_kept(tmp_path: Path) -> None:
    import pyarrow

    path = tmp_path / "texts.jsonl"
    shard = sharded(path, 11)[1]
    with pyarrow.input_stream(str(shard), compression="zstd") as file:
        lines = file.read().splitlines(keepends=True)
    with pyarrow.output_stream(str(shard), compression="zstd") as file:
        file.write(lines[0] + b"{}\n" + b"".join(lines[2:]))
    with pytest.raises(UserError, match=rf"{shard.name}:2: not a chunk"):
        Journal.open(path)
    first = shards_of(path)[1][0]
    journal = Journal.open(path, appends=True, repair=True, shard_bytes=TINY)
    assert len(journal.heads) == first + 1
    assert path.read_bytes() == lines[0]
    for index in range(first + 1, 11):
        journal.append(chunk(index))
    assert chunks_of(path) == [chunk(index) for index in range(11)]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    shards = sharded(path, 11)
    shards[1].unlink()
    with pytest.raises(UserError, match=rf"{shards[2].name}: begins with chunk \d+, where chunk \d+ belongs"):
        Journal.open(path)
    journal = Journal.open(path, appends=True, repair=True, shard_bytes=TINY)
    assert [file for _, file in shards_of(path)] == shards[:1]
    for index in range(len(journal.heads), 11):
        journal.append(chunk(index))
    assert chunks_of(path) == [chunk(index) for index in range(11)]
    for shard in shards:
        shard.unlink()
    with pytest.raises(UserError, match=r"texts.jsonl:1: holds chunk \d+, where chunk 0 belongs"):
        Journal.open(path)


def test_chunks_that_hold_rows_of_a_prefix_are_told_by_their_heads() -> None:
    rows = {"a": "aab", "b": "abb", "c": "a", "d": "b"}
    chunks = [
        Chunk(index, [Example(f"{index}-{i}", "t", label) for i, label in enumerate(labels)], {}, {}, [], 0, 0.0)
        for index, labels in enumerate(rows.values())
    ]
    heads = [chunk.head() for chunk in chunks]
    every = [row for chunk in chunks for row in chunk.rows]
    for n in range(10):
        quota = quotas(n, ["a", "b"])
        wanted = {row.uid for row in first_per_label(every, quota)}
        holding = [chunk.index + 1 for chunk in chunks if any(row.uid in wanted for row in chunk.rows)]
        assert list(used_chunks(heads, quota)) == heads[: max(holding, default=0)]
        accepted = sum((head.accepted for head in heads), start=type(heads[0].accepted)())
        assert rows_within(quota, accepted) == len(wanted)


def test_no_row_is_read_after_a_quota_is_filled() -> None:
    rows = iter([Example(str(i), "t", "ab"[i % 2]) for i in range(10)])
    assert len(list(first_per_label(rows, {"a": 2, "b": 1}))) == 3
    assert next(rows).uid == "3"
    assert not list(first_per_label(islice(rows, 3), {"a": 0, "b": 0}))
    assert next(rows).uid == "4"


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
