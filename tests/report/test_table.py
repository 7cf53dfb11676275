"""One table over runs: means over seeds, what tells lines apart, every format, and the page that links the reports."""

import csv
import io
import json
import os
import re
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser
from rich.console import Console

from tests.report.conftest import Made
from zerogen.config.keys import keys_of
from zerogen.config.schema import (
    ConfidenceConfig,
    Config,
    CorrectnessConfig,
    DecodingConfig,
    DiversityConfig,
    FilterConfig,
    LoggerConfig,
    PlmConfig,
    SettingConfig,
    TamConfig,
    TrainerConfig,
)
from zerogen.config.task_schema import TaskConfig
from zerogen.errors import UserError
from zerogen.report.finished import read_run, read_runs
from zerogen.report.grid import Row, grid
from zerogen.report.overview import write_overview
from zerogen.report.terminal import print_table
from zerogen.runs.summaries import write_trend
from zerogen.table import as_csv, cells, latex, main, markdown


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerogen.support.process.stop_on_signals", lambda: None)


def finished(place: Path, name: str, metrics: dict[str, float], config: Config) -> Path:
    """A run folder with what a table reads."""
    folder = place / config.task.name / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(keys_of(config)))
    setting = config.setting.name
    result = {
        "setting": setting,
        "task": config.task.name,
        "plm": "none" if setting == "supervised" else config.plm.name,
        "tam": "none" if setting == "prompting" else config.tam.name,
        "seed": config.seed,
        "n_train": 0 if setting == "prompting" else config.n,
        "n_eval": 100,
        "evaluated_on": "own/validation",
        "metrics": metrics,
    }
    (folder / "result.json").write_text(json.dumps(result))
    if setting == "zerogen" and metrics:
        write_trend(folder / "trend.csv", config.seed, [(n, metrics) for n in (100, config.n)])
    return folder


def of(setting: str, task: str, **keys: Any) -> Config:
    return replace(
        Config(
            task=TaskConfig(name=task),
            setting=SettingConfig(setting),
            plm=PlmConfig("gpt2", "gpt2"),
            tam=TamConfig("mini_lm", model="m"),
        ),
        **keys,
    )


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    place = tmp_path / "outputs"
    for seed, accuracy in enumerate((0.7, 0.8, 0.75)):
        finished(place, f"z{seed}", {"accuracy": accuracy, "macro_f1": accuracy}, of("zerogen", "films", seed=seed))
    finished(place, "s", {"accuracy": 0.9, "macro_f1": 0.9}, of("supervised", "films", limit=500))
    finished(place, "all", {"accuracy": 0.95, "macro_f1": 0.9}, of("supervised", "films"))
    finished(place, "p", {"accuracy": 0.6, "macro_f1": 0.6}, of("prompting", "films"))
    finished(place, "p", {"exact_match": 0.2, "f1": 0.3}, of("prompting", "quiz"))
    finished(place, "none", {}, of("zerogen", "own"))
    return place


def printed(place: Path, width: int = 80) -> str:
    text = io.StringIO()
    print_table(grid(read_runs([place])), Console(file=text, width=width))
    return text.getvalue()


def test_cells_are_means_over_seeds(sweep: Path) -> None:
    found = grid(read_runs([sweep]))
    cell = found.cells[Row("zerogen", "gpt2", "mini_lm", ()), "films", "accuracy"]
    values = [0.7, 0.8, 0.75]
    assert (cell.mean, cell.spread, cell.seeds) == (statistics.fmean(values), statistics.stdev(values), (0, 1, 2))
    single = found.cells[Row("prompting", "gpt2", "none", ()), "quiz", "exact_match"]
    assert (single.mean, single.spread) == (0.2, None)
    assert [(row.setting, row.variant) for row in found.rows] == [
        ("supervised", ("limit=500",)),
        ("supervised", ("limit=null",)),
        ("prompting", ()),
        ("zerogen", ()),
    ]
    assert found.notes == ["runs left out because they were not evaluated on gold rows: 1"]


def test_what_trained_an_evaluator_is_not_a_seed_of_a_cell(sweep: Path) -> None:
    place = finished(sweep, "judge", {"accuracy": 0.1, "macro_f1": 0.1}, of("supervised", "films", seed=7))
    path = place / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"evaluator": True}))
    found = grid(read_runs([sweep]))
    assert found.cells[Row("supervised", "none", "mini_lm", ("limit=null",)), "films", "accuracy"].mean == 0.95
    assert "runs left out because they trained an evaluator of synthetic rows: 1" in found.notes


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.yaml", "", "config.yaml holds no configuration"),
        ("config.yaml", "a: [", "cannot be read"),
        ("config.yaml", "a: " + "[" * 5000, "cannot be read"),
        ("result.json", "{", "cannot be read"),
        ("result.json", "[" * 50_000, "cannot be read"),
        ("result.json", '{"setting": "guessing"}', "did you mean"),
        ("result.json", '{"metrics": null}', "metrics=None is not what a run writes"),
    ],
)
def test_a_damaged_run_is_refused_and_left_out_beside_others(sweep: Path, file: str, content: str, said: str) -> None:
    place = sweep / "films" / "s"
    if file == "result.json" and content.endswith("}"):
        content = json.dumps(json.loads((place / file).read_text()) | json.loads(content))
    (place / file).write_text(content)
    with pytest.raises(UserError, match=said.replace("did you mean", "'guessing' is unknown")):
        read_runs([sweep])
    assert len(read_runs([sweep], skip=True)) == 7


def test_a_choice_of_several_lines_stays_on_the_line_of_its_row(sweep: Path) -> None:
    other = of("zerogen", "films", seed=9)
    other.task.prompts = {"question": 'One "line"\n\nand | another: "'}
    finished(sweep, "lines", {"accuracy": 0.5, "macro_f1": 0.5}, other)
    found = grid(read_runs([sweep]))
    assert len(markdown(cells(found)).splitlines()) == len(found.rows) + 4 + len(found.notes)
    body = latex(cells(found)).split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert len(body.strip().splitlines()) == len(found.rows)
    assert r"\textquotedbl" not in body  # LaTeX's default encoding lacks it


def test_a_page_is_not_written_over_a_folder(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(sweep), "--html", str(sweep)])
    assert stopped.value.code == 2
    assert "is a folder" in capsys.readouterr().err


def test_a_table_fits_eighty_columns_and_loses_nothing(sweep: Path) -> None:
    for task in ("a_task_with_a_long_name", "another_task_of_many", "third"):
        finished(sweep, "p", {"accuracy": 0.5, "macro_f1": 0.5}, of("prompting", task))
    text = printed(sweep)
    assert max(map(len, text.splitlines())) <= 80
    found = grid(read_runs([sweep]))
    for column in found.shown():
        assert found.header(column) in text
        assert all(found.text(row, column) in text for row in found.rows)
    assert "75.0 ± 5.0 (3)" in text


def test_runs_that_differ_in_more_than_their_seed_do_not_share_a_cell(sweep: Path) -> None:
    longer = of("zerogen", "films", seed=0, n=4000)
    finished(sweep, "longer", {"accuracy": 0.85, "macro_f1": 0.85}, longer)
    longer.trainer.lr = 1e-3
    finished(sweep, "faster", {"accuracy": 0.1, "macro_f1": 0.1}, longer)
    rows = [row.variant for row in grid(read_runs([sweep])).rows if row.setting == "zerogen"]
    assert rows == [
        ("n=2000", "trainer.lr=2e-05"),
        ("n=4000", "trainer.lr=0.001"),
        ("n=4000", "trainer.lr=2e-05"),
    ]


@pytest.mark.parametrize("setting", ["supervised", "prompting", "zerogen"])
def test_what_does_not_change_the_figures_does_not_split_a_cell(tmp_path: Path, setting: str) -> None:
    differences: dict[str, Any] = {
        "seeds": [0, 1],
        "log_every": 100,
        "gpu": "none",
        "processes": 2,
        "output_dir": "elsewhere",
        "diversity": DiversityConfig(self_bleu_texts=10),
        "correctness": CorrectnessConfig(None),
        "confidence": ConfidenceConfig(rows=1),
        "logger": LoggerConfig("tensorboard"),
        "metrics": ["own:metric"],
    }
    generates: dict[str, Any] = {
        "n": 100,
        "decoding": DecodingConfig(top_k=7),
        "filter": FilterConfig(max_words=7),
        "dataset": "rows.jsonl",
        "dataset_labels": {0: "bad"},
    }
    if setting == "supervised":
        differences |= generates | {"plm": PlmConfig("opt", "opt"), "contexts": "gold", "answers": "rules"}
    if setting == "prompting":
        differences |= generates | {"tam": TamConfig("lstm"), "trainer": TrainerConfig(lr=1), "limit": 7}
    configs = [of(setting, "films"), *(of(setting, "films", **{key: value}) for key, value in differences.items())]
    for seed, config in enumerate(configs):
        finished(tmp_path, f"{seed}", {"accuracy": 0.5}, replace(config, seed=seed))
    found = grid(read_runs([tmp_path]))
    (row,) = found.rows
    assert found.cells[row, "films", "accuracy"].seeds == tuple(range(len(configs)))


def test_what_differs_between_tasks_alone_does_not_split_a_row(sweep: Path) -> None:
    other = of("zerogen", "third", n=500)
    other.task.max_length = 64
    finished(sweep, "z", {"accuracy": 0.5, "macro_f1": 0.5}, other)
    assert sum(row.setting == "zerogen" for row in grid(read_runs([sweep])).rows) == 1


def test_of_two_runs_with_one_seed_the_later_counts(sweep: Path) -> None:
    late = finished(sweep, "later", {"accuracy": 0.65, "macro_f1": 0.6}, of("prompting", "films"))
    os.utime(late / "result.json", (2e9, 2e9))
    found = grid(read_runs([sweep]))
    assert found.cells[Row("prompting", "gpt2", "none", ()), "films", "accuracy"].mean == 0.65
    assert "runs left out because a later one has the same configuration and seed: 1" in found.notes


def test_different_gold_rows_are_said(sweep: Path) -> None:
    path = sweep / "films" / "p" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_eval": 50}))
    assert "50 of own/validation" in " ".join(grid(read_runs([sweep])).notes)


def test_formats_hold_the_same_cells(sweep: Path) -> None:
    found = grid(read_runs([sweep]))
    for row in found.rows:
        for column in found.shown():
            assert f"| {found.text(row, column)} |" in markdown(cells(found))
            assert f"& {found.text(row, column)} ".replace("±", r"$\pm$") in latex(cells(found))
    lines = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert len(lines) == len(found.cells)
    for line in lines:
        row = Row(line["setting"], line["plm"], line["tam"], tuple(json.loads(line["variant"] or "[]")))
        cell = found.cells[row, line["task"], line["metric"]]
        assert float(line["mean"]) == pytest.approx(cell.mean, abs=1e-6)
        assert tuple(map(int, line["seeds"].split())) == cell.seeds


def test_names_are_escaped_in_every_format(tmp_path: Path) -> None:
    config = of("zerogen", "a_b|c")
    config.plm.name = "50%_x"
    finished(tmp_path, "z", {"accuracy": 0.5, "macro_f1": 0.5}, config)
    found = grid(read_runs([tmp_path]))
    header, rule, line = markdown(cells(found)).splitlines()[:3]
    assert len({len(re.findall(r"(?<!\\)\|", text)) for text in (header, rule, line)}) == 1
    assert r"a\_b\textbar{}c" in latex(cells(found))
    assert r"50\%\_x" in latex(cells(found))
    assert not re.search(r"(?<!\\)[_%#$]", latex(cells(found)).split(r"\toprule")[1])


def test_the_page_links_every_report(browser: Browser, made: Made, tmp_path: Path) -> None:
    outputs = tmp_path / "moved #1"
    shutil.copytree(made.config.output_dir, outputs)
    page_path = tmp_path / "pages" / "overview.html"
    main([str(outputs), "--html", str(page_path), "--format", "csv"])
    page = browser.new_page()
    page.goto(page_path.as_uri())
    links = page.locator("a").all()
    results = [json.loads(path.read_text()) for path in outputs.rglob("result.json")]
    assert len(links) == sum(not result["evaluator"] for result in results) == 4
    for address in [link.evaluate("link => link.href") for link in links]:
        assert page.goto(address)
        assert page.locator("h1").inner_text().startswith("toy, ")
    page.goto(page_path.as_uri())
    assert page.locator("figure svg").count() == 1
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    page.close()


def test_the_page_draws_levels_at_their_means(sweep: Path, tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.85, 0.95)):
        finished(sweep, f"level{seed}", {"accuracy": accuracy}, of("supervised", "drawn", seed=seed))
    finished(sweep, "level", {"accuracy": 0.6}, of("prompting", "drawn"))
    finished(sweep, "curve", {"accuracy": 0.75}, of("zerogen", "drawn"))
    write_overview(grid(read_runs([sweep / "drawn"])), tmp_path / "overview.html")
    drawn = re.findall(r'<path d="M ([^"]*)" clip-path[^>]* stroke: (#\w+)', (tmp_path / "overview.html").read_text())
    heights: dict[str, list[float]] = {}  # by colour, from the top
    for path, colour in drawn:
        heights.setdefault(colour, []).extend(float(point.split()[1]) for point in re.split("[ML]", path))
    (curve, *flat), (supervised, *_), (prompting, *_) = heights.values()
    assert set(flat) == {curve}
    assert supervised < prompting
    assert curve == pytest.approx((supervised + prompting) / 2, abs=0.01)


def test_the_command_prints_and_refuses(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep / "films"), "--format", "markdown"])
    assert capsys.readouterr().out == markdown(cells(grid(read_runs([sweep / "films"]))))
    (tmp_path / "empty").mkdir()
    for place in ("empty", "nowhere"):
        with pytest.raises(SystemExit) as stopped:
            main([str(tmp_path / place)])
        assert stopped.value.code == 2
        assert "holds no finished run" in capsys.readouterr().err
    (sweep / "films" / "p" / "result.json").write_text('{"setting": ')
    with pytest.raises(UserError, match="cannot be read"):
        read_run(sweep / "films" / "p")


def test_runs_of_earlier_versions_are_named_or_left_out(sweep: Path) -> None:
    path = sweep / "films" / "p" / "result.json"
    result = json.loads(path.read_text())
    del result["n_eval"]
    path.write_text(json.dumps(result))
    with pytest.raises(UserError, match="does not say 'n_eval': another version"):
        read_runs([sweep])
    assert len(read_runs([sweep], skip=True)) == len(list(sweep.rglob("result.json"))) - 1


def test_a_run_given_twice_counts_once(sweep: Path) -> None:
    runs = read_runs([sweep, sweep / "films", sweep / "films" / "p"])
    assert len(runs) == len(list(sweep.rglob("result.json")))


def test_a_further_metric_has_a_column_over_the_runs_that_have_it(tmp_path: Path) -> None:
    said = {"mcc": {"source": "own:MCC@0", "title": "Matthews correlation", "column": "MCC", "interval": None}}
    for seed, mcc in enumerate((0.5, None, 0.7)):
        metrics = {"accuracy": 0.8} | ({"mcc": mcc} if mcc else {})
        path = finished(tmp_path, f"{seed}", metrics, of("supervised", "films", seed=seed)) / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | ({"further_metrics": said} if mcc else {})))
    found = grid(read_runs([tmp_path]))
    assert [found.header(column) for column in found.shown()] == ["films", "films MCC"]
    (row,) = found.rows
    cells = [found.cells[row, *column] for column in found.shown()]
    assert [cell.seeds for cell in cells] == [(0, 1, 2), (0, 2)]
    assert cells[1].mean == pytest.approx(0.6)
    assert [line["seeds"] for line in csv.DictReader(io.StringIO(as_csv(found)))] == ["0 1 2", "0 2"]


def test_seeds_of_a_version_without_some_keys_are_seeds_of_the_same_row(tmp_path: Path) -> None:
    place = tmp_path / "outputs"
    for seed, accuracy in enumerate((0.7, 0.8)):
        folder = finished(place, f"z{seed}", {"accuracy": accuracy, "macro_f1": 0.5}, of("zerogen", "films", seed=seed))
    keys = yaml.safe_load((folder / "config.yaml").read_text())
    del keys["select"], keys["metrics"], keys["trainer"]["loss"], keys["filter"]["functions"], keys["plm"]["writer"]
    (folder / "config.yaml").write_text(yaml.safe_dump(keys))
    (row,) = grid(read_runs([place])).rows
    assert row.variant == ()
    assert "75.0" in printed(place)


def test_the_most_frequent_label_is_a_line_of_every_table(tmp_path: Path) -> None:
    confusion: Any = {"bad": {"bad": 50, "good": 10}, "good": {"bad": 20, "good": 20}}
    finished(tmp_path, "s", {"accuracy": 0.7, "macro_f1": 0.6, "confusion": confusion}, of("supervised", "films"))
    finished(tmp_path, "q", {"exact_match": 0.2, "f1": 0.3}, of("prompting", "quiz"))  # has no labels
    found = grid(read_runs([tmp_path]))
    first = found.rows[0]
    assert first.names == ("MAJORITY LABEL", "-", "-")
    assert [found.text(first, column) for column in found.shown()] == ["60.0", "", ""]
    assert "MAJORITY" in printed(tmp_path)
    (line,) = [line for line in csv.DictReader(io.StringIO(as_csv(found))) if line["metric"] == "macro_f1"][:1]
    assert (line["setting"], line["mean"], line["seeds"]) == ("majority label", "0.375000", "")
    write_overview(found, tmp_path / "overview.html")
    assert "MAJORITY" in (tmp_path / "overview.html").read_text()
