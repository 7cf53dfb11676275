"""Files as their owners meant them: nothing is swallowed, doubled or guessed."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from zerogen.data.tables import Row, iter_rows
from zerogen.errors import UserError


def read_rows(path: Path, separator: str = ",") -> list[Row]:
    return list(iter_rows(path, separator))


def csv_file(folder: Path, content: str) -> Path:
    path = folder / "a.csv"
    path.write_bytes(content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('text,label\na,0\n"b,1\nc,0\nd,1\n', "a.csv:3: not CSV .a quote is opened here and closed nowhere"),
        ('text,label\na,0\n"b,1\nc,0\n"d",1\n', "a.csv:3: not CSV .text follows a closing quote"),
        ('text,label\n"he said "no" to it",1\n', "a.csv:2: not CSV .text follows a closing quote"),
        ("text,label,label\na,0,1\n", "a.csv: column 'label' is there twice"),
        ("text;label\na;0\n", None),
        ("text,label\na, b,0\n", "a.csv:2: the header has 2 columns, this row 3"),
        ("text;label\na;0,5\n", "a.csv:2: the header has 1 columns, this row 2.*set separator: ';'"),
    ],
)
def test_csv_that_is_not_what_it_seems(tmp_path: Path, content: str, message: str | None) -> None:
    path = csv_file(tmp_path, content)
    if message is None:
        assert read_rows(path, ";") == [{"text": "a", "label": "0"}]
    else:
        with pytest.raises(UserError, match=message):
            read_rows(path)


def test_a_spreadsheets_csv_may_begin_empty_and_have_columns_without_a_name(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "\n\ntext,label,,\na,0,,\n").rename(tmp_path / "A.CSV")
    assert read_rows(path) == [{"text": "a", "label": "0", "": ""}]


@pytest.mark.parametrize("ending", ["tsv", "TAB"])
def test_a_file_of_this_ending_is_separated_by_tabs(tmp_path: Path, ending: str) -> None:
    path = csv_file(tmp_path, "text\tlabel\na, b\t0\n").rename(tmp_path / f"a.{ending}")
    assert read_rows(path) == [{"text": "a, b", "label": "0"}]


def test_csv_that_is_right_is_read_whole(tmp_path: Path) -> None:
    long = "word " * 60_000
    path = csv_file(
        tmp_path, '\ufefftext,label\r\n"a ""quoted"", text\nof two lines",0\r\n5" tall,1\r\n\r\n' + long + ",2\r\n"
    )
    assert read_rows(path) == [
        {"text": 'a "quoted", text\nof two lines', "label": "0"},
        {"text": '5" tall', "label": "1"},
        {"text": long, "label": "2"},
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1, "a": 2}', "a.jsonl:2: column 'a' is there twice"),
        ('{"a": ' + "9" * 5000 + "}", "a.jsonl:2: not JSON that can be read"),
        ("[" * 50_000 + "]" * 50_000, "a.jsonl:2: not JSON that can be read .it is nested too deeply"),
        ('{"a": ', "a.jsonl:2: not JSON"),
        ("3", "a.jsonl:2: allowed is a JSON object, found int"),
    ],
)
def test_json_lines_that_cannot_be_read(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        read_rows(path)


def test_parquet_with_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table([["x"], ["y"]], names=["text", "text"]), path)
    with pytest.raises(UserError, match="a.parquet: column 'text' is there twice"):
        read_rows(path)


def test_rows_come_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"a": i}) + "\n" for i in range(3)) + "damaged\n")
    rows = iter_rows(path)
    assert [next(rows)["a"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match="a.jsonl:4: not JSON"):
        next(rows)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    csv_file(tmp_path, "text\n")
    with pytest.raises(UserError, match="b.csv: there is no such file; did you mean 'a.csv'"):
        iter_rows(tmp_path / "b.csv")
    with pytest.raises(UserError, match="is a folder"):
        iter_rows(tmp_path)


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text\ncaf\u00e9\n".encode("latin-1"))
    with pytest.raises(UserError, match="a.csv: not UTF-8 text"):
        read_rows(path)
