"""A dry run probes for real, says what to expect, and leaves nothing behind."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.conftest import toy_questions, toy_rows
from zerogen import cli
from zerogen.config.keys import keys_of
from zerogen.config.schema import (
    ConfidenceConfig,
    Config,
    CorrectnessConfig,
    PlmConfig,
    SelfTrainingConfig,
    SettingConfig,
    TamConfig,
    TrainerConfig,
)
from zerogen.config.task import normalise_task
from zerogen.config.task_schema import ContextConfig, GoldConfig, TaskConfig
from zerogen.data.records import Example
from zerogen.dryrun import dry_run, estimate
from zerogen.errors import UserError
from zerogen.estimate import Expected, Session
from zerogen.generation.pool import Chunk
from zerogen.jobs import run_one
from zerogen.plm import confidence
from zerogen.runs.zerogen_cost import TextProbe
from zerogen.tam import fit as train
from zerogen.tam.tam import Tam


def write(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return replace(tiny_config, dry_run=True)


def expected_of(*configs: Config) -> list[Expected]:
    """What a command with these jobs expects of each."""
    session = Session(Console(quiet=True))
    return [estimate(config, session) for config in configs]


def said(*configs: Config) -> str:
    text = StringIO()
    dry_run(configs, Console(file=text, width=80))
    assert max(map(len, text.getvalue().splitlines())) <= 80
    return " ".join(text.getvalue().split())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training take 5 s and 0.1 s per row and epoch, predicting a row 0.02 s, scoring one 0.25 s, and no more."""
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def takes(owner: Any, name: str, seconds: Callable[..., float]) -> None:
        real = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            nonlocal now
            found = real(*args, **kwargs)
            now += seconds(found, *args)
            return found

        monkeypatch.setattr(owner, name, timed)

    takes(train, "fit", lambda found, rows, task, tam, trainer: 5 + 0.1 * found[1].rows * trainer.epochs)
    takes(Tam, "predict", lambda found, tam, inputs: 0.02 * len(inputs))
    takes(confidence, "label_confidence", lambda found, plm, task, rows: 0.25 * len(rows))


def tree(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("setting", ["zerogen", "prompting", "supervised"])
def test_nothing_is_written(config: Config, tmp_path: Path, setting: str) -> None:
    before = tree(tmp_path)
    text = said(replace(config, setting=SettingConfig(setting)))
    assert tree(tmp_path) == before
    assert "expected: about" in text
    assert text.endswith("nothing was written")


@pytest.mark.parametrize(("load", "told"), [(0.1, False), (99.0, True)])
def test_a_busy_machine_is_told(config: Config, monkeypatch: pytest.MonkeyPatch, load: float, told: bool) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    assert ("other work wants 99.0 of" in said(replace(config, setting=SettingConfig("supervised")))) == told


def test_checkpoints_of_training_take_disk_for_a_while(config: Config) -> None:
    (found,) = expected_of(replace(config, setting=SettingConfig("supervised")))
    assert found.scratch == 8 * found.disk > 0  # two of them, each with the weights four times
    assert re.search(r"MiB on disk and \d+ more while it trains", said(config))


def test_two_prompts_of_each_label_and_what_came_of_them(config: Config) -> None:
    text = said(config)
    for label in ("bad", "good"):
        filled = re.findall(rf'\[{label}, (?:accepted|rejected: \w+)\] A {label} "(.*?)": "', text)
        assert len(filled) == 2
        assert "<C>" not in filled
    assert "of the first 32 texts" in text
    assert "gold data of toy, validation: 60 rows: 30 bad, 30 good" in text


def test_prompting_shows_filled_prompts(config: Config) -> None:
    text = said(replace(config, setting=SettingConfig("prompting")))
    assert f'[bad] Bad: "{toy_rows(120)[60].text}"' in text
    assert "expected: about" in text


def test_expectations_grow_with_the_number_of_rows(config: Config) -> None:
    def expected(n: int) -> float:
        found = re.search(rf"{n:,} rows need about ([\d,]+) texts", said(replace(config, n=n)))
        assert found
        return float(found[1].replace(",", ""))

    assert expected(4000) == pytest.approx(10 * expected(400), rel=0.1)


def test_the_run_is_the_probe_as_many_times_as_it_is_needed(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    half = Chunk(0, toy_rows(16), {"bad": 16, "good": 16}, {}, [], tokens=640, seconds=3.2)
    films = Chunk(0, [Example(str(i), "film", "") for i in range(4)], {"": 4}, {}, [], tokens=40, seconds=0.5)
    texts = TextProbe(half, [films], batch=96, row_bytes=1000, once=0)
    monkeypatch.setattr("zerogen.runs.zerogen_cost.probe_texts", lambda plm, run: texts)
    config = replace(config, train=False, confidence=ConfidenceConfig(rows=0))
    sizes = (replace(config, n=n, output_dir=f"{config.output_dir}/{n}") for n in (400, 800))
    found, twice = expected_of(*sizes)
    # 200 rows of each of two labels are 800 texts, which are about 200 films
    assert found.seconds == pytest.approx({"generate": 80, "contexts": 25})
    assert found.tokens == pytest.approx(16_000 + 2_000)
    assert found.memory == 64 * 1000
    assert twice.seconds == pytest.approx({"generate": 160, "contexts": 50})
    assert twice.disk == pytest.approx(2 * found.disk)
    assert found.disk > 400 * len(half.rows[0].text)


@pytest.mark.usefixtures("clock")
def test_training_takes_its_pace_for_every_row_and_epoch(config: Config) -> None:
    config = replace(config, setting=SettingConfig("supervised"))
    trainings = ((2, 0.1), (6, 0.1), (2, 0.4))
    trainers = [replace(config.trainer, epochs=epochs, heldout=heldout) for epochs, heldout in trainings]
    every = expected_of(*(replace(config, trainer=trainer) for trainer in trainers))
    for (epochs, heldout), found in zip(trainings, every, strict=True):
        seconds = {"train": 5 + 0.1 * 60 * (1 - heldout) * epochs, "evaluate": 0.02 * 60}
        assert found.seconds == pytest.approx(seconds, rel=0.02)


@pytest.mark.usefixtures("clock")
def test_rows_are_scored_and_judged_up_to_their_limits(config: Config, tiny_encoder: Path) -> None:
    config = replace(config, correctness=CorrectnessConfig(str(tiny_encoder), rows=300))
    default = TrainerConfig()
    for rows, scored in ((10_000, 400), (100, 100)):
        (found,) = expected_of(replace(config, confidence=ConfidenceConfig(rows=rows)))
        seconds = found.seconds
        assert seconds["confidence"] == pytest.approx(0.25 * scored)
        assert seconds["correctness"] == pytest.approx(0.02 * 300)
        trained = 60 * (1 - default.heldout) * default.epochs
        assert seconds["evaluator"] == pytest.approx(5 + 0.1 * trained + 0.02 * 60, rel=0.02)


def test_what_is_not_here_is_named_and_left_out(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(config, plm=PlmConfig("far", "nobody/far"), tam=TamConfig("away", model="nobody/away"))
    text = said(missing)
    assert "PLM far (nobody/far): not available, not probed" in text
    assert "TAM away (nobody/away): not available, not probed" in text
    assert '[bad] A bad "<C>": "' in text
    assert "expected:" not in text
    worded = replace(config.task, prompts={"bad": "Bad, <A>: <C>", "good": "Good"}, attributes={"length": ["short"]})
    assert "[bad] Bad, short: <C>" in said(replace(missing, task=worded))
    hub = replace(config.task, gold={"hub": GoldConfig(hub={"path": "nobody/data"})})
    text = said(replace(config, task=hub))
    assert "gold data of toy, validation: not available, not probed" in text
    assert "train" in text.partition("expected: about")[2]


def test_labels_that_do_not_fit_are_refused(config: Config, tmp_path: Path) -> None:
    write(tmp_path / "validation.jsonl", [{"text": "a film", "label": "worse"}])
    with pytest.raises(UserError, match="label: 'worse' is unknown"):
        said(config)
    write(tmp_path / "validation.jsonl", [{"text": "a film", "label": "bad"}])
    assert "1 rows: 1 bad, 0 good; no row has label good" in said(config)


def test_what_is_there_already_is_not_asked_for_again(config: Config, own_modules: Path) -> None:
    config = replace(config, n=20, confidence=replace(config.confidence, rows=0))
    run_one(replace(config, dry_run=False), Console(quiet=True))
    before = tree(Path(config.output_dir))
    assert "already there, nothing would be done" in said(config)
    metric = 'HITS = Metric("hits", "Hits", lambda rows, predictions, labels: 0.5)'
    (own_modules / "my_hits.py").write_text(f"from zerogen.metrics import Metric\n{metric}\n")
    text = said(replace(config, metrics=["my_hits:HITS"]))
    assert "already there, only my_hits:HITS would be computed, from its predictions" in text
    text = said(replace(config, n=100))
    assert "rows are already in" in text
    assert tree(Path(config.output_dir)) == before


def test_rows_that_an_earlier_job_writes_are_not_written_again(config: Config) -> None:
    larger = replace(config, n=config.n + 20, trainer=TrainerConfig(lr=1e-3))
    alone, (first, second, third) = expected_of(larger)[0], expected_of(config, larger, replace(config, seed=7))
    assert 0 < second.seconds["generate"] < alone.seconds["generate"]
    assert third.seconds["generate"] == pytest.approx(first.seconds["generate"])  # of another seed: a pool of its own
    (again,) = expected_of(config, replace(config, trainer=TrainerConfig(lr=1e-3)))[1:]
    assert "generate" not in again.seconds


def test_unlabelled_texts_are_asked_about_once(config: Config, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(row.text for row in toy_rows(240)[120:]))
    trained = SelfTrainingConfig(1, ["prompting"], 0.5)
    config = replace(config, unlabelled=str(tmp_path / "texts.txt"), self_training=trained)
    first, second = expected_of(config, replace(config, seed=7))
    assert first.seconds["prompt"] > 0 and "prompt" not in second.seconds


def test_several_jobs_share_probes_and_end_in_a_sum(config: Config) -> None:
    twice = replace(config, setting=SettingConfig("prompting"))
    text = said(replace(config, seeds=[0, 1, 2]), twice, twice)
    assert text.count("of the first 32 texts") == 1
    assert "3 runs: seeds 0, 1, 2" in text
    assert "the same run as an earlier one of this command" in text
    assert "5 runs, about" in text


def test_questions_are_probed(config: Config, tmp_path: Path) -> None:
    rows = [
        {
            "id": row.uid,
            "context": row.context,
            "question": row.text,
            "answers": {"text": [row.answers[0].text], "answer_start": [row.answers[0].start]},
        }
        for row in toy_questions(40)
    ]
    files = {split: write(tmp_path / f"{split}.jsonl", rows) for split in ("train", "validation")}
    task = TaskConfig(
        name="ask",
        kind="qa",
        prompts={"question": '"<C>" "<Y>" answers: "'},
        scoring={"question": '"<C>" "<X>" is answered by "'},
        context=ContextConfig(source="gold"),
        answers="gold",
        min_words=1,
        max_new_tokens=24,
        gold={"own": GoldConfig(files=files, text="question", context="context", uid="id")},
    )
    task.parse.fallback = "sentence"
    normalise_task(task)
    text = said(*(replace(config, task=task, setting=SettingConfig(name)) for name in ("zerogen", "prompting")))
    assert re.search(r'\[question, \w+.*?\] ".*?lives in \w+ and eats \w+\." "\w+" answers: "', text)
    assert text.count("expected: about") == 2


def test_an_evaluator_and_given_rows_are_counted(config: Config, tmp_path: Path, tiny_encoder: Path) -> None:
    given = write(tmp_path / "given.jsonl", [{"X": row.text, "label": row.label, "C": ""} for row in toy_rows(80)])
    text = said(replace(config, dataset=given, dataset_labels={}, correctness=CorrectnessConfig(str(tiny_encoder))))
    assert "80, of which 80 are trained on" in text
    assert re.search(r"evaluator \d+ s", text)
    assert re.search(r"correctness \d+ s", text)


def test_the_command_branches_and_the_key_is_not_kept(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "dry_run" not in keys_of(config)
    folder = tmp_path / "conf" / "task"
    folder.mkdir(parents=True)
    task = keys_of(config)["task"]
    (folder / "toy.yaml").write_text(yaml.safe_dump(task))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zerogen.support.process.stop_on_signals", lambda: None)
    words = f"task=toy plm.model={config.plm.model} tam.model={config.tam.model} tam.kind=encoder n=40 dry_run=true"
    monkeypatch.setattr(sys, "argv", ["zerogen", "--config-dir", "conf", *words.split(), "gpu=none"])
    cli.main()
    assert capsys.readouterr().out.endswith("nothing was written\n")
    assert not (tmp_path / "outputs").exists()


def test_the_papers_grid_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["zerogen", "-m", "experiment=paper_table1", "dry_run=true"])
    configs = cli.compose()
    grid = {(config.task.name, config.setting.name, config.tam.name) for config in configs}
    tasks = {"imdb", "sst2", "squad", "adversarial_qa", "qnli", "rte"}
    settings = {"supervised", "prompting", "zerogen"}
    assert grid == {(t, s, m) for t in tasks for s in settings for m in ("distilbert", "lstm")}
    assert {(config.n, config.log_every, config.plm.name, config.dry_run) for config in configs} == {
        (200_000, 10_000, "gpt2-xl", True)
    }
    assert {config.tam.name: config.trainer.lr for config in configs} == {"distilbert": 2e-5, "lstm": 1e-3}
