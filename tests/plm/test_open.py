"""What a PLM offers decides what is done with it."""

from pathlib import Path

import pytest
import torch

from zerogen.config.rules import check_plm
from zerogen.config.schema import Config, PlmConfig
from zerogen.errors import UserError
from zerogen.plm.model import Plm
from zerogen.plm.open import as_scorer, open_plm
from zerogen.plm.protocol import LocalWriter, Scorer, Writer
from zerogen.plm.workers import Workers

CPU = torch.device("cpu")


def test_a_plm_of_transformers_writes_scores_and_takes_memory_here(tiny_causal: Path) -> None:
    plm = open_plm(PlmConfig("tiny", str(tiny_causal), dtype="float32"), CPU)
    assert isinstance(plm, Plm) and isinstance(plm, Scorer) and isinstance(plm, LocalWriter)
    assert as_scorer(plm, PlmConfig(), "x") is plm
    assert (plm.name, plm.dtype, plm.device) == ("tiny", torch.float32, CPU)


def test_processes_start_with_the_first_call_and_only_write(tiny_causal: Path, tmp_path: Path) -> None:
    config = PlmConfig("tiny", str(tiny_causal))
    with Workers(config, [CPU, CPU], tmp_path / "works") as plm:
        assert plm.parallel == 2 and plm.tokens == 0 and not plm.processes
        assert isinstance(plm, Writer) and not isinstance(plm, Scorer)
        with pytest.raises(UserError, match="setting=x: plm.writer=transformers cannot score texts"):
            as_scorer(plm, config, "setting=x")


@pytest.mark.parametrize(
    ("gpu", "processes", "message"), [("none", 2, "processes=2: "), ([0, 1], 1, r"gpu=\[0, 1\]: ")]
)
def test_only_a_plm_of_transformers_is_opened_once_per_device(gpu: object, processes: int, message: str) -> None:
    check_plm(Config(gpu=gpu, processes=processes))
    with pytest.raises(UserError, match=message + "plm.writer=own:open writes in one process"):
        check_plm(Config(plm=PlmConfig(writer="own:open"), gpu=gpu, processes=processes))
    check_plm(Config(plm=PlmConfig(writer="own:open"), gpu=[1]))
