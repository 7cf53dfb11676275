"""TAMs by name: bundled ones, and a user's own, which its folder names."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import toy_pairs, toy_rows
from zerogen.config.schema import TamConfig, TrainerConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.errors import UserError
from zerogen.tam.fit import fit, require
from zerogen.tam.table import HEADS, TAMS, check_kind, head_of, tam_of
from zerogen.tam.tam import load_tam

TASK = TaskConfig(name="toy", labels=["bad", "good"], max_length=64)
OWN = TamConfig(name="mine", kind="my_own_tams:Mine", dtype="float32", embedding=8, hidden=8)
TRAINER = TrainerConfig(lr=1e-2, epochs=2, batch_size=16, schedule="constant")
SOURCE = """
from transformers import PreTrainedTokenizerFast
from zerogen.errors import UserError
from zerogen.tam.scratch import Scratch
from zerogen.tam.lstm import LstmConfig, LstmForSequenceClassification
from transformers import PretrainedConfig

class MyConfig(LstmConfig):
    model_type = "mine"

class Model(LstmForSequenceClassification):
    config_class = MyConfig

class Mine:
    def check(config, kind):
        if kind == "qa":
            raise UserError("tam=mine: answers no questions")
    def require(config, kind):
        raise UserError("tam=mine: lacks a file")
    def build(config, task, rows, progress):
        model, tokenizer = Scratch.build(config, task, rows, progress)
        return Model(MyConfig(**{k: v for k, v in model.config.to_dict().items() if k != "model_type"})), tokenizer
    def open(folder):
        return Model.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)

class Half:
    def check(config, kind): ...
    def build(config, task, rows, progress): ...

class Bound:
    @staticmethod
    def check(config, kind): ...
    @classmethod
    def require(cls, config, kind): ...
    def build(self, config, task, rows, progress): ...
    def open(self, folder): ...
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    path = folder / "my_own_tams.py"
    path.write_text(SOURCE)
    return path


def test_every_line_of_the_tables_can_be_imported() -> None:
    assert all(tam_of(name) for name in TAMS)
    assert [head_of(kind).pair for kind in HEADS] == [False, True, True]
    with pytest.raises(UserError, match="task.kind: 'os:system' is unknown; allowed: classification, pair, qa"):
        head_of("os:system")


@pytest.mark.parametrize("kind", ["classification", "pair"])
def test_a_tam_of_ones_own_is_opened_again_by_its_name(own: Path, tmp_path: Path, kind: str) -> None:
    rows = toy_rows(60) if kind == "classification" else toy_pairs(60)
    tam, _ = fit(rows, replace(TASK, kind=kind), OWN, TRAINER, seed=1)
    tam.save(tmp_path / "tam")
    loaded = load_tam(tmp_path / "tam")
    assert loaded.spec == tam.spec
    assert type(loaded.model) is type(tam.model)
    assert loaded.predict(loaded.inputs_of(rows)) == tam.predict(tam.inputs_of(rows))
    assert all(len(ids) <= 64 for ids in tam.tokenizer(["dull " * 99], truncation=True)["input_ids"])


def test_bundled_tams_are_saved_without_a_name_of_theirs(tiny_encoder: Path, tmp_path: Path) -> None:
    """Their folders are byte for byte those of versions that knew no other TAM."""
    for config in (TamConfig(name="lstm", kind="lstm"), TamConfig(name="tiny", model=str(tiny_encoder))):
        tam, _ = fit(toy_rows(40), TASK, config, replace(TRAINER, epochs=1), seed=1)
        tam.save(tmp_path / config.name)
        saved = json.loads((tmp_path / config.name / "config.json").read_text())["zerogen"]
        assert sorted(saved) == ["answer_tokens", "dtype", "kind", "none", "order"]
        assert load_tam(tmp_path / config.name).spec.tam == config.kind


def test_code_in_a_tams_folder_never_runs(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(toy_rows(60), TASK, OWN, TRAINER, seed=1)[0].save(own.parent / "run" / "tam")
    folder = own.parent / "run"
    (folder / "config.yaml").touch()
    marker = tmp_path / "marker"
    for place in (folder, folder / "tam"):
        (place / "planted.py").write_text(f"open({str(marker)!r}, 'w')\nMine = None\n")
    path = folder / "tam" / "config.json"
    config = json.loads(path.read_text())
    for name, here in (("planted:Mine", folder), ("planted:Mine", folder / "tam"), ("run.planted:Mine", own.parent)):
        path.write_text(json.dumps(config | {"zerogen": config["zerogen"] | {"tam": name}}))
        monkeypatch.chdir(here)
        with pytest.raises(UserError, match=f"tam.kind={name}: its module would be looked for in .*never runs"):
            load_tam(folder)
    assert not marker.exists()
    monkeypatch.chdir(tmp_path)
    path.write_text(json.dumps(config | {"zerogen": config["zerogen"] | {"tam": "nowhere:Mine"}}))
    with pytest.raises(UserError, match=f"TAM folder {folder / 'tam'}: tam.kind=nowhere:Mine: there is no module"):
        load_tam(folder)


def test_a_tam_of_ones_own_checks_its_task_and_what_it_needs(own: Path) -> None:
    check_kind(OWN, "pair")
    with pytest.raises(UserError, match="tam=mine: answers no questions"):
        check_kind(OWN, "qa")
    with pytest.raises(UserError, match="tam=mine: lacks a file"):
        require(OWN, "pair")
    with pytest.raises(UserError, match=r"tam.kind=my_own_tams:Half: has no require and no open; a TAM has check, "):
        check_kind(replace(OWN, kind="my_own_tams:Half"), "pair")
    with pytest.raises(UserError, match=r"tam.kind=my_own_tams:Bound: cannot be called as build\(config, task, "):
        check_kind(replace(OWN, kind="my_own_tams:Bound"), "pair")
    with pytest.raises(UserError, match=r"tam.kind: 'lstn' is unknown; allowed: encoder, lstm, .*'lstm'"):
        check_kind(replace(OWN, kind="lstn"), "pair")
