import json
from pathlib import Path

from tests.examples.conftest import Command

WORDS = ["setting=supervised", "task=rotten_tomatoes", "tam=lstm", "trainer.epochs=2", "limit=120", "eval_limit=60"]


def test_a_loss_of_ones_own_trains_a_tam_and_names_its_run(example: Path, command: Command) -> None:
    done = command("zerogen", *WORDS, "trainer.loss=gce:gce")
    assert done.returncode == 0, done.stderr
    (folder,) = (example / "outputs/rotten_tomatoes").glob("supervised_none_lstm_*")
    assert 0 < json.loads((folder / "result.json").read_text())["metrics"]["accuracy"] <= 1
    assert "loss: gce:gce" in (folder / "config.yaml").read_text()
    predicted = command("zerogen.predict", str(folder), "a lovely film")
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout.split("\t")[0] in ("negative", "positive")
    with (example / "gce.py").open("a") as file:  # a loss that may be another one is another run
        file.write("\n# more\n")
    assert command("zerogen", *WORDS, "trainer.loss=gce:gce").returncode == 0
    assert len(list((example / "outputs/rotten_tomatoes").glob("supervised_none_lstm_*"))) == 2
