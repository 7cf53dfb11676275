"""Whole runs on the bundled models and on human-labelled reviews."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import DatasetCard
from transformers import AutoModelForSequenceClassification

import zerogen
from zerogen.data.stratified import stratified
from zerogen.generation.pool import Journal
from zerogen.plm.model import Plm
from zerogen.plm.prompting import prompt_labels
from zerogen.plm.protocol import Scorer

SMALL = ["experiment=demo", "setting=zerogen", "decoding.chunk_size=128", "eval_limit=60", "n=40", "log_every=20"]


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zerogen", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_prompting_beats_chance_on_rotten_tomatoes() -> None:
    task = zerogen.load_task("rotten_tomatoes")
    rows = stratified(zerogen.load_gold(task, "validation"), 150, 0)
    plm = zerogen.load_plm("smollm2")
    assert isinstance(plm, Scorer)
    predictions, _ = prompt_labels(plm, task, rows)
    right = sum(prediction.label == row.label for prediction, row in zip(predictions, rows, strict=True))
    assert right / len(rows) > 0.6  # chance stays below with 99 % probability


def test_the_plm_of_a_run_labels_texts_as_the_run_did(tmp_path: Path) -> None:
    done = command(tmp_path, "task=rotten_tomatoes", "setting=prompting", "plm=smollm2", "eval_limit=24")
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("outputs/rotten_tomatoes/prompting_smollm2_none_*")
    expected = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": line["text"]}) + "\n" for line in expected))
    out = []
    for model in ([str(run)], ["--plm", "smollm2", "--task", "rotten_tomatoes"]):
        predict = [sys.executable, "-m", "zerogen.predict", *model, "--file", "t.jsonl", "--probabilities"]
        out.append(subprocess.run(predict, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert out[0] == out[1]
    for line, found in zip(expected, map(json.loads, out[0].splitlines()), strict=True):
        # In bfloat16, what is read beside a text changes the last digits.
        assert found["probabilities"] == pytest.approx(line["probabilities"], abs=0.01)
        assert found["label"] == line["prediction"] or found["probability"] < 0.51


def test_the_bundled_plm_reads_a_text_once_for_all_endings() -> None:
    plm = zerogen.load_plm("smollm2")
    assert isinstance(plm, Plm) and plm.longest_fork == plm.max_positions


def test_a_tam_trained_on_400_gold_rows_beats_chance() -> None:
    task = zerogen.load_task("rotten_tomatoes")
    tam = zerogen.fit(stratified(zerogen.load_gold(task, "train"), 400, 0), task, "minilm", seed=0)
    metrics = zerogen.evaluate(tam, stratified(zerogen.load_gold(task, "validation"), 400, 0))
    assert metrics["accuracy"] > 0.62


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A small ZEROGEN run with the command line: working folder, run folder, output."""
    folder = tmp_path_factory.mktemp("work")
    done = command(folder, *SMALL)
    assert done.returncode == 0, done.stderr
    (run,) = folder.glob("outputs/rotten_tomatoes/zerogen_*")
    return folder, run, done.stdout


def test_zerogen_end_to_end(finished: tuple[Path, Path, str]) -> None:
    folder, run, out = finished
    result = json.loads((run / "result.json").read_text())
    assert (result["setting"], result["n_train"], result["n_eval"], result["seed"]) == ("zerogen", 40, 60, 42)
    assert set(result["seconds"]) == {"load", "contexts", "generate", "train", "evaluate"}
    assert sum(result["rejects"].values()) + 40 <= result["requests"]
    assert result["peak_memory_mb"]["cpu"] > 300
    for label in ("negative", "positive"):
        assert out.count(f"[{label}, ") == 2  # two rendered prompts and their outputs
    trend = list(csv.DictReader((run / "trend.csv").open()))
    assert [(row["n"], row["metric"]) for row in trend] == [
        (n, metric) for n in ("20", "40") for metric in ("accuracy", "macro_f1")
    ]
    rows = [json.loads(line) for line in (run / "rotten_tomatoes-dataset.jsonl").read_text().splitlines()]
    assert [row["Y"] for row in rows].count(0) == [row["Y"] for row in rows].count(1) == 20
    assert all(len(row["X"].split()) >= 10 and '"' not in row["X"] for row in rows)
    loaded = datasets.load_from_disk(str(run / "dataset"))
    assert loaded["X"][:] == [row["X"] for row in rows]
    assert AutoModelForSequenceClassification.from_pretrained(run / "tam").config.label2id == {
        "negative": 0,
        "positive": 1,
    }
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    hits = sum(row["label"] == row["prediction"] for row in predictions)
    assert hits / len(predictions) == pytest.approx(result["metrics"]["accuracy"])
    (line,) = csv.DictReader((folder / "outputs" / "results.csv").open())
    assert float(line["accuracy"]) == pytest.approx(result["metrics"]["accuracy"], abs=1e-4)


def test_a_finished_run_is_not_repeated_and_a_larger_one_extends_it(finished: tuple[Path, Path, str]) -> None:
    folder, run, _ = finished
    before = (run / "rotten_tomatoes-dataset.jsonl").read_text().splitlines()
    again = command(folder, *SMALL)
    assert again.returncode == 0
    assert "already there, nothing done" in again.stdout
    smaller = command(folder, *SMALL, "n=20")
    assert smaller.returncode == 2
    assert re.search(r"n=20: outputs\S+ holds a run of n=40, which this one would replace", smaller.stderr)
    assert (run / "rotten_tomatoes-dataset.jsonl").read_text().splitlines() == before
    larger = command(folder, *SMALL, "n=44", "train=false")
    assert larger.returncode == 0, larger.stderr
    (generated,) = folder.glob("outputs/rotten_tomatoes/zerogen_smollm2_none_*")
    after = [json.loads(line) for line in (generated / "rotten_tomatoes-dataset.jsonl").read_text().splitlines()]
    for label in ("negative", "positive"):
        small = [row for row in map(json.loads, before) if row["label"] == label]
        assert small == [row for row in after if row["label"] == label][:20]


def test_the_dataset_file_and_the_tam_are_used_again(finished: tuple[Path, Path, str]) -> None:
    folder, run, _ = finished
    done = command(
        folder, "experiment=demo", "setting=zerogen", f"dataset={run}/rotten_tomatoes-dataset.jsonl", "limit=30",
        "log_every=null", "eval_limit=60", "tam=lstm", "trainer.epochs=1", "output_dir=other",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (lstm,) = folder.glob("other/rotten_tomatoes/zerogen_none_lstm_*")
    assert json.loads((lstm / "result.json").read_text())["n_train"] == 30
    assert zerogen.load_tam(lstm / "tam").predict(["a film"])[0].label in ("negative", "positive")
    done = command(
        folder, "experiment=demo", "setting=zerogen", f"tam.checkpoint={run}/tam", "train=false", "eval_limit=60",
        "output_dir=third",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (evaluated,) = folder.glob(f"third/rotten_tomatoes/zerogen_none_{run.name}_*")
    first, second = (json.loads((path / "result.json").read_text())["metrics"] for path in (run, evaluated))
    assert first == second


def test_an_own_task_without_gold_data(tmp_path: Path) -> None:
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "spam.yaml").write_text(
        "name: spam\nlabels: [ham, spam]\nprompts: {ham: 'A message from a friend: \"', spam: 'An advertisement: \"'}\n"
    )
    done = command(
        tmp_path, "--config-dir", "conf", "task=spam", "plm=smollm2", "tam=minilm", "n=12", "decoding.chunk_size=64",
        "filter.min_words=3", "seeds=[0,1]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nothing was evaluated" in done.stdout
    runs = sorted(tmp_path.glob("outputs/spam/zerogen_*/result.json"))
    assert [json.loads(path.read_text())["metrics"] for path in runs] == [{}, {}]
    assert len(list(tmp_path.glob("outputs/spam/zerogen_smollm2_minilm_n12_seeds_*.json"))) == 1
    assert len(list(csv.DictReader((tmp_path / "outputs" / "results.csv").open()))) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    arguments = [argument for argument in SMALL if not argument.startswith("n=")]
    process = subprocess.Popen(
        [sys.executable, "-m", "zerogen", *arguments, "n=2000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 300
    while not list(tmp_path.glob("outputs/*/pool_*/texts.jsonl")) and time.monotonic() < limit:
        time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    (pool,) = tmp_path.glob("outputs/rotten_tomatoes/pool_*")
    kept = sum(1 for _ in Journal.open(pool / "texts.jsonl").rows())
    assert kept > 0
    assert f"{kept} accepted rows are kept in {pool.relative_to(tmp_path)}; run the same command again" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    done = command(tmp_path, "experiment=demo", "gpu=0")
    assert done.returncode == 2
    assert "gpu=0: there is no such GPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


PASSAGES = [
    f"{name} was born in {place} in {year} and studied {subject} at the university. Later {name} worked in {other}."
    for name, place, year, subject, other in [
        ("Anna Berg", "Vienna", 1901, "chemistry", "Boston"),
        ("Otto Lind", "Prague", 1888, "music", "Lisbon"),
        ("Mary Cole", "Dublin", 1923, "medicine", "Nairobi"),
        ("Jean Roux", "Lyon", 1874, "law", "Montreal"),
        ("Karl Stein", "Bremen", 1910, "botany", "Jakarta"),
        ("Lucy Hart", "Leeds", 1935, "physics", "Geneva"),
    ]
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gold data of three tasks in their own columns."""
    folder = tmp_path_factory.mktemp("data")
    years = [passage.split(" and ")[0][-4:] for passage in PASSAGES]
    rows: dict[str, list[dict[str, object]]] = {
        "qnli": [
            {"question": "In which year was the person born?", "sentence": passage, "label": i % 2}
            for i, passage in enumerate(PASSAGES)
        ],
        "rte": [
            {"sentence1": passage, "sentence2": "The person went to a university.", "label": i % 2}
            for i, passage in enumerate(PASSAGES)
        ],
        "squad": [
            {"id": f"q{i}", "context": passage, "question": "In which year was the person born?",
             "answers": {"text": [year], "answer_start": [passage.index(year)]}}
            for i, (passage, year) in enumerate(zip(PASSAGES, years, strict=True))
        ],
    }  # fmt: skip
    for task, of_task in rows.items():
        (folder / task).mkdir()
        for split, part in (("train", of_task[:4]), ("validation", of_task[4:])):
            (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


@pytest.mark.parametrize("task", ["qnli", pytest.param("rte", marks=pytest.mark.long), "squad"])
def test_the_three_settings_on_pairs_and_questions(data_dir: Path, task: str, tmp_path: Path) -> None:
    done = command(
        tmp_path, "-m", "setting=supervised,prompting,zerogen", f"task={task}", f"data_dir={data_dir}", "plm=smollm2",
        "tam=minilm", "n=6", "trainer.epochs=1", "trainer.heldout=0.5", "task.min_words=3", "filter.min_acceptance=0",
        "decoding.chunk_size=32", "method=zerogen" if task == "qnli" else "seed=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (tmp_path / "outputs" / "results.csv").open() as file:
        lines = {line["setting"]: line for line in csv.DictReader(file)}
    assert set(lines) == {"supervised", "prompting", "zerogen"}
    main, other = ("exact_match", "accuracy") if task == "squad" else ("accuracy", "exact_match")
    assert all(0 <= float(line[main]) <= 1 and line[other] == "" for line in lines.values())
    assert [lines[name]["n_train"] for name in ("supervised", "prompting", "zerogen")] == ["4", "0", "6"]
    folder = tmp_path / lines["zerogen"]["folder"]
    rows = [json.loads(line) for line in (folder / f"{task}-dataset.jsonl").read_text().splitlines()]
    contexts = [row["context" if task == "squad" else "C"] for row in rows]
    assert set(contexts) <= set(PASSAGES[:4])  # of the training split alone
    if task == "squad":
        for row in rows:
            (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
            assert row["context"][start:].startswith(text)
            assert row["question"].endswith("?")
            assert text.casefold() not in row["question"].casefold().split()
        asked = [str(folder), "In which year was she born?", "--context", PASSAGES[5]]
    else:
        assert sorted(row["Y"] for row in rows) == [0, 0, 0, 1, 1, 1]
        asked = [str(folder), "She was born.", "--context", PASSAGES[5]]
    predict = [sys.executable, "-m", "zerogen.predict", *asked]
    found = subprocess.run(predict, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.count("\t") == 2
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["context"] for row in predictions] == PASSAGES[4:]
    category = "question-answering" if task == "squad" else "text-classification"
    assert DatasetCard.load(folder / "dataset" / "README.md").data.task_categories == [category]


def test_of_two_runs_with_one_folder_the_second_finds_what_the_first_has_made(tmp_path: Path) -> None:
    arguments = ["experiment=demo", "setting=supervised", "limit=100", "eval_limit=40"]
    command = [sys.executable, "-m", "zerogen", *arguments]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("already there, nothing done" in text for text in said) == 1
    assert sum("training on 90 rows" in text or "n=100: accuracy" in text for text in said) == 1
    assert len((tmp_path / "outputs" / "results.csv").read_text().splitlines()) == 2
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_nothing_is_lost(small_disk: Path) -> None:
    arguments = ["experiment=demo", "setting=supervised", "limit=60", "eval_limit=40"]
    done = command(small_disk, *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.search(r"zerogen: error: .*: No space left on device; free some space and run the same command", line)
    left = {path.name for path in small_disk.rglob("*") if path.is_file()}
    assert not any(".part" in name or name.endswith(".ckpt") for name in left)
    subprocess.run(["mount", "-o", "remount,size=2g", str(small_disk)], check=True)
    assert command(small_disk, *arguments).returncode == 0
