"""SIMILARITY labels texts by descriptions alone, and calibration shifts labels to priors."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.conftest import toy_rows
from zerogen.config.rules import check
from zerogen.config.schema import Config, SettingConfig, TamConfig
from zerogen.config.task import descriptions_of, normalise_task
from zerogen.config.task_schema import TaskConfig
from zerogen.data.gold import load_gold
from zerogen.data.records import Example, Prediction
from zerogen.data.unlabelled import load_unlabelled
from zerogen.errors import UserError
from zerogen.jobs import run_one
from zerogen.runs import calibration
from zerogen.runs.checks import check_code
from zerogen.runs.prompted import demonstrations
from zerogen.runs.result import Result
from zerogen.runs.run import Run
from zerogen.runs.store import read_predictions
from zerogen.tam.shift import shift_labels
from zerogen.tam.similarity import Embedder
from zerogen.tam.tam import TamSpec, load_tam


@pytest.fixture
def embedder(tiny_encoder: Path) -> Embedder:
    return Embedder(TamConfig("tiny", model=str(tiny_encoder), dtype="float32"), 64, torch.device("cpu"))


def test_the_texts_beside_it_change_no_embedding(embedder: Embedder) -> None:
    texts = [row.text for row in toy_rows(70)] + ["a", "a much longer text than all the others are, to be padded to"]
    together = embedder.embed(texts)
    alone = torch.cat([embedder.embed([text]) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together.norm(dim=-1), torch.ones(len(texts)))


def test_a_text_is_most_similar_to_itself(embedder: Embedder) -> None:
    texts = ["a bright film about a family", "zzz 99 !!"]
    predictions = embedder.predict(texts, {"film": [texts[0]], "noise": [texts[1]]})
    assert [one.label for one in predictions] == ["film", "noise"]


def test_labels_are_described_by_the_task_or_by_its_prompts() -> None:
    task = TaskConfig(
        labels=["bad", "good", "so_so"],
        prompts={"good": 'A good review of "<C>" is: "'},
        scoring={"bad": 'This is bad: "<X>"'},
    )
    assert descriptions_of(task) == {"bad": ["This is bad"], "good": ["A good review of is"], "so_so": ["so_so"]}
    task.descriptions = {"bad": ["i hated it", "boring"]}
    assert descriptions_of(task)["bad"] == ["i hated it", "boring"]


def shares(result: Result) -> Counter[str]:
    read = read_predictions(result.folder / "predictions.jsonl")
    assert read is not None
    return Counter(one.label for one in read[1])


@pytest.mark.parametrize("setting", ["similarity", "prompting"])
def test_labels_are_as_frequent_as_the_priors_say(tiny_config: Config, tmp_path: Path, setting: str) -> None:
    # The texts that it is fitted on are worded as those that are reported on, so that shares carry over.
    (tmp_path / "texts.txt").write_text("\n".join(row.text for row in toy_rows(240)[120:]))
    config = replace(tiny_config, setting=SettingConfig(setting), n=20)
    plain = run_one(config, Console(quiet=True))
    calibrated = SettingConfig(setting, calibration="priors")
    config = replace(config, setting=calibrated, unlabelled=str(tmp_path / "texts.txt"))
    half = run_one(config, Console(quiet=True))
    config = replace(config, task=replace(config.task, priors={"bad": 0.8, "good": 0.2}))
    most = run_one(config, Console(quiet=True))
    assert len({result.folder for result in (plain, half, most)}) == 3
    assert shares(half)["bad"] == pytest.approx(30, abs=8) and shares(most)["bad"] == pytest.approx(48, abs=8)
    estimated = run_one(replace(config, setting=SettingConfig(setting, calibration="em")), Console(quiet=True))
    other = replace(config, setting=SettingConfig(setting, calibration="em"), task=replace(config.task, priors={}))
    assert run_one(other, Console(quiet=True)).folder == estimated.folder  # which does not ask for priors


@pytest.mark.parametrize("kind", ["encoder", "lstm"])
def test_a_trained_model_is_shifted_in_its_weights(tiny_config: Config, tmp_path: Path, kind: str) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(row.text for row in toy_rows(240)[120:]))
    rows = [{"X": row.text, "label": row.label} for row in toy_rows(120)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = replace(tiny_config.trainer, lr=5e-3, epochs=6)  # which tells texts apart
    config = replace(tiny_config, dataset=str(tmp_path / "rows.jsonl"), trainer=trainer, dataset_labels={})
    exact = replace(config.tam, dtype="float32")  # in which texts are told apart further than in bfloat16
    config = replace(config, unlabelled=str(tmp_path / "texts.txt"), tam=exact)
    reported = {row.content for row in load_gold(config.task, "validation")}
    texts = [row.text for row in load_unlabelled(str(config.unlabelled), None, config.task, reported)[0]]
    if kind == "lstm":
        config = replace(config, tam=TamConfig("lstm", kind="lstm", embedding=8, hidden=8, dtype="float32"))
    plain = run_one(config, Console(quiet=True))
    tasks = [replace(config.task, priors=priors) for priors in ({}, {"bad": 0.8, "good": 0.2})]
    calibrated = replace(config, setting=SettingConfig("zerogen", calibration="priors"))
    half, most = (run_one(replace(calibrated, task=task), Console(quiet=True)) for task in tasks)
    assert len({result.folder for result in (plain, half, most)}) == 3
    before, *after = (load_tam(result.folder).predict(texts) for result in (plain, half, most))
    for predictions, share in zip(after, (0.5, 0.8), strict=True):
        assert sum(one.label == "bad" for one in predictions) == pytest.approx(share * len(texts), abs=2)
        odds = [
            [math.log(one.probabilities["bad"] / one.probabilities["good"]) for one in found]
            for found in (before, predictions)
        ]
        moved = [new - old for old, new in zip(*odds, strict=True)]
        assert max(moved) - min(moved) < 0.2  # the same for all texts


def test_probabilities_stand_for_the_shares_of_the_training_rows(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row for row in toy_rows(120) if row.label == "bad"][:45] + [
        row for row in toy_rows(120) if row.label == "good"
    ][:15]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"X": r.text, "label": r.label}) + "\n" for r in rows))
    (tmp_path / "texts.txt").write_text("\n".join(row.text for row in toy_rows(300)[120:]))
    trained: list[Sequence[float]] = []
    before = calibration.shift_of

    def noted(run: Run, predictions: Sequence[Prediction], shares: Sequence[float] = ()) -> dict[str, float]:
        trained.append(shares)
        return before(run, predictions, shares)

    monkeypatch.setattr(calibration, "shift_of", noted)
    config = replace(tiny_config, dataset=str(tmp_path / "rows.jsonl"), dataset_labels={})
    config = replace(config, unlabelled=str(tmp_path / "texts.txt"))
    run_one(replace(config, setting=SettingConfig("zerogen", calibration="em")), Console(quiet=True))
    assert trained == [pytest.approx([0.75, 0.25])]


class Biased(torch.nn.Module):
    """Two labels, the bias of whose logits is not the last one of that size."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = torch.nn.Linear(2, 2)
        self.between = torch.nn.Linear(2, 2)


def test_labels_are_shifted_by_the_bias_that_shows_in_predictions() -> None:
    model = Biased()

    class Fake:
        labels, spec = ["bad", "good"], TamSpec()

        def predict(self, inputs: Sequence[str]) -> list[Prediction]:
            with torch.no_grad():
                logits = model.classifier(model.between(torch.ones(2)).tanh())
            return [Prediction.of(dict(zip(self.labels, logits.softmax(-1).tolist(), strict=True)))]

    fake: Any = Fake()
    fake.model = model
    before = [parameter.detach().clone() for parameter in (model.classifier.bias, model.between.bias)]
    shift_labels(fake, {"bad": 0.5, "good": -0.5}, "text")
    assert torch.allclose(model.classifier.bias, before[0] + torch.tensor([0.5, -0.5]))
    assert torch.equal(model.between.bias, before[1])


def test_only_what_fits_a_model_calibrates_it(tiny_config: Config) -> None:
    with pytest.raises(UserError, match=r"setting.calibration=prior: .*setting=zerogen trains a TAM"):
        check_code([replace(tiny_config, setting=SettingConfig("zerogen", calibration="prior"))])
    with pytest.raises(UserError, match="setting.calibration=priors: needs texts without labels"):
        check_code([replace(tiny_config, setting=SettingConfig("zerogen", calibration="priors"))])


def test_an_lstm_has_no_encoder_to_compare_with(tiny_config: Config) -> None:
    config = replace(tiny_config, setting=SettingConfig("similarity"), tam=TamConfig("lstm", kind="lstm"))
    with pytest.raises(UserError, match="setting=similarity: needs an encoder to embed texts; tam=lstm is lstm"):
        config_check(config)


def config_check(config: Config) -> None:
    from zerogen.runs.checks import check_code

    check_code([config])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("descriptions", {"god": ["x"]}, "descriptions: 'god' is unknown; allowed: bad, good; did you mean 'good'"),
        ("descriptions", {"bad": []}, r"descriptions.bad=\[\]: allowed is a list of sentences"),
        ("priors", {"bad": 0.5}, "priors has none for label 'good'"),
        ("priors", {"bad": 0.5, "good": 0.6}, "priors=.*: allowed are shares above 0 that sum to 1, not to 1.1"),
        ("priors", {"bad": 0.0, "good": 1.0}, "priors=.*: allowed are shares above 0"),
        ("priors", {"bad": 0.5, "gut": 0.5}, "priors: 'gut' is unknown; allowed: bad, good"),
    ],
)
def test_a_wrong_field_is_named(tiny_config: Config, field: str, value: object, message: str) -> None:
    setattr(tiny_config.task, field, value)
    with pytest.raises(UserError, match=message):
        normalise_task(tiny_config.task)


def test_all_sets_of_prompts_are_averaged_or_brought_to_one_scale(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(row.text for row in toy_rows(240)[120:]))
    tiny_config.task.further_scoring = [{"bad": "<X> Bad.", "good": "<X> Good."}]
    first = run_one(replace(tiny_config, setting=SettingConfig("prompting")), Console(quiet=True))
    both = run_one(replace(tiny_config, setting=SettingConfig("prompting", prompts="all")), Console(quiet=True))
    shifted = replace(
        tiny_config,
        setting=SettingConfig("prompting", calibration="priors", prompts="all"),
        unlabelled=str(tmp_path / "texts.txt"),
    )
    third = run_one(shifted, Console(quiet=True))
    assert len({result.folder for result in (first, both, third)}) == 3
    assert shares(third)["bad"] == pytest.approx(30, abs=8)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ([{"bad": "<X> Bad."}], r"further_scoring\[0\] has none for label 'good'"),
        ([{"bad": "Bad.", "good": "<X> Good."}], r"further_scoring\[0\].bad: 'Bad.' must hold <X>"),
        ([{}], "further_scoring: allowed are prompts for each label, beside those of scoring"),
    ],
)
def test_a_wrong_set_of_prompts_is_named(tiny_config: Config, further: list[dict[str, str]], message: str) -> None:
    tiny_config.task.further_scoring = further
    with pytest.raises(UserError, match=message):
        normalise_task(tiny_config.task)


def test_demonstrations_are_drawn_from_the_surest_texts_of_each_label() -> None:
    rows = [Example(str(i), f"text {i} " + "long " * 60, "yes") for i in range(100)]
    prompts = {"yes": '"<X>" is right', "no": '"<X>" is wrong'}
    task = TaskConfig(name="t", labels=["yes", "no"], scoring=prompts, priors={"yes": 0.6, "no": 0.4})
    setting = SettingConfig("prompting")
    sets = [[Prediction.of({"yes": i / 99, "no": 1 - i / 99}) for i in range(100)]]
    shown = demonstrations(task, rows, sets, setting, 20)
    assert shown[:3] == demonstrations(task, rows, sets, setting, 3) and len(set(shown)) > 10
    seen: dict[str, set[int]] = {"right": set(), "wrong": set()}
    for draw, before in enumerate(shown):
        parts = before.split("\n\n")
        assert [part.rsplit(" ", 1)[-1] for part in parts] == (
            ["right", "wrong", ""] if draw % 2 == 0 else ["wrong", "right", ""]
        )
        for part in parts[:-1]:
            assert part.count("long") == 48
            seen[part.rsplit(" ", 1)[-1]].add(int(part.split()[1]))
    assert seen["right"] <= set(range(94, 100)) and seen["wrong"] <= set(range(4))


def test_prompting_takes_demonstrations_from_unlabelled_texts(tiny_config: Config, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(row.text for row in toy_rows(200)[100:]))
    config = replace(tiny_config, setting=SettingConfig("prompting"), unlabelled=str(path), scoring_demonstrations=2)
    check_code([config])
    shown = run_one(config, Console(quiet=True))
    plain = run_one(replace(config, unlabelled=None, scoring_demonstrations=0), Console(quiet=True))
    assert shown.folder != plain.folder and shown.tokens["prompt"] > 3 * plain.tokens["prompt"]
    found, without = (read_predictions(result.folder / "predictions.jsonl") for result in (shown, plain))
    assert found is not None and without is not None and found[1] != without[1]
    calibrated = replace(config, setting=SettingConfig("prompting", calibration="priors"))
    more = run_one(calibrated, Console(quiet=True))
    assert more.tokens["prompt"] > shown.tokens["prompt"]  # the texts are asked about after demonstrations, too


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"setting": SettingConfig("prompting")},
            "scoring_demonstrations=2: draws on texts without labels; set",
        ),
        ({}, "scoring_demonstrations=2: nothing asks the PLM; set self_training.rounds with the teacher prompting, or"),
        ({"setting": SettingConfig("supervised")}, "scoring_demonstrations=2: setting=supervised does not read it"),
        ({"scoring_demonstrations": -1}, "scoring_demonstrations=-1: allowed is 0 or more"),
    ],
)
def test_demonstrations_need_texts_and_somebody_who_asks(
    tiny_config: Config, change: dict[str, Any], message: str
) -> None:
    config = replace(tiny_config, **{"scoring_demonstrations": 2} | change)
    with pytest.raises(UserError, match=message):
        check(config)
        check_code([config])
