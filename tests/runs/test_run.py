"""What makes a pool of generated rows another one, and what is said of a result."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zerogen.config.schema import Config, PlmConfig, SettingConfig
from zerogen.config.task_schema import ContextConfig, GoldConfig, HoldoutConfig, TaskConfig
from zerogen.data.records import AnswerPrediction, Prediction
from zerogen.errors import UserError
from zerogen.runs.identity import run_key
from zerogen.runs.migration import former_run_key
from zerogen.runs.run import Outcome, Run, describe
from zerogen.runs.store import asked_for, finished
from zerogen.runs.summaries import add_line
from zerogen.support.progress import Progress

CPU = [torch.device("cpu")]
Change = Callable[[Config, Path], None]


def write(path: Path, passage: str) -> str:
    answers = {"text": ["Ann"], "answer_start": [0]}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"id": "1", "question": "Who?", "context": passage, "answers": answers}) + "\n")
    return str(path)


def config(folder: Path) -> Config:
    files = {split: write(folder / f"{split}.jsonl", "Ann came.") for split in ("train", "validation")}
    gold = GoldConfig(files=files, text="question", context="context", uid="id")
    (folder / "plm").mkdir(exist_ok=True)
    (folder / "plm" / "config.json").write_text("{}")
    (folder / "c.txt").write_text("Ann came.\n")
    task = TaskConfig(
        name="asked",
        kind="qa",
        labels=["question"],
        prompts={"question": '"<C>" "<Y>": "'},
        context=ContextConfig(source="gold"),
        answers="rules",
        gold={"own": gold},
    )
    return Config(task=task, plm=PlmConfig(name="tiny", model=str(folder / "plm"), dtype="float32"))


def pool(config: Config) -> str:
    return Run(config, [torch.device("cpu")]).pool_folder().name


def gold(config: Config) -> GoldConfig:
    return config.task.gold["own"]


def source(config: Config) -> ContextConfig:
    assert config.task.context is not None
    return config.task.context


def elsewhere(config: Config, folder: Path) -> None:
    gold(config).files["train"] = write(folder / "other" / "t.jsonl", "Ann came.")


def another(config: Config, folder: Path) -> None:
    write(folder / "train.jsonl", "Ann went.")


def of_a_file(config: Config, folder: Path) -> None:
    source(config).source = str(folder / "c.txt")


@pytest.mark.parametrize(
    "change",
    [
        lambda config, _: setattr(gold(config), "evaluate_on", "test"),
        lambda config, _: gold(config).labels.update({0: "question"}),
        lambda config, folder: write(folder / "validation.jsonl", "Ann went."),
        lambda config, folder: (folder / "gold").write_text("a file of that name"),
        lambda config, _: setattr(config, "n", 77),
        elsewhere,
    ],
)
def test_what_does_not_shape_rows_keeps_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    monkeypatch.chdir(tmp_path)
    before = pool(config(tmp_path))
    changed = config(tmp_path)
    change(changed, tmp_path)
    assert pool(changed) == before


@pytest.mark.parametrize(
    "change",
    [
        another,
        of_a_file,
        lambda config, _: setattr(gold(config), "context", "passage"),
        lambda config, _: setattr(gold(config), "text", "title"),
        lambda config, _: setattr(gold(config), "where", {"id": 1}),
        lambda config, _: setattr(gold(config), "holdout", HoldoutConfig(rows=1)),
        lambda config, _: setattr(config.task, "answers", "gold"),
        lambda config, _: setattr(config.task, "min_words", 9),
        lambda config, _: setattr(config, "seed", 77),
    ],
)
def test_what_shapes_rows_makes_another_pool(tmp_path: Path, change: Change) -> None:
    before = pool(config(tmp_path))
    changed = config(tmp_path)
    change(changed, tmp_path)
    assert pool(changed) != before


def test_a_context_file_is_its_content(tmp_path: Path) -> None:
    first = config(tmp_path)
    of_a_file(first, tmp_path)
    before = pool(first)
    (tmp_path / "d.txt").write_text("Ann came.\n")
    source(first).source = str(tmp_path / "d.txt")
    write(tmp_path / "train.jsonl", "Ann went.")  # which is not read
    assert pool(first) == before
    (tmp_path / "d.txt").write_text("Ann went.\n")
    assert pool(first) != before
    again = pool(first)
    first.task.answers = "gold"
    assert pool(first) != again


def test_every_seed_is_reported_on_the_same_sample(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i}", "label": f"{i % 2}"}) + "\n" for i in range(40)))
    task = TaskConfig(name="two", labels=["0", "1"], gold={"own": GoldConfig(files={"validation": str(path)})})
    first, second = (Run(Config(task=task, eval_limit=10, seed=seed), [torch.device("cpu")]).gold for seed in (1, 2))
    assert len(first) == 10
    assert first == second


@pytest.mark.parametrize(("second", "said"), [("good", "gold rows"), ("bad", "gold rows; it predicts 'bad' only")])
def test_a_model_that_predicts_one_label_only_is_named(second: str, said: str) -> None:
    metrics = {"accuracy": 0.5, "macro_f1": 1 / 3, "confusion": {}}
    predictions: list[Prediction | AnswerPrediction] = [Prediction("bad", {}), Prediction(second, {})]
    assert describe(Outcome(n_train=4, metrics=metrics, predictions=predictions)).endswith(said)


def done(folder: Path, **changes: object) -> Run:
    """A run whose folder holds a result that was changed."""
    run = Run(replace(config(folder), n=10, setting=SettingConfig("zerogen"), output_dir=str(folder)), CPU)
    result = {"setting": "zerogen", "task": "asked", "plm": "tiny", "tam": "none", "seed": 42, "n_train": 10}
    result |= {"n_eval": 0, "evaluated_on": None, "metrics": {}, "seconds": {}, "asked_for": asked_for(run.config)}
    run.folder().mkdir(parents=True)
    (run.folder() / "result.json").write_text(json.dumps(result | changes))
    return run


def test_a_result_is_found_again(tmp_path: Path) -> None:
    found = finished(done(tmp_path))
    assert found is not None and found.n_train == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": None}, "result.json: metrics=None is not what a run writes; delete it to run again"),
        ({"seconds": 3}, "result.json: seconds=3 is not what a run writes"),
        ({"seconds": {"train": "long"}}, "result.json: seconds={'train': 'long'} is not what a run writes"),
        ({"metrics": {"accuracy": None}}, "result.json: metrics={'accuracy': None} is not what a run writes"),
        ({"n_train": "10"}, "result.json: n_train='10' is not what a run writes"),
    ],
)
def test_a_result_that_is_damaged_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        finished(done(tmp_path, **changes))


@pytest.mark.parametrize("asked", [[1], None, "n", {"n": "many"}, {"n": 5}])
def test_a_result_of_something_else_is_replaced(tmp_path: Path, asked: object) -> None:
    assert finished(done(tmp_path, asked_for=asked)) is None


@pytest.mark.parametrize("content", [b"setting,task\ncaf\xe9,x\n", b'setting,task\n"open,x\n'])
def test_a_table_of_results_that_cannot_be_read_is_put_aside(tmp_path: Path, content: bytes) -> None:
    class Told(Progress):
        said = ""

        def say(self, text: str) -> None:
            self.said += text

    result = finished(done(tmp_path))
    assert result is not None
    told = Told()
    (tmp_path / "results.csv").write_bytes(content)
    add_line(tmp_path / "results.csv", result, told)
    if b"caf" in content:
        assert (tmp_path / "results.csv.damaged").read_bytes() == content
        assert "results.csv.damaged, and a new one begins" in told.said
    assert (tmp_path / "results.csv").read_text().splitlines()[-1].startswith("zerogen,asked,tiny,none,42,10,0,")


def test_a_separator_that_is_the_default_renames_no_folder(tmp_path: Path) -> None:
    one = Run(replace(config(tmp_path), setting=SettingConfig("supervised")), CPU)
    assert "separator" not in run_key(one.config, CPU[0])["gold"]
    gold(one.config).separator = ";"
    assert run_key(one.config, CPU[0])["gold"]["separator"] == ";"


def test_further_metrics_rename_no_folder(tmp_path: Path) -> None:
    plain = replace(config(tmp_path), setting=SettingConfig("supervised"))
    further = replace(plain, metrics=["own:metric"])
    assert run_key(further, CPU[0]) == run_key(plain, CPU[0])
    assert former_run_key(further, CPU[0]) == former_run_key(plain, CPU[0]) is not None
