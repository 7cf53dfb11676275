"""YAML files: text is text, and what cannot be read is named."""

import random
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from zerogen.config.bundled import load_task
from zerogen.config.task_schema import TaskConfig
from zerogen.config.yaml_files import as_text, literal, read_yaml, typed
from zerogen.errors import UserError

TASK = """
name: prices
labels: [low, high]
prompts: {low: 'Costs ${price} or ${oc.env:HOME} or ${ 5: "', high: 'A backslash \\${x}: "'}
"""


def test_no_text_is_interpolated() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices("${}\\ab:'\" ?,.[]()@\n", k=draw.randrange(12)))
        config = OmegaConf.create({"a": literal(text), "b": literal([text])})
        assert OmegaConf.to_container(config, resolve=True) == {"a": text, "b": [text]}
        assert as_text(literal({"a": [text]})) == {"a": [text]}


def test_a_prompt_may_hold_what_looks_like_an_interpolation(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(TASK)
    prompts = load_task(tmp_path / "t.yaml").prompts
    assert prompts == {"low": 'Costs ${price} or ${oc.env:HOME} or ${ 5: "', "high": 'A backslash \\${x}: "'}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: caf\xe9", "t.yaml: not UTF-8 text"),
        (b"name: [a\nb: 1", "t.yaml:2: not YAML"),
        (b"[" * 5000, "t.yaml: not YAML that can be read .it is nested too deeply"),
        (b"a: " + b"9" * 5000, "t.yaml: not YAML"),
        (b"- a", "task file .*t.yaml: holds no keys and values"),
        (b"nam: x", "task file .*t.yaml: nam: is not a key; .* did you mean 'name'"),
    ],
)
def test_files_that_are_no_task_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_task(tmp_path / "t.yaml")


def test_a_byte_order_mark_is_none_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_bytes("\ufeffname: x".encode())
    assert typed(read_yaml(tmp_path / "t.yaml"), TaskConfig, "t.yaml").name == "x"
