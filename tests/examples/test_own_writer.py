"""A PLM that is not transformers' is one file: it writes, and what it cannot do is said in one line."""

import json
import shutil
import sys
from pathlib import Path

import datasets
import pytest

from tests.test_cli import run

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_writer"
OWN = ("--config-dir", "conf", "plm=template", "gpu=none")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("outputs", "__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of two files of one second and size it would be stale
    for name in ("template_writer", "half_writer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def rewritten(path: Path, before: str, after: str) -> None:
    """Change the writer's file, as between two commands."""
    path.write_text(path.read_text().replace(before, after))
    sys.modules.pop(path.stem, None)


def texts(pool: Path) -> list[str]:
    return [row["text"] for line in (pool / "texts.jsonl").read_text().splitlines() for row in json.loads(line)["rows"]]


def test_a_dataset_is_written_and_the_confidence_is_absent(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*OWN, "task=moods", "n=20", "train=false")
    code, out, err = run(capsys, monkeypatch, *arguments)
    assert (code, err) == (0, "")
    said = [line for line in out.splitlines() if "cannot score" in line]
    assert said == ["plm.writer=template_writer:open cannot score texts: confidence in labels is unknown"]
    (place,) = folder.glob("outputs/moods/zerogen_template_none_*")
    rows = datasets.load_from_disk(str(place / "dataset"))
    assert len(rows) == 20 and sorted(rows["label"]) == ["bad"] * 10 + ["good"] * 10
    measures = json.loads((place / "measures.json").read_text())
    assert measures["confidence"] is None and "confidence" not in measures["seconds"]
    weights = json.loads((place / "result.json").read_text())["weights"]["plm"]
    assert weights.startswith("sentences by template_writer:open@")
    # The same seed writes the same texts.
    (pool,) = folder.glob("outputs/moods/pool_template_*")
    before = texts(pool)
    shutil.rmtree(place)
    assert run(capsys, monkeypatch, *arguments, "output_dir=again")[0] == 0
    (again,) = folder.glob("again/moods/pool_template_*")
    assert again.name == pool.name and texts(again) == before


def test_another_file_is_another_pool(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(capsys, monkeypatch, *OWN, "task=moods", "n=4", "train=false")[0] == 0
    rewritten(folder / "template_writer.py", '"boring"', '"grey"')
    assert run(capsys, monkeypatch, *OWN, "task=moods", "n=4", "train=false")[0] == 0
    assert len(list(folder.glob("outputs/moods/pool_template_*"))) == 2


def test_a_writer_that_says_what_shapes_its_rows_needs_no_other_pool(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, end = folder / "template_writer.py", "return TemplateWriter(config)\n"
    rewritten(path, end, end + "\n\nopen.identity = lambda config: ['words', 1]\n")
    assert run(capsys, monkeypatch, *OWN, "task=moods", "n=4", "train=false")[0] == 0
    rewritten(path, end, end + "\n\n# a remark\n")
    assert run(capsys, monkeypatch, *OWN, "task=moods", "n=4", "train=false")[0] == 0
    assert len(list(folder.glob("outputs/moods/pool_template_*"))) == 1


def test_a_dry_run_probes_it(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, monkeypatch, *OWN, "task=moods", "n=20", "train=false", "dry_run=true")
    assert code == 0
    said = " ".join(out.split())
    assert "PLM template: opened by template_writer:open" in said
    assert "plm.writer=template_writer:open cannot score texts: confidence in labels is unknown" in said
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["setting=prompting", "task=rotten_tomatoes"],
            "setting=prompting: plm.writer=template_writer:open cannot score texts (it has no logprob); allowed is a "
            "writer that can: transformers, openai, your own module:attribute",
        ),
        (
            ["setting=prompting", "task=rotten_tomatoes", "dry_run=true"],
            "setting=prompting: plm.writer=template_writer:open cannot score texts",
        ),
        (
            ["task=moods", "processes=2"],
            "processes=2: plm.writer=template_writer:open writes in one process, on one device; allowed with "
            "plm.writer=transformers",
        ),
        (
            ["task=moods", "select=['half_writer:surest']"],
            "select=['half_writer:surest']: plm.writer=template_writer:open cannot score texts",
        ),
        (["task=moods", "gpu=[0,1]"], "gpu=[0, 1]: plm.writer=template_writer:open writes in one process"),
        (["task=moods", "plm.writer=transformer"], "did you mean 'transformers'?"),
        (["task=moods", "plm.writer=template_writer:PARTS"], "plm.writer=template_writer:PARTS: is no function"),
        (["task=moods", "plm.writer=template_writer:opn"], "did you mean 'open'?"),
        (["task=moods", "plm.writer=half_writer:open"], "returned a Half, which lacks max_positions, tokens, "),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("zerogen.runs.run.read_gold", lambda *_: pytest.fail("gold rows were read"))
    half = "class Half:\n    name, parallel = 'half', 1\n\n\ndef open(config, device):\n    return Half()\n"
    half += "\n\ndef surest(rows, task):\n    return rows\n\n\nsurest.needs = ('confidence',)\n"
    (folder / "half_writer.py").write_text(half)
    code, _, err = run(capsys, monkeypatch, *OWN, "train=false" if "task=moods" in arguments else "n=9", *arguments)
    assert code == 2
    assert message in err.replace("\n", " ") and len(err.strip().splitlines()) == 1
    assert not [path for path in folder.glob("outputs/**/*") if path.is_file() and path.suffix != ".lock"]


def test_a_writer_named_on_the_command_line_names_the_pool(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ("--config-dir", "conf", "gpu=none", "task=moods", "plm=gpt2", "plm.writer=template_writer:open")
    assert run(capsys, monkeypatch, *own, "n=4", "train=false")[0] == 0
    assert len(list(folder.glob("outputs/moods/pool_template_writer_*"))) == 1
