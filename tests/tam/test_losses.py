"""Losses are functions of single rows; rows count by their weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.conftest import toy_pairs, toy_questions, toy_rows
from zerogen.config.schema import TamConfig, TrainerConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.tam.fit import fit
from zerogen.tam.labels import TEXT
from zerogen.tam.learner import Learner, weighted_mean
from zerogen.tam.losses import LOSSES, cross_entropy, gce, loss_of, rce, sce, smoothed
from zerogen.tam.lstm import word_tokenizer
from zerogen.tam.spans import SPANS
from zerogen.tam.tam import Tam

LSTM = TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=8, hidden=8, dropout=0.0)
TRAINER = TrainerConfig(lr=1e-2, epochs=2, batch_size=16, schedule="constant")
TASKS = {
    "classification": (TaskConfig(name="toy", labels=["bad", "good"], max_length=64), toy_rows),
    "pair": (TaskConfig(name="toy", kind="pair", labels=["bad", "good"], max_length=64), toy_pairs),
    "qa": (TaskConfig(name="toy", kind="qa", labels=["question"], max_length=64), toy_questions),
}


@pytest.fixture
def own(own_modules: Path) -> Path:
    path = own_modules / "my_own_losses.py"
    path.write_text(
        "from torch.nn import functional\n"
        "def same(logits, targets):\n    return -logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]\n"
        "def mean(logits, targets):\n    return functional.cross_entropy(logits, targets)\n"
        "def infinite(logits, targets):\n    return -logits.softmax(-1).gather(-1, targets[:, None])[:, 0].log()\n"
        "def nothing(logits, targets):\n    return 0 * logits.nan_to_num(neginf=0.0).sum(-1)\n"
    )
    return path


def weights(tam: Tam) -> dict[str, Tensor]:
    return dict(tam.model.state_dict())


def equal(one: Tam, other: Tam) -> bool:
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


@pytest.mark.parametrize("classes", [2, 60])
@pytest.mark.parametrize("rows", [1, 7, 32, 300])
def test_with_equal_weights_loss_and_gradient_have_the_bits_of_the_plain_mean(rows: int, classes: int) -> None:
    logits = 5 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(rows))
    logits[:, 1::3] = -torch.inf  # where no answer can begin
    targets = torch.arange(rows) % classes // 3 * 3
    found, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    mean = weighted_mean(cross_entropy(found, targets), torch.ones(rows))
    plain = functional.cross_entropy(expected, targets)
    mean.backward()
    plain.backward()
    assert torch.equal(mean, plain)
    assert found.grad is not None
    assert expected.grad is not None
    assert torch.equal(found.grad, expected.grad)


def test_the_mean_is_weighted() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    mean = weighted_mean(losses, torch.tensor([0.5, 0.0, 1.5]))
    mean.backward()
    assert float(mean.detach()) == pytest.approx((0.5 * 1 + 1.5 * 4) / 2)
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([0.25, 0.0, 0.75])
    none = weighted_mean(losses, torch.zeros(3))
    none.backward()
    assert float(none.detach()) == 0.0
    assert losses.grad.isfinite().all()


@pytest.mark.parametrize("kind", TASKS)
def test_weights_count_beside_each_other(kind: str) -> None:
    """Nothing is learned from rows of weight 0, and weights that are all twice as large are the same."""
    task, make = TASKS[kind]
    trainer = replace(TRAINER, epochs=1)  # which no held-out row picks

    def trained(others: float, first: float, answered: bool = True) -> Tam:
        rows = [
            replace(row, weight=others) if i % 3 else replace(row, weight=first, answers=row.answers * answered)
            for i, row in enumerate(make(60))
        ]
        return fit(rows, task, LSTM, trainer, seed=1)[0]

    without = trained(1.0, 0.0)
    assert equal(without, trained(2.0, 0.0))
    assert equal(without, trained(1.0, 0.0, answered=False))
    assert not equal(without, trained(1.0, 1.0))


def test_whole_numbers_are_weights() -> None:
    task, make = TASKS["classification"]
    whole, real = (
        fit([replace(row, weight=weight) for row in make(20)], task, LSTM, replace(TRAINER, epochs=1), seed=1)[0]
        for weight in (2, 2.0)
    )
    assert equal(whole, real)


def test_the_windows_of_a_passage_have_the_weight_of_their_row() -> None:
    texts = " ".join(f"word {i}" for i in range(200))
    tokenizer = word_tokenizer([texts], 1000, reading=True)
    tokenizer.model_max_length = 64
    rows = [Example("a", "word 1", "question", texts, weight=0.25), Example("b", "word 2", "question", "word 2 3")]
    model = torch.nn.Module()
    model.config = type("Config", (), {})  # type: ignore[assignment]
    windows = SPANS.items(rows, TASKS["qa"][0], model, tokenizer)
    assert len(windows) > 2
    assert [window.weight for window in windows] == [0.25] * (len(windows) - 1) + [1.0]
    assert SPANS.collate(windows, model, tokenizer)["weights"].tolist() == [window.weight for window in windows]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_that_are_none_are_refused(weight: float) -> None:
    rows = [*toy_rows(8), replace(toy_rows(1)[0], weight=weight)]
    with pytest.raises(UserError, match=f"row row-0: weight={weight}: allowed is 0 or more"):
        fit(rows, TASKS["classification"][0], LSTM, TRAINER)


@pytest.mark.parametrize("kind", TASKS)
def test_a_loss_of_ones_own_is_what_is_minimised(kind: str, own: Path) -> None:
    task, make = TASKS[kind]
    rows = make(60)
    plain = fit(rows, task, LSTM, TRAINER, seed=1)[0]
    same = fit(rows, task, LSTM, replace(TRAINER, loss="my_own_losses:same"), seed=1)[0]
    still = fit(rows, task, LSTM, replace(TRAINER, loss="my_own_losses:nothing", weight_decay=0.0), seed=1)[0]
    fresh = fit(rows, task, LSTM, replace(TRAINER, lr=1e-20, weight_decay=0.0), seed=1)[0]
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(same)[name], tensor, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(weights(still)[name], weights(fresh)[name])
    assert not equal(plain, fresh)


def test_what_is_no_loss_of_rows_is_refused_in_one_line(own: Path) -> None:
    assert all(loss_of(name) for name in LOSSES)
    for name, message in (
        ("cross_entrpy", "trainer.loss: 'cross_entrpy' is unknown; allowed: cross_entropy, .*'cross_entropy'"),
        ("my_own_losses:sam", "trainer.loss=my_own_losses:sam: attribute: 'sam' is unknown; .*'same'"),
        ("my_own_loss:same", "trainer.loss=my_own_loss:same: there is no module 'my_own_loss'"),
        ("my_own_losses:__doc__", "trainer.loss=my_own_losses:__doc__: is NoneType, not a function of logits"),
    ):
        with pytest.raises(UserError, match=message):
            loss_of(name)
    with pytest.raises(UserError, match=r"my_own_losses:mean: returned \[\] of logits \[16, 2\]; allowed is one loss"):
        fit(toy_rows(60), TASKS["classification"][0], LSTM, replace(TRAINER, loss="my_own_losses:mean"))


@pytest.mark.parametrize("loss", ["cross_entropy", "my_own_losses:same"])
def test_a_target_is_learned_as_its_labels_in_these_shares(own: Path, loss: str) -> None:
    # The expected loss under a target is that of its labels, each as a row of its own with its share as the weight.
    logits = 3 * torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    shares = torch.rand(8, 3, generator=torch.Generator().manual_seed(2))
    shares /= shares.sum(1, keepdim=True)
    learner = Learner(torch.nn.Linear(1, 1), TEXT, TrainerConfig(loss=loss), steps=1)
    found = learner._expected_losses(logits, shares.argmax(1), shares)
    expected = -(shares * logits.log_softmax(-1)).sum(1)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("kind", ["classification", "pair"])
def test_certain_targets_train_as_labels_do_and_others_do_not(kind: str) -> None:
    task, toy = TASKS[kind]
    rows = toy(40)
    certain = [replace(row, target={label: float(label == row.label) for label in task.labels}) for row in rows]
    plain, _ = fit(rows, task, LSTM, TRAINER)
    assert equal(fit(certain, task, LSTM, TRAINER)[0], plain)
    some = [replace(row, target=dict.fromkeys(task.labels, 0.5)) if i % 2 else row for i, row in enumerate(rows)]
    assert not equal(fit(some, task, LSTM, TRAINER)[0], plain)


def test_a_label_without_a_share_is_not_asked_for_its_loss(own: Path) -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    learner = Learner(torch.nn.Linear(1, 1), TEXT, TrainerConfig(loss="my_own_losses:infinite"), steps=1)
    losses = learner._expected_losses(logits, torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
    losses.sum().backward()
    assert losses.tolist() == [0.0] and logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("target", [{"bad": 0.5, "good": 0.6}, {"bad": 1.0}, {"bad": -0.5, "good": 1.5}])
def test_a_target_is_a_distribution_over_all_labels(target: dict[str, float]) -> None:
    task, toy = TASKS["classification"]
    rows = [replace(row, target=target) for row in toy(8)]
    with pytest.raises(UserError, match="row row-0: target=.*: allowed is a probability of each label"):
        fit(rows, task, LSTM, TRAINER)


def test_the_losses_are_those_of_their_papers() -> None:
    logits = 3 * torch.randn(16, 5, generator=torch.Generator().manual_seed(3))
    targets = torch.arange(16) % 5
    smoothing = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.15)
    assert smoothed(logits, targets).tolist() == pytest.approx(smoothing.tolist(), rel=1e-5)
    p = logits.softmax(-1)[torch.arange(16), targets]
    assert gce(logits, targets).tolist() == pytest.approx(((1 - p**0.7) / 0.7).tolist(), rel=1e-5)
    one_hot = functional.one_hot(targets, 5).float()
    reverse = -(logits.softmax(-1) * one_hot.log().clamp(min=-4)).sum(-1)  # the definition, word for word
    assert rce(logits, targets).tolist() == pytest.approx(reverse.tolist(), rel=1e-4, abs=1e-5)
    both = 0.1 * cross_entropy(logits, targets) + reverse
    assert sce(logits, targets).tolist() == pytest.approx(both.tolist(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_classes_that_cannot_be_are_as_if_they_were_not_there(name: str) -> None:
    loss = loss_of(name)
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(4))
    targets = torch.arange(6) % 3
    wider = torch.cat([logits, torch.full((6, 2), -torch.inf)], 1).requires_grad_()
    losses = loss(wider, targets)
    assert losses.tolist() == pytest.approx(loss(logits, targets).tolist(), rel=1e-5)
    losses.sum().backward()
    assert wider.grad is not None and wider.grad[:, :3].isfinite().all()


@pytest.mark.parametrize("name", ["gce", "rce", "sce"])
def test_a_wrong_label_pulls_less_at_a_robust_loss(name: str) -> None:
    sure = torch.tensor([[8.0, -8.0]])  # of the first class, where the label says the second
    steep, robust = sure.clone().requires_grad_(), sure.clone().requires_grad_()
    cross_entropy(steep, torch.tensor([1])).sum().backward()
    loss_of(name)(robust, torch.tensor([1])).sum().backward()
    assert steep.grad is not None and robust.grad is not None
    assert robust.grad.abs().max() < 0.2 * steep.grad.abs().max()
