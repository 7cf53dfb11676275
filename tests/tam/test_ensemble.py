"""Temporal ensembling: what is averaged, which rows are left out, how strong the pull is, and that training goes on."""

import math
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from tests.conftest import toy_pairs, toy_questions, toy_rows
from zerogen.config.rules import check_trainer
from zerogen.config.schema import TamConfig, TrainerConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.tam.batches import split_heldout
from zerogen.tam.ensemble import Ensemble, kept_rows, ramp
from zerogen.tam.fit import fit
from zerogen.tam.labels import TEXT
from zerogen.tam.learner import Learner
from zerogen.tam.tam import Tam

TASK = TaskConfig(name="toy", labels=["bad", "good"], max_length=64)
PAIRS = replace(TASK, kind="pair")
TRAINER = TrainerConfig(lr=3e-3, epochs=4, batch_size=16, schedule="constant")
ENSEMBLED = replace(TRAINER, ensembling=10.0, ensembling_steps=3)


@pytest.fixture(params=["encoder", "lstm"])
def config(request: pytest.FixtureRequest, tiny_encoder: Path) -> TamConfig:
    if request.param == "lstm":
        return TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=16, hidden=12, dropout=0.2)
    return TamConfig(name="tiny", model=str(tiny_encoder))


def equal(one: Tam, other: Tam) -> bool:
    others = other.model.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in one.model.state_dict().items())


def drawn(rows: int, classes: int, seed: int) -> Tensor:
    return torch.rand(rows, classes, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def test_the_average_is_that_of_all_updates_with_falling_weights() -> None:
    ensemble = Ensemble([0, 1, 2], 3, weight=1.0)
    updates = [drawn(3, 3, seed) for seed in range(4)]
    for probabilities in updates:
        ensemble.update(probabilities)
    shares = [0.8 ** (3 - place) for place in range(4)]
    expected = torch.stack([share * one for share, one in zip(shares, updates, strict=True)]).sum(0) / sum(shares)
    torch.testing.assert_close(ensemble.predictions(), expected)
    torch.testing.assert_close(ensemble.predictions().sum(-1), torch.ones(3))


def test_the_pull_is_the_divergence_from_the_rows_averages_and_grows() -> None:
    ensemble = Ensemble([0, 1, 0], 2, weight=10.0)
    logits, rows = torch.tensor([[2.0, -1.0], [0.5, 0.5]]), torch.tensor([2, 0])
    assert ensemble.pull(logits, rows).tolist() == [0.0, 0.0]
    probabilities = drawn(3, 2, 1)
    for count in range(1, 13):
        ensemble.update(probabilities)
        target = probabilities[rows]
        divergence = (target * (target.log() - logits.log_softmax(-1))).sum(-1)
        factor = 10 * math.exp(-5 * (1 - min(count, 10) / 10) ** 2)
        torch.testing.assert_close(ensemble.pull(logits, rows), factor * divergence)
    assert ramp(10) == ramp(12) == 1.0


def test_rows_are_left_out_whose_label_is_not_the_likeliest_by_far_and_come_back() -> None:
    labels = [0] * 20 + [1] * 20
    sure = torch.tensor([[0.9, 0.1]] * 20 + [[0.1, 0.9]] * 20)
    doubted = sure.clone()
    doubted[0], doubted[20] = torch.tensor([0.1, 0.9]), torch.tensor([0.25, 0.75])
    ensemble = Ensemble(labels, 2, weight=1.0)
    ensemble.update(doubted)
    assert ensemble.kept.tolist() == [0.0] + [1.0] * 19 + [0.0] + [1.0] * 19
    for _ in range(12):
        ensemble.update(sure)
    assert ensemble.kept.tolist() == [1.0] * 40


def test_of_a_label_with_hardly_a_row_left_the_surer_half_stays() -> None:
    labels = torch.tensor([0] * 20 + [1] * 5)
    own = torch.cat([torch.linspace(0.05, 0.5, 20), torch.full((5,), 0.3)])
    predictions = torch.stack([torch.where(labels == 0, own, 1 - own), torch.where(labels == 1, own, 1 - own)], -1)
    kept = kept_rows(predictions, labels)
    assert kept[:9].sum() == 0 and kept[10:20].all()
    assert kept[20:].all()  # all alike


def flipped(count: int) -> list[Example]:
    """Rows of which a tenth, drawn at random, has the other label."""
    swap, wrong = {"bad": "good", "good": "bad"}, set(Random(1).sample(range(count), count // 10))
    return [replace(row, label=swap[row.label]) if i in wrong else row for i, row in enumerate(toy_rows(count))]


def ensemble_of(monkeypatch: pytest.MonkeyPatch) -> list[Ensemble]:
    """Collect the ensembles of trainings to come."""
    found: list[Ensemble] = []
    original = Ensemble.update

    def update(self: Ensemble, probabilities: Tensor) -> None:
        original(self, probabilities)
        found[:] = [self]

    monkeypatch.setattr(Ensemble, "update", update)
    return found


def test_training_leaves_out_rows_with_wrong_labels(config: TamConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ensemble_of(monkeypatch)
    rows = flipped(240)
    trainer = replace(TRAINER, epochs=12, ensembling=1.0, ensembling_steps=20)
    _, report = fit(rows, TASK, config, trainer, seed=1)
    (ensemble,) = found
    assert int(ensemble.updates) == 12 * math.ceil(report.rows / 16) // 20
    true = {row.uid: row.label for row in toy_rows(240)}
    train, _ = split_heldout(rows, trainer.heldout, seed=1)
    right = torch.tensor([row.label == true[row.uid] for row in train])
    assert ensemble.kept[~right].mean() < 0.5 * ensemble.kept[right].mean()


def test_the_predictions_are_those_of_the_rows_without_dropout(
    config: TamConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last step: those of the model that is kept."""
    seen: list[Tensor] = []
    original = Ensemble.update

    def update(self: Ensemble, probabilities: Tensor) -> None:
        seen.append(probabilities)
        original(self, probabilities)

    monkeypatch.setattr(Ensemble, "update", update)
    config.dtype = "float32"
    rows = toy_rows(60)
    trainer = replace(TRAINER, epochs=1, ensembling=0.0, ensembling_steps=1)
    tam, report = fit(rows, TASK, config, trainer, seed=1)
    assert len(seen) == math.ceil(report.rows / 16)
    expected = torch.tensor([list(one.probabilities.values()) for one in tam.predict([row.text for row in rows])])
    distances = (seen[-1][:, None] - expected[None]).abs().amax(-1)  # which rows are held out is not known here
    assert float(distances.min(1).values.max()) < 1e-4


def test_before_the_first_update_training_is_as_without(config: TamConfig) -> None:
    rows = toy_rows(60)
    plain, report = fit(rows, TASK, config, TRAINER, seed=1)
    late, again = fit(rows, TASK, config, replace(TRAINER, ensembling=10.0, ensembling_steps=1000), seed=1)
    early, _ = fit(rows, TASK, config, ENSEMBLED, seed=1)
    assert equal(plain, late) and report == again and not equal(plain, early)


@pytest.mark.parametrize("kind", ["classification", "pair"])
def test_training_that_goes_on_ends_as_if_it_had_not_stopped(
    kind: str, config: TamConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, rows = (PAIRS, toy_pairs(60)) if kind == "pair" else (TASK, toy_rows(60))
    whole, report = fit(rows, task, config, ENSEMBLED, seed=1)
    path, steps, original = tmp_path / "training.ckpt", 0, Learner.training_step

    def stopped(self: Learner, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        nonlocal steps
        steps += 1
        if steps > 10:  # in the third epoch
            raise KeyError("stopped")
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(KeyError, match="stopped"):
        patch.setattr(Learner, "training_step", stopped)
        fit(rows, task, config, ENSEMBLED, seed=1, checkpoint=path)
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert int(saved["ensemble.updates"]) == 2
    found, again = fit(rows, task, config, ENSEMBLED, seed=1, checkpoint=path)
    assert again == report and equal(whole, found)


def test_what_cannot_be_ensembled_is_refused() -> None:
    lstm = TamConfig(name="lstm", kind="lstm", embedding=8, hidden=8)
    asked = TaskConfig(name="ask", kind="qa", labels=["question"], max_length=64)
    with pytest.raises(UserError, match="trainer.ensembling=10.0: is about labels; task 'ask' is qa; allowed is null"):
        fit(toy_questions(20), asked, lstm, ENSEMBLED)
    for changed, message in (
        (replace(ENSEMBLED, ensembling=-1.0), "trainer.ensembling=-1.0: allowed is 0 or more, or null"),
        (replace(ENSEMBLED, ensembling_steps=0), "trainer.ensembling_steps=0: allowed is 1 or more"),
        (replace(ENSEMBLED, ensembling=None), "trainer.ensembling_steps=3: does nothing while trainer.ensembling=null"),
    ):
        with pytest.raises(UserError, match=message):
            check_trainer(changed)
    check_trainer(TrainerConfig(ensembling=0.0))


def test_a_row_that_is_left_out_teaches_nothing() -> None:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.tensor([[0.5, -0.5], [0.1, 0.3]]))

        def forward(self, input_ids: Tensor) -> object:
            return type("Outputs", (), {"logits": self.logits[input_ids[:, 0]]})

    ensemble = Ensemble([0, 1], 2, weight=0.0)
    learner = Learner(Constant(), TEXT, ENSEMBLED, steps=1, ensemble=ensemble)
    learner.log = lambda *args: None  # type: ignore[method-assign]
    learner._trainer = type("T", (), {"optimizers": [torch.optim.SGD(learner.model.parameters(), 1.0)]})()
    ensemble.kept[0] = 0.0
    batch = {"input_ids": torch.tensor([[0], [1]]), "labels": torch.tensor([0, 1]), "weights": torch.ones(2)}
    learner.training_step(batch | {"rows": torch.tensor([0, 1])}, 0).backward()
    gradient = learner.model.logits.grad
    assert isinstance(gradient, Tensor) and gradient[0].abs().sum() == 0 and gradient[1].abs().sum() > 0
