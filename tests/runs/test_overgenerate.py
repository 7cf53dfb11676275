"""More rows are written than are trained on: of each label those that a ranking puts first."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from zerogen.config.rules import check
from zerogen.config.schema import Config
from zerogen.data.synthetic import load_synthetic
from zerogen.errors import UserError
from zerogen.generation.pool import Journal, first_per_label, quotas
from zerogen.jobs import run_one
from zerogen.runs.checks import check_code


def test_the_surest_of_each_label_are_trained_on(tiny_config: Config) -> None:
    config = replace(tiny_config, n=20, log_every=10, overgenerate=2.0, select=["confidence"])
    result = run_one(config, Console(quiet=True))
    assert (result.n_train, result.selected_from) == (20, 20) and result.pool is not None
    written = list(first_per_label(Journal.open(Path(result.pool) / "texts.jsonl").rows(), quotas(40, ["bad", "good"])))
    sets = [json.loads(line) for line in (Path(result.pool) / "scores.jsonl").read_text().splitlines()]
    confidence = {row.uid: scores["rows"][row.uid][row.label] for scores in sets[-1:] for row in written}
    trained = {row.uid for row in load_synthetic(str(result.folder / "toy-dataset.jsonl"), config.task, {})}
    for label in ("bad", "good"):
        values = {row.uid: confidence[row.uid] for row in written if row.label == label}
        chosen = [value for uid, value in values.items() if uid in trained]
        assert len(chosen) == 10 and len(values) == 20
        assert min(chosen) >= max(value for uid, value in values.items() if uid not in trained)
    trend = (result.folder / "trend.csv").read_text()
    assert "\n10,42,accuracy" in trend and "\n20,42,accuracy" in trend


def test_it_names_another_run_and_the_same_pool(tiny_config: Config) -> None:
    config = replace(tiny_config, n=20, select=["logprob"])
    plain = run_one(config, Console(quiet=True))
    more = run_one(replace(config, overgenerate=1.5), Console(quiet=True))
    assert plain.folder != more.folder and plain.pool == more.pool and more.n_train == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overgenerate": 0.5}, "overgenerate=0.5: allowed is 1 or more"),
        ({"overgenerate": 2.0}, "overgenerate=2.0: nothing selects: set select, or leave it out"),
        ({"overgenerate": 2.0, "select": ["logprob"], "dataset": "d.jsonl"}, "dataset=d.jsonl is not generated"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_config: Config, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed = replace(tiny_config, **change)
        check(changed)
        check_code([changed])


def test_rows_are_labelled_anew_by_asking(tiny_config: Config) -> None:
    further = [{"bad": "<X> It was bad.", "good": "<X> It was good."}]
    task = replace(tiny_config.task, further_scoring=further)
    config = replace(tiny_config, task=task, n=20, overgenerate=2.0, select=["asked"])
    result = run_one(config, Console(quiet=True))
    rows = load_synthetic(str(result.folder / "toy-dataset.jsonl"), config.task, {})
    assert [row.label for row in rows].count("bad") == 10 and len(rows) == 20
    assert result.pool is not None
    written = {row.uid: row.label for row in Journal.open(Path(result.pool) / "texts.jsonl").rows()}
    assert any(written[row.uid] != row.label for row in rows)  # a random PLM knows nothing of labels
    assert "ask" in result.seconds
    shown = run_one(replace(config, scoring_demonstrations=2), Console(quiet=True))
    assert shown.folder != result.folder and shown.seconds["ask"] > result.seconds["ask"]
    other = replace(config, task=replace(task, further_scoring=[{"bad": "<X> So bad.", "good": "<X> So good."}]))
    assert run_one(other, Console(quiet=True)).folder != result.folder


def test_nothing_can_be_asked_without_prompts(tiny_config: Config) -> None:
    bare = replace(tiny_config.task, scoring={}, further_scoring=[])
    with pytest.raises(UserError, match=r"select=\['asked'\]: asks by scoring prompts; task 'toy' has none"):
        check_code([replace(tiny_config, task=bare, select=["asked"])])
