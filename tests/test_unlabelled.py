"""Unlabelled texts are read from files or gold data; those that are reported on are left out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from zerogen.config.schema import Config
from zerogen.config.task_schema import GoldConfig, TaskConfig
from zerogen.data.gold import load_gold
from zerogen.data.unlabelled import load_unlabelled
from zerogen.errors import UserError

TASK = TaskConfig(name="toy", labels=["bad", "good"])
PAIR = TaskConfig(name="toy", kind="pair", labels=["bad", "good"])


def table(path: Path, column: str = "text", count: int = 60) -> str:
    path.write_text("".join(json.dumps({column: f"text {i}", "label": "?"}) + "\n" for i in range(count)))
    return str(path)


def test_lines_are_read_once_and_without_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("".join(f"text  {i % 60}\n\n" for i in range(120)))
    rows, left_out = load_unlabelled(str(tmp_path / "t.txt"), None, TASK)
    assert [row.text for row in rows] == [f"text {i}" for i in range(60)] and not left_out
    assert {row.label for row in rows} == {""}


@pytest.mark.parametrize("column", [None, "body"])
def test_a_table_is_read_by_its_column(tmp_path: Path, column: str | None) -> None:
    rows, _ = load_unlabelled(table(tmp_path / "t.jsonl", column or "text"), column, TASK)
    assert len(rows) == 60
    named = TaskConfig(name="toy", labels=["bad", "good"], gold={"own": GoldConfig(text="words")})
    assert len(load_unlabelled(table(tmp_path / "u.jsonl", "words"), None, named)[0]) == 60


def test_texts_that_are_reported_on_are_left_out_and_counted(tmp_path: Path) -> None:
    reported = {("", f"text {i}") for i in range(5)} | {("", "another")}
    rows, left_out = load_unlabelled(table(tmp_path / "t.jsonl"), None, TASK, reported)
    assert left_out == 5 and rows[0].text == "text 5"


def test_gold_texts_have_no_labels(tiny_config: Config) -> None:
    rows, _ = load_unlabelled("gold", None, tiny_config.task)
    gold = load_gold(tiny_config.task, "train")
    assert [row.text for row in rows] == [row.text for row in gold] and {row.label for row in rows} == {""}


def test_a_pair_needs_both_texts(tmp_path: Path) -> None:
    lines = (json.dumps({"text": f"t{i}", "context": f"c{i}"}) for i in range(60))
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    rows, _ = load_unlabelled(str(tmp_path / "p.jsonl"), None, PAIR)
    assert rows[3].content == ("c3", "t3")


@pytest.mark.parametrize(
    ("make", "column", "task", "message"),
    [
        (lambda folder: str(folder / "texs.txt"), None, TASK, "there is no such file; .*did you mean 'texts.txt'"),
        (
            lambda folder: table(folder / "t.jsonl"),
            "txt",
            TASK,
            "no column 'txt'; there are: text, label; did you mean",
        ),
        (lambda folder: table(folder / "t.jsonl", count=49), None, TASK, "holds 49 different texts; allowed are 50"),
        (lambda folder: "gold", None, TASK, "unlabelled=gold: task 'toy' has no gold data"),
        (lambda folder: str(folder / "texts.txt"), None, PAIR, "a pair has two texts, a question a passage; allowed"),
        (lambda folder: str(folder / "texts.txt"), "text", TASK, "unlabelled_column=text is for tables"),
        (lambda folder: str(folder / "texts.md"), None, TASK, "ending: '.md' is unknown; allowed: .txt, .jsonl"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, make: Callable[[Path], str], column: str | None, task: TaskConfig, message: str
) -> None:
    for name in ("texts.txt", "texts.md"):
        (tmp_path / name).write_text("a text\n")
    with pytest.raises(UserError, match=message):
        load_unlabelled(make(tmp_path), column, task)


def test_texts_that_are_all_reported_on_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 60 different texts, 20 of them left out because results are reported"):
        load_unlabelled(table(tmp_path / "t.jsonl"), None, TASK, {("", f"text {i}") for i in range(20)})


def test_texts_are_cleaned_as_gold_texts_are_before_they_are_compared(tmp_path: Path) -> None:
    gold = GoldConfig(cleaning={"<br />": " "}, context="film")
    task = TaskConfig(name="toy", labels=["bad", "good"], gold={"own": gold})
    lines = (json.dumps({"text": f"text<br />number  {i}"}) + "\n" for i in range(60))
    (tmp_path / "t.jsonl").write_text("".join(lines))
    rows, left_out = load_unlabelled(str(tmp_path / "t.jsonl"), None, task, {("a film", "text number 7")})
    assert left_out == 1 and rows[0].text == "text number 0"
