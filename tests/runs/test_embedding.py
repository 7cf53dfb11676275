"""Selections that need embeddings: rows are embedded by the untrained encoder, and what cannot be is refused early."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.conftest import toy_pairs, toy_rows
from zerogen.config.schema import ConfidenceConfig, Config, SettingConfig, TamConfig, TrainerConfig
from zerogen.data.synthetic import load_synthetic
from zerogen.dryrun import estimate
from zerogen.errors import UserError
from zerogen.estimate import Session
from zerogen.jobs import run_one
from zerogen.runs.checks import check_code
from zerogen.runs.result import Result
from zerogen.runs.run import Run
from zerogen.runs.similarity import embeddings_of
from zerogen.support.progress import Progress
from zerogen.tam.similarity import Embedder

CPU = torch.device("cpu")
WRONG = set(Random(1).sample(range(200), 20))


@pytest.fixture
def config(tiny_config: Config, tmp_path: Path) -> Config:
    """Rows of a file, of which a tenth has the wrong label."""
    swap = {"bad": "good", "good": "bad"}
    labels = [swap[row.label] if i in WRONG else row.label for i, row in enumerate(toy_rows(200))]
    lines = [{"X": row.text, "label": label} for row, label in zip(toy_rows(200), labels, strict=True)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return replace(tiny_config, dataset=str(path), dataset_labels={}, trainer=TrainerConfig(lr=3e-3, epochs=2))


def result_of(config: Config) -> Result:
    return run_one(config, Console(quiet=True))


def rows_of(result: Result, config: Config) -> list[tuple[str, float]]:
    rows = load_synthetic(str(result.folder / "toy-dataset.jsonl"), config.task, {})
    return [(row.uid, row.weight) for row in rows]


def test_weights_are_learned_from_the_embeddings_and_written(config: Config, tmp_path: Path) -> None:
    weighed = replace(config, select=["fusegen"])
    result = result_of(weighed)
    assert result.n_train == 200 and {"embed", "select"} <= set(result.seconds)
    weights = dict(rows_of(result, weighed))
    assert len(set(weights.values())) > 2
    wrong = [weight for uid, weight in weights.items() if int(uid) in WRONG]
    assert sum(wrong) / len(wrong) < 0.9  # of all rows it is 1
    again = result_of(replace(weighed, output_dir=str(tmp_path / "others")))
    assert rows_of(again, weighed) == rows_of(result, weighed) and again.metrics == result.metrics


def test_rows_of_several_plms_are_weighed_together(config: Config, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"X": row.text + "!", "label": row.label}) + "\n" for row in toy_rows(40)))
    both = replace(config, dataset=[config.dataset, str(other)], select=["fusegen"])
    result, alone = result_of(both), result_of(replace(config, select=["fusegen"]))
    assert (result.n_train, alone.n_train) == (240, 200)
    assert result.folder != alone.folder
    assert len({uid for uid, _ in rows_of(result, both)}) == 240


def test_of_more_rows_the_best_are_trained_on(tiny_config: Config) -> None:
    config = replace(tiny_config, n=20, overgenerate=2.0, select=["sungen"])
    result = result_of(config)
    assert (result.n_train, result.selected_from) == (20, 20)
    assert [label for label in ("bad", "good") for _ in range(10)] == sorted(
        row.label for row in load_synthetic(str(result.folder / "toy-dataset.jsonl"), config.task, {})
    )


def test_without_training_the_encoder_still_shapes_the_rows(tiny_config: Config, tiny_encoder: Path) -> None:
    config = replace(tiny_config, n=40, train=False, select=["cross_fitted"])
    result = result_of(config)
    assert result.tam == "none" and 0 < len(rows_of(result, config)) <= 40
    check_code([config])
    ranked, other = replace(config, select=["logprob"]), replace(config.tam, dtype="bfloat16")
    folders = {Run(one, [CPU]).folder() for one in (config, replace(config, tam=replace(other, dtype="float32")))}
    folders |= {Run(replace(config, tam=other), [CPU]).folder()}
    assert len(folders) == 2  # auto is one of the two
    assert Run(ranked, [CPU]).folder() == Run(replace(ranked, tam=other), [CPU]).folder()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tam": TamConfig("lstm", kind="lstm")}, r"select=\['sungen'\]: needs an encoder to embed texts; tam=lstm is"),
        ({"setting": SettingConfig("supervised"), "dataset": None}, "setting=supervised trains on no generated rows"),
    ],
)
def test_what_cannot_be_embedded_is_refused(config: Config, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_code([replace(config, select=["sungen"], **change)])
    config.task.kind = "qa"
    for name, said in (
        ("sungen", "is about labels"),
        ("tests.test_weighting:nearest", "embeds texts that have labels"),
    ):
        with pytest.raises(UserError, match=f"select=.*{said}; task 'toy' is qa"):
            check_code([replace(config, select=[name])])


def test_ensembling_of_questions_is_refused_where_the_trainer_is_read(config: Config) -> None:
    config.task.kind = "qa"
    config = replace(config, trainer=TrainerConfig(ensembling=10.0), dataset=None)
    with pytest.raises(UserError, match="trainer.ensembling=10.0: is about labels; task 'toy' is qa"):
        check_code([config])
    check_code([replace(config, setting=SettingConfig("prompting"))])


def test_the_most_helpful_rows_are_shown(tiny_config: Config) -> None:
    small = replace(tiny_config.decoding, chunk_size=8)
    config = replace(tiny_config, n=60, train=False, demonstrations="influence", decoding=small)
    check_code([config])
    result = result_of(config)
    assert result.n_train == 60 and result.seconds["embed"] > 0
    dtypes = [replace(config, tam=replace(config.tam, dtype=dtype)) for dtype in ("float32", "bfloat16")]
    assert len({Run(one, [CPU]).pool_folder() for one in dtypes}) == 2
    with pytest.raises(UserError, match="demonstrations=influence: needs an encoder to embed texts; tam=lstm is lstm"):
        check_code([replace(config, tam=TamConfig("lstm", kind="lstm"))])


def test_a_missing_encoder_is_named_before_anything_is_written(tiny_config: Config) -> None:
    away = replace(tiny_config, train=False, tam=TamConfig("away", model="nobody/away"))
    for config in (replace(away, select=["sungen"]), replace(away, demonstrations="influence")):
        with pytest.raises(UserError, match="nobody/away"):
            result_of(config)
    assert not list(Path(away.output_dir).rglob("texts.jsonl"))


def test_a_pair_is_embedded_as_what_tells_its_texts_apart(config: Config) -> None:
    rows = toy_pairs(6)
    run = Run(config, [CPU])
    single = embeddings_of(run, rows)
    assert {vector.shape for vector in single.values()} == {(32,)} and run.seconds["embed"] > 0
    config.task.kind = "pair"
    pairs = embeddings_of(run, rows)
    assert list(pairs) == [row.uid for row in rows]
    embedder = Embedder(config.tam, config.task.max_length, CPU)
    for row in rows:
        text, context = embedder.embed([row.text, row.context or ""], Progress())
        expected = torch.cat([(text - context).abs(), text * context])
        assert pairs[row.uid] == pytest.approx(expected.numpy(), abs=1e-3)


def test_the_dry_run_expects_rows_to_be_embedded(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerogen.runs.zerogen_cost.seconds_to_embed", lambda probe, rows: 0.5)
    for change, expected in (
        ({}, 100.0),
        ({"log_every": 100}, 150.0),
        ({"dataset": None, "n": 40, "overgenerate": 2.0, "confidence": ConfidenceConfig(rows=0)}, 40.0),
    ):
        asked = replace(config, dry_run=True, select=["fusegen"], **change)
        assert estimate(asked, Session(Console(quiet=True))).seconds["embed"] == expected
    plain = estimate(replace(config, dry_run=True), Session(Console(quiet=True)))
    assert "embed" not in plain.seconds


def test_the_dry_run_probes_the_encoder(config: Config) -> None:
    asked = replace(config, dry_run=True, select=["fusegen"], train=True)
    assert estimate(asked, Session(Console(quiet=True))).seconds["embed"] > 0


def test_words_near_a_word_are_the_nearest_first_and_not_itself(tiny_encoder: Path) -> None:

    from zerogen.tam.similarity import Embedder

    embedder = Embedder(TamConfig("tiny", model=str(tiny_encoder)), 64, torch.device("cpu"))
    words = [f"word{i}" for i in range(30)] + ["Bird"]
    near = embedder.near_words(words)
    vectors = embedder.embed([word.lower() for word in words])
    cosines = vectors @ vectors.T
    for word, others in near.items():
        place = [one.casefold() for one in words].index(word)
        assert len(others) <= 8
        assert words[place] not in others
        found = [float(cosines[place, words.index(other)]) for other in others]
        assert found == sorted(found, reverse=True)
        assert all(value > 0.45 for value in found)
    assert "bird" in near
    assert embedder.near_words(["alone"]) == {}
