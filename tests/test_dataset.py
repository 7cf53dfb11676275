import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from tests.conftest import toy_rows
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.data.synthetic import export_rows, load_datasets, load_synthetic, write_folder, write_jsonl
from zerogen.errors import UserError
from zerogen.support.progress import Progress


def test_jsonl_and_folder_are_read_back(task: TaskConfig, tmp_path: Path) -> None:
    rows = toy_rows(6)
    write_jsonl(export_rows(rows, task), tmp_path / "toy-dataset.jsonl")
    write_folder(rows, task, tmp_path / "dataset")
    assert load_synthetic(str(tmp_path / "toy-dataset.jsonl"), task, {}) == rows
    assert load_synthetic(str(tmp_path / "dataset"), task, {}) == rows
    first = json.loads((tmp_path / "toy-dataset.jsonl").read_text().splitlines()[1])
    assert list(first) == ["C", "X", "Y", "label", "uid", "logprob"]
    assert (first["Y"], first["label"]) == (1, "good")


def test_uids_are_made_unique(task: TaskConfig, tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    lines = [{"text": f"text {i}", "label": "bad", "uid": uid} for i, uid in enumerate(["a", "a", "a-2", "b", "a"])]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = load_synthetic(str(path), task, {})
    assert [row.uid for row in found] == ["a", "a-3", "a-2", "b", "a-4"]
    assert [row.text for row in found] == [line["text"] for line in lines]


def test_several_datasets_are_one(task: TaskConfig, tmp_path: Path) -> None:
    rows = toy_rows(6)
    write_jsonl(export_rows(rows[:4], task), tmp_path / "one.jsonl")
    write_folder(rows[2:], task, tmp_path / "other")
    found = load_datasets([str(tmp_path / "one.jsonl"), str(tmp_path / "other")], task, {})
    assert [row.text for row in found] == [row.text for row in rows[:4] + rows[2:]]
    assert len({row.uid for row in found}) == 8
    assert load_datasets(str(tmp_path / "one.jsonl"), task, {}) == rows[:4]
    (tmp_path / "numbered.jsonl").write_text('{"X": "a fine film", "Y": 0}\n')
    found = load_datasets(
        [str(tmp_path / name) for name in ("one.jsonl", "numbered.jsonl")], task, {0: "good", 1: "bad"}
    )
    assert [row.label for row in found] == [*(row.label for row in rows[:4]), "good"]  # Y of the first file is its own
    with pytest.raises(UserError, match=r"none\.jsonl"):
        load_datasets([str(tmp_path / "one.jsonl"), str(tmp_path / "none.jsonl")], task, {})


def test_log_probabilities_of_other_programs_do_not_matter(task: TaskConfig, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('X,label,counter_logprob\na fine film,good,"{}"\n')
    assert load_synthetic(str(path), task, {})[0].counter_logprob == {}
    path = tmp_path / "rows.jsonl"
    path.write_text('{"X": "a fine film", "label": "good", "logprob": NaN, "counter_logprob": {"bad": Infinity}}\n')
    (row,) = load_synthetic(str(path), task, {})
    assert (row.logprob, row.counter_logprob) == (None, {})


def test_the_folder_knows_the_names_of_labels(task: TaskConfig, tmp_path: Path) -> None:
    write_folder(toy_rows(6), task, tmp_path / "dataset")
    assert datasets.load_from_disk(str(tmp_path / "dataset")).features["Y"].names == ["bad", "good"]


def test_files_of_the_original_code_need_the_meaning_of_their_integers(task: TaskConfig, tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text('{"C": "t", "X": "a fine film", "Y": 0}\n{"C": "t", "X": "dull", "Y": 1}\n')
    with pytest.raises(UserError, match=r"dataset_labels='\{0: bad, 1: good\}'"):
        load_synthetic(str(path), task, {})
    assert [row.label for row in load_synthetic(str(path), task, {0: "good", 1: "bad"})] == ["good", "bad"]
    path.write_text('{"X": "a fine film", "label": 0}\n')
    with pytest.raises(UserError, match=r"only an integer label \(0\)"):
        load_synthetic(str(path), task, {})
    assert [row.label for row in load_synthetic(str(path), task, {0: "good", 1: "bad"})] == ["good"]
    path.write_text('{"C": "t", "X": "a fine film", "Y": 0}\n{"C": "t", "X": "dull", "Y": 1}\n')
    with pytest.raises(UserError, match="label in dataset_labels: '1' is unknown"):
        load_synthetic(str(path), task, {0: "good"})
    with pytest.raises(UserError, match="dataset_labels.0: 'god' is unknown.*'good'"):
        load_synthetic(str(path), task, {0: "god", 1: "bad"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"texts": "a", "label": "good"}', "no column 'X'"),
        ('{"X": "a"}', "no column 'label'"),
        ('{"X": "a", "label": "fine"}', "row 1: label: 'fine' is unknown"),
        ('{"X": " ", "label": "good"}', "row 1: X is ' '"),
        ('{"X": null, "label": "good"}', "row 1: X is None"),
        ('{"X"', r"rows.jsonl:1: not JSON"),
    ],
)
def test_bad_rows_are_named(task: TaskConfig, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        load_synthetic(str(path), task, {})


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_rows_of_one_stage_have_their_text_in_c(task: TaskConfig, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = [{"C": f"a film {i}", "X": None, "Y": i % 2} for i in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = tmp_path / "train.csv"
    table.write_text("C,X,Y\n" + "".join(f"a film {i},,{i % 2}\n" for i in range(4)))
    names = {0: "bad", 1: "good"}
    assert load_synthetic(str(table), task, names) == load_synthetic(str(path), task, names)
    told = Told()
    rows = load_synthetic(str(path), task, {0: "bad", 1: "good"}, told)
    assert [(row.text, row.context, row.label) for row in rows[:2]] == [
        ("a film 0", None, "bad"),
        ("a film 1", None, "good"),
    ]
    assert told.lines == [f"{path}: X is null; the texts are read from C"]
    path.write_text(path.read_text() + json.dumps({"C": "Title", "X": "a text", "Y": 0}) + "\n")
    with pytest.raises(UserError, match="row 5: X is 'a text', but null in the rows before; allowed is all or none"):
        load_synthetic(str(path), task, {0: "bad", 1: "good"})


def test_classes_of_a_folder_are_names(task: TaskConfig, tmp_path: Path) -> None:
    features = datasets.Features({"X": datasets.Value("string"), "Y": datasets.ClassLabel(names=["good", "bad"])})
    datasets.Dataset.from_list([{"X": "a film", "Y": 0}], features=features).save_to_disk(str(tmp_path / "d"))
    assert load_synthetic(str(tmp_path / "d"), task, {})[0].label == "good"
    assert load_synthetic(str(tmp_path / "d"), task, {0: "bad"})[0].label == "bad"  # what the user says counts
    datasets.Dataset.from_list([{"X": "a film", "Y": None}], features=features).save_to_disk(str(tmp_path / "n"))
    with pytest.raises(UserError, match="row 1: label: 'None' is unknown"):
        load_synthetic(str(tmp_path / "n"), task, {})


@pytest.mark.parametrize("column", ["X", "C"])
def test_half_a_character_is_found_at_once(task: TaskConfig, tmp_path: Path, column: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"C": "c", "X": "x", "label": "bad"} | {column: "\ud83d"}) + "\n")
    with pytest.raises(UserError, match=rf"row 1: {column}: holds U\+D83D"):
        load_synthetic(str(path), task, {})


def test_what_rows_lack_is_shared_and_cannot_be_filled() -> None:
    other = Example.of({"uid": "2", "text": "another", "label": "good", "counter_logprob": {}})
    row = Example("1", "a text", "good")
    assert row.scores == other.scores == {} == row.counter_logprob | {}
    assert row.scores is other.target is other.counter_logprob
    with pytest.raises(TypeError, match="records do not change"):
        row.scores["confidence"] = 1.0
    assert replace(row, scores=row.scores | {"confidence": 1.0}).scores == {"confidence": 1.0}
    assert pickle.loads(pickle.dumps(row)) == copy.deepcopy(row) == row
