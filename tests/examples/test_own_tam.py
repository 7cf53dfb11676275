import json
import shutil
from pathlib import Path

from tests.examples.conftest import Command

WORDS = ["--config-dir", ".", "setting=supervised", "task=rotten_tomatoes", "tam=bag", "limit=600", "eval_limit=200"]


def test_a_tam_of_ones_own_is_trained_saved_and_opened_again(example: Path, command: Command, tmp_path: Path) -> None:
    done = command("zerogen", *WORDS)
    assert done.returncode == 0, done.stderr
    (folder,) = (example / "outputs/rotten_tomatoes").glob("supervised_none_bag_*")
    assert json.loads((folder / "result.json").read_text())["metrics"]["accuracy"] > 0.55
    saved = json.loads((folder / "tam/config.json").read_text())
    assert saved["zerogen"]["tam"] == "bag:Bag"
    assert saved["id2label"] == {"0": "negative", "1": "positive"}
    predicted = command("zerogen.predict", str(folder), "a lovely moving film", "dull, boring and bad")
    assert predicted.returncode == 0, predicted.stderr
    assert [line.split("\t")[0] for line in predicted.stdout.splitlines()] == ["positive", "negative"]
    evaluated = command("zerogen", *WORDS, "train=false", f"tam.checkpoint={folder}")
    assert evaluated.returncode == 0, evaluated.stderr
    # Elsewhere its module is not found; one that lies in its folder is never run.
    (tmp_path / "elsewhere").mkdir()
    lost = command("zerogen.predict", str(folder), "x", folder=tmp_path / "elsewhere")
    assert lost.returncode == 2
    assert "tam.kind=bag:Bag: there is no module 'bag', here or installed" in lost.stderr
    shutil.copy(example / "bag.py", folder)
    inside = command("zerogen.predict", ".", "x", folder=folder)
    assert inside.returncode == 2
    assert "whose code never runs" in inside.stderr


def test_it_says_for_which_tasks_it_is(command: Command) -> None:
    done = command("zerogen", *WORDS, "task=qnli")
    assert done.returncode == 2
    assert "tam=bag: reads single texts; allowed are tasks of kind classification" in done.stderr
