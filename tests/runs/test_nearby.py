import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from zerogen.config.schema import Config, PoolConfig, SettingConfig
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


def test_a_damaged_pool_is_repaired_to_what_it_was(tiny_config: Config) -> None:
    config = replace(tiny_config, n=60, decoding=replace(tiny_config.decoding, chunk_size=64))
    said(config)
    (pool,) = Path(config.output_dir).glob("toy/pool_*/texts.jsonl")
    (result,) = Path(config.output_dir).glob("toy/zerogen_*/result.json")
    before = [line["rows"] for line in map(json.loads, pool.read_text().splitlines())]
    assert len(before) > 2
    lines = pool.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * 40 + b"\n"
    pool.write_bytes(b"".join(lines))
    result.unlink()
    with pytest.raises(UserError, match="texts.jsonl:2: not a chunk"):
        said(config)
    said(replace(config, pool=PoolConfig(repair=True)))
    assert [line["rows"] for line in map(json.loads, pool.read_text().splitlines())] == before
    assert result.is_file()


def test_a_run_that_cannot_begin_leaves_no_folder(tiny_config: Config) -> None:
    config = replace(tiny_config, dataset="no.jsonl", dataset_labels={})
    with pytest.raises(UserError):
        said(config)
    assert not Path(config.output_dir).exists()
