"""The cards of dataset and TAM: headers that the Hub's library reads, figures that are those of the run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData

from tests.report.conftest import HOSTILE, Made
from zerogen.report.cards import dataset_card, model_card
from zerogen.report.finished import FinishedRun, read_run
from zerogen.tam.tam import load_tam


def changed(run: FinishedRun, **result: Any) -> FinishedRun:
    """A run with other values in its result."""
    return replace(run, result=replace(run.result, **result))


def header_of_dataset(text: str) -> DatasetCardData:
    data = DatasetCard(text).data
    assert isinstance(data, DatasetCardData)
    return data


def header_of_model(text: str) -> ModelCardData:
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData)
    return data


def test_the_dataset_has_a_card_that_loads_with_it(made: Made) -> None:
    path = made.folder / "dataset"
    card = DatasetCard.load(path / "README.md")
    assert card.data.task_categories == ["text-classification"]
    assert card.data.size_categories == ["n<1K"]
    assert {"synthetic", "zerogen"} <= set(card.data.tags)
    rows = datasets.load_from_disk(str(path))
    assert len(rows) == len(made.rows)
    assert f"{len(rows)} texts" in card.text
    measures = json.loads((made.folder / "measures.json").read_text())
    assert f"| {100 * measures['diversity']['self_bleu'][3]:.1f} |" in card.text
    assert f"| distinct bigrams | {100 * measures['diversity']['distinct'][1]:.1f} % |" in card.text
    assert f"{100 * measures['correctness']['overall']['share']:.1f} %" in card.text
    assert "the prompts that made them are not known" in card.text
    assert not any(text in card.text for text in HOSTILE)


@pytest.mark.parametrize(
    ("rows", "category"),
    [(999, "n<1K"), (1_000, "1K<n<10K"), (9_999, "1K<n<10K"), (10_000, "10K<n<100K"), (100_000, "100K<n<1M")],
)
def test_a_dataset_is_as_large_as_its_file(made: Made, tmp_path: Path, rows: int, category: str) -> None:
    (tmp_path / "toy-dataset.jsonl").write_text('{"label": "bad"}\n' * rows)
    text = dataset_card(replace(read_run(made.folder), folder=tmp_path))
    assert header_of_dataset(text).size_categories == [category]
    assert f"{rows:,} texts" in DatasetCard(text).text


def test_the_tam_has_a_card_with_its_results(made: Made) -> None:
    path = made.folder / "tam"
    card = ModelCard.load(path / "README.md")
    result = json.loads((made.folder / "result.json").read_text())
    found = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert found["accuracy"] == pytest.approx(result["metrics"]["accuracy"], abs=1e-4)
    assert card.data.library_name == "zerogen"
    assert f"{result['n_train']} synthetic rows" in card.text
    assert load_tam(path).labels == made.config.task.labels


@pytest.mark.parametrize(
    ("model", "base"),
    [("distilbert-base-uncased", "distilbert-base-uncased"), ("package:minilm", None), ("here", None)],
)
def test_a_card_names_a_base_that_others_can_have(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, base: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    run = read_run(made.folder)
    run.config["tam"] |= {"kind": "encoder", "model": model}
    text = model_card(run)
    assert header_of_model(text).base_model == base
    assert (f"Fine-tuned from {model}" in text) == (model != "here")


def test_a_card_without_gold_data_claims_nothing(made: Made) -> None:
    run = changed(read_run(made.folder), metrics={}, n_eval=0, evaluated_on=None, heldout_accuracy=0.75)
    text = model_card(run)
    assert header_of_model(text).eval_results is None
    assert "Not known" in text
    assert "75.0 %" in text


def test_prompts_and_labels_do_not_end_what_they_stand_in(made: Made) -> None:
    run = changed(read_run(made.folder), plm="tiny", weights={"plm": "tiny@1"}, requests=9)
    run.config["task"]["prompts"] = {"a|b": "``<script>``: "}
    run.config["task"]["labels"] = [*run.config["task"]["labels"], "a|b"]
    text = dataset_card(run)
    assert r'- a\|b: ``` "``<script>``: " ```' in text
    assert r"| a\|b | 0 |" in text


def test_prompts_stand_in_the_card_as_they_are(made: Made) -> None:
    run = changed(read_run(made.folder), plm="tiny", weights={"plm": "tiny@1"}, requests=9, rejects={"too_short": 3})
    run.config["task"]["prompts"] = {"bad": 'A "<C>" | `tick`:\n\n'}
    text = dataset_card(run)
    assert r'`` "A \"<C>\" | `tick`:\n\n" ``' in text
    assert "9 texts were asked for, as many as it took; rejected were 3 (too short)" in text


def test_a_card_has_every_wording_and_says_of_counter_prompts(made: Made) -> None:
    run = changed(read_run(made.folder), plm="tiny", weights={"plm": "tiny@1"}, requests=9)
    task = run.config["task"]
    assert "counter_logprob" not in dataset_card(run) and "`<A>`" not in dataset_card(run)
    task["further_prompts"] = [{"bad": "Bad, <A>:"}]
    task["attributes"], task["contrast"] = {"length": ["short", "long|er"]}, {"guidance": 1.5, "floor": 0.001}
    text = dataset_card(run)
    assert '- bad: `` "Bad, <A>:" ``' in text
    assert "`<A>` is one value of each of these" in text and r"- length: short; long\|er" in text
    assert "`counter_logprob` the same after the prompts of the other labels" in text
    for later in ("further_prompts", "attributes", "contrast"):  # as an earlier version wrote it
        del task[later]
    assert "counter_logprob" not in dataset_card(run)
