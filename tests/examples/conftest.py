"""Examples are run as their headers say: as commands, in a copy of their folder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def example(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a copy of the example that the test module is named after."""
    name = request.module.__name__.rpartition(".test_")[2]
    return shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("outputs", "__pycache__"))


@pytest.fixture
def command(example: Path) -> Command:
    """Return a function that runs `python -m` with its arguments in the example's folder, offline."""

    def run(*arguments: str, folder: Path = example, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
