"""A setting says what it reads; from that follow its models, its folders and what distinguishes its runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from zerogen.config.schema import Config, PlmConfig, SettingConfig, TamConfig, TrainerConfig
from zerogen.config.task_schema import GoldConfig, TaskConfig
from zerogen.errors import UserError
from zerogen.jobs import expand
from zerogen.runs.result import Result
from zerogen.runs.run import Run
from zerogen.runs.settings import SETTINGS, check_setting, recorded_setting, setting_of

OWN = """
from zerogen.runs.settings import Setting

def guess(run):
    raise AssertionError("nothing runs here")

GUESS = Setting("guess", guess, frozenset({"gold"}))
TAKEN = Setting("zerogen", guess, frozenset({"gold"}))
SLASH = Setting("a/b", guess, frozenset({"gold"}))
READS = Setting("guess", guess, frozenset({"trainr"}))
"""
MODELS = {
    "supervised": ("none", "small"),
    "prompting": ("large", "none"),
    "similarity": ("none", "small"),
    "zerogen": ("large", "small"),
}


@pytest.fixture
def own(own_modules: Path) -> Path:
    path = own_modules / "own_guess.py"
    path.write_text(OWN)
    return path


def config(setting: str, **changes: Any) -> Config:
    task = TaskConfig(name="toy", labels=["bad", "good"], gold={"own": GoldConfig(files={"validation": "v.jsonl"})})
    models: dict[str, Any] = {"plm": PlmConfig("large", "x"), "tam": TamConfig("small", model="y")}
    return Config(task=task, setting=SettingConfig(setting), **(models | changes))


def result(setting: str) -> Result:
    return Result(setting, "t", "none", "none", seed=1, n_train=0, n_eval=0, evaluated_on=None, metrics={})


def folder(asked: Config) -> str:
    return Run(asked, [torch.device("cpu")]).folder().name


@pytest.mark.parametrize("name", SETTINGS)
def test_the_models_of_a_setting(name: str) -> None:
    setting = setting_of(config(name))
    assert setting.name == name
    assert setting.models(config(name)) == MODELS[name]
    assert recorded_setting(result(name)) is setting
    checkpoint = config(name, tam=TamConfig("small", checkpoint="c"), train=False)
    if name not in ("prompting", "similarity"):  # which never read it
        assert setting.models(checkpoint) == ("none", "small")
    assert setting.models(config(name, dataset="d.jsonl"))[0] == ("large" if name == "prompting" else "none")


def test_runs_of_one_folder_differ_in_what_the_setting_reads() -> None:
    asked = [setting_of(config(name)).asked_for(config(name, n=100, log_every=10)) for name in SETTINGS]
    assert [(one["n"], one["log_every"]) for one in asked] == [(None, None)] * 3 + [(100, 10)]
    given = config("zerogen", n=100, dataset="d.jsonl")
    assert setting_of(given).asked_for(given)["n"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setting": SettingConfig("prompting"), "train": False}, "train=false: setting=prompting never trains"),
        ({"setting": SettingConfig("supervised"), "dataset": "d.jsonl"}, "dataset=d.jsonl: setting=supervised does"),
        ({"setting": SettingConfig("zerogen"), "dataset": "d.jsonl", "train": False}, "nothing would be done"),
        ({"setting": SettingConfig("supervised"), "task": TaskConfig(name="t")}, "setting=supervised: task 't' has no"),
        ({"setting": SettingConfig("zerogn")}, "setting.name: 'zerogn' is unknown; .*did you mean 'zerogen'"),
        ({"setting": SettingConfig("own_guess:GUESS"), "train": False}, "train=false: setting=guess never trains"),
        ({"setting": SettingConfig("own_guess:GUES")}, "attribute: 'GUES' is unknown; .*did you mean 'GUESS'"),
        ({"setting": SettingConfig("own_gess:GUESS")}, "setting.name=own_gess:GUESS: there is no module 'own_gess'"),
        ({"setting": SettingConfig("own_guess:guess")}, "own_guess:guess: is a function; allowed is a Setting"),
        ({"setting": SettingConfig("own_guess:TAKEN")}, "name=zerogen: allowed is another name than supervised,"),
        ({"setting": SettingConfig("own_guess:SLASH")}, "own_guess:SLASH: name=a/b: allowed are letters"),
        ({"setting": SettingConfig("own_guess:READS")}, "reads: 'trainr' is unknown; .*did you mean 'trainer'"),
    ],
)
def test_a_setting_without_anything_to_do_is_refused(own: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_setting(replace(config("zerogen"), **changes))


def test_an_own_setting_is_named_by_its_short_name_and_its_code(own: Path) -> None:
    asked = config("own_guess:GUESS")
    check_setting(asked)
    before = folder(asked)
    assert before.startswith("guess_none_none_")
    assert folder(replace(asked, plm=PlmConfig("other", "z"), n=7, seed=3, limit=9)) == before  # it reads none of them
    assert folder(replace(asked, task=replace(asked.task, prompts={"bad": "Bad"}))) != before
    assert folder(replace(asked, eval_limit=10)) != before
    assert len(expand(replace(asked, seeds=[1, 2]))) == 1
    own.write_text(OWN + "# another\n")
    assert folder(asked) != before


def test_a_result_says_what_its_readers_must_know_of_an_own_setting(own: Path) -> None:
    setting = setting_of(config("own_guess:GUESS"))
    recorded = recorded_setting(replace(result("guess"), own_setting=setting.record()))
    assert recorded is not None
    assert (recorded.name, recorded.reads, recorded.synthetic) == ("guess", setting.reads, setting.synthetic)
    assert recorded_setting(result("guess")) is None
    assert setting_of(config("zerogen")).record() is None


def test_the_code_of_an_own_setting_and_of_an_own_loss_both_count(own: Path, tmp_path: Path) -> None:
    (tmp_path / "own_loss.py").write_text("def loss(logits, targets): ...\n")
    own.write_text(OWN + 'LEARNS = Setting("learns", guess, frozenset({"gold", "tam", "trainer", "train"}))\n')
    asked = config("own_guess:LEARNS", trainer=TrainerConfig(loss="own_loss:loss"))
    names = {folder(asked)}
    own.write_text(own.read_text() + "# another\n")
    names.add(folder(asked))
    (tmp_path / "own_loss.py").write_text("def loss(logits, targets): return 0\n")
    names.add(folder(asked))
    assert len(names) == 3


def test_a_folder_keeps_its_name_while_a_run_goes_on(own: Path) -> None:
    run = Run(config("own_guess:GUESS"), [torch.device("cpu")])
    before = run.folder()
    own.write_text(OWN + "# edited meanwhile\n")
    assert run.folder() == before
