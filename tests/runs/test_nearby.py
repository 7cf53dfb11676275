import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from zerogen.config.schema import Config, SettingConfig
from zerogen.errors import UserError
from zerogen.jobs import run_one


def said(config: Config) -> str:
    text = io.StringIO()
    run_one(config, Console(file=text, width=400), pages=False)
    return text.getvalue()


def test_a_run_beside_one_that_differs_in_one_key_names_it(tiny_config: Config) -> None:
    config = replace(tiny_config, setting=SettingConfig("supervised"), limit=20)
    assert "another folder" not in said(config)
    slower = replace(config, trainer=replace(config.trainer, lr=1e-4))
    (folder,) = Path(config.output_dir).glob("toy/supervised*")
    assert f"trainer.lr=0.0001 makes another folder than {folder}, where it is 0.001\n" in said(slower)
    assert "another folder" not in said(slower)  # which is there by now
    assert "another folder" not in said(replace(slower, seed=7))
    both = replace(slower, limit=22, trainer=replace(config.trainer, lr=3e-4))
    assert "another folder" not in said(both)


def test_a_run_that_cannot_begin_leaves_no_folder(tiny_config: Config) -> None:
    config = replace(tiny_config, dataset="no.jsonl", dataset_labels={})
    with pytest.raises(UserError):
        said(config)
    assert not Path(config.output_dir).exists()
