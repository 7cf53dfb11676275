"""Training is deterministic, keeps to itself, learns, and is saved in transformers' layout."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

import zerogen
from tests.conftest import byte_tokenizer, toy_rows
from tests.tam.test_kinds import Heard
from zerogen.config.schema import TamConfig, TrainerConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.errors import UserError
from zerogen.tam.batches import split_heldout
from zerogen.tam.fit import FitReport, fit, repeatable
from zerogen.tam.labels import TEXT
from zerogen.tam.learner import Learner
from zerogen.tam.lstm import LstmForSequenceClassification
from zerogen.tam.tam import Tam, load_tam

LABELS = ["bad", "good"]
TASK = TaskConfig(name="toy", labels=LABELS, max_length=64)
TRAINER = TrainerConfig(lr=3e-3, epochs=4, batch_size=8)
LONGER = TrainerConfig(lr=3e-3, epochs=15, batch_size=8, schedule="constant")


@pytest.fixture(params=["encoder", "lstm"])
def config(request: pytest.FixtureRequest, tiny_encoder: Path) -> TamConfig:
    if request.param == "lstm":
        return TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=16, hidden=12, dropout=0.1)
    return TamConfig(name="tiny", model=str(tiny_encoder))


def trained(config: TamConfig, seed: int = 1, trainer: TrainerConfig = TRAINER) -> tuple[Tam, FitReport]:
    return fit(toy_rows(120), TASK, config, trainer, seed=seed)


def weights(tam: Tam) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tam.model.state_dict().values() if tensor.is_floating_point()])


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone(config: TamConfig) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, report = trained(config)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(12)
    second, again = trained(config)
    assert torch.equal(weights(first), weights(second))
    assert report == again
    other, _ = trained(config, seed=2)
    assert weights(other).shape != weights(first).shape or not torch.equal(weights(first), weights(other))


def test_it_learns_and_is_as_good_after_saving_and_loading(config: TamConfig, tmp_path: Path) -> None:
    tam, report = trained(config, trainer=LONGER)
    assert report.rows + report.heldout == 120
    assert report.heldout_accuracy is not None
    assert report.heldout_accuracy > 0.9
    texts = [row.text for row in toy_rows(60)]
    predictions = tam.predict(texts)
    tam.save(tmp_path / "tam")
    assert load_tam(tmp_path / "tam").predict(texts) == predictions
    assert all(sum(prediction.probabilities.values()) == pytest.approx(1) for prediction in predictions)
    assert all(list(prediction.probabilities) == LABELS for prediction in predictions)


def test_padding_and_order_do_not_change_a_prediction(config: TamConfig) -> None:
    config.dtype = "float32"
    tam, _ = trained(config)
    texts = ["dull", "a bright film " * 9, "", "x"]
    together = tam.predict(texts)
    for text, prediction in zip(texts, together, strict=True):
        alone = tam.predict([text])[0]
        assert alone.label == prediction.label
        assert list(alone.probabilities.values()) == pytest.approx(list(prediction.probabilities.values()), abs=1e-5)
    assert tam.predict([]) == []


def test_transformers_opens_a_saved_encoder(tiny_encoder: Path, tmp_path: Path) -> None:
    tam, _ = trained(TamConfig(name="tiny", model=str(tiny_encoder), dtype="float32"))
    tam.save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert model.config.id2label == {0: "bad", 1: "good"}
    found = pipeline("text-classification", model=str(tmp_path))(["a dull film", "a lovely film"])
    expected = tam.predict(["a dull film", "a lovely film"])
    assert [row["label"] for row in found] == [prediction.label for prediction in expected]
    for row, prediction in zip(found, expected, strict=True):
        assert row["score"] == pytest.approx(prediction.probabilities[prediction.label], abs=1e-5)


def test_long_texts_are_cut_at_the_tasks_length(config: TamConfig) -> None:
    tam, _ = fit(toy_rows(40), replace(TASK, max_length=12), config, TRAINER, seed=1)
    assert tam.tokenizer.model_max_length == 12
    long = "dull " * 200
    assert tam.predict([long + "a"]) == tam.predict([long + "b"])


def test_the_best_epoch_is_kept(tiny_encoder: Path) -> None:
    rows = toy_rows(120)
    trainer = TrainerConfig(lr=5e-3, epochs=12, batch_size=8, schedule="constant", warmup_ratio=0.0)
    # A third of the held-out rows has the wrong label: their loss grows with what is learned, so that the best epoch is
    # neither the first nor the last.
    _, heldout = split_heldout(rows, trainer.heldout, seed=1)
    wrong = {row.uid for row in heldout[: len(heldout) // 3]}
    swap = {"bad": "good", "good": "bad"}
    rows = [replace(row, label=swap[row.label]) if row.uid in wrong else row for row in rows]
    config = TamConfig(name="tiny", model=str(tiny_encoder), dtype="float32")
    tam, report = fit(rows, TASK, config, trainer, seed=1)
    assert 1 < report.epoch < 12
    shorter, _ = fit(rows, TASK, config, replace(trainer, epochs=report.epoch), seed=1)
    assert torch.equal(weights(tam), weights(shorter))


def test_patience_ends_training_early(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    original = Learner.training_step

    def counted(self: Learner, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        steps.append(batch_idx)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Learner, "training_step", counted)
    trainer = TrainerConfig(lr=1e-9, epochs=10, batch_size=8, patience=2, schedule="constant")
    trained(TamConfig(name="tiny", model=str(tiny_encoder), dtype="float32"), trainer=trainer)
    # 14 batches an epoch. The loss may still fall by rounding, the accuracy does not move: at most a few epochs count.
    assert len(steps) < 14 * 10


def test_the_schedule_warms_up_and_decays_to_zero() -> None:
    module = Learner(torch.nn.Linear(1, 1), TEXT, TrainerConfig(warmup_ratio=0.1), steps=100)
    rates = [module.rate(step) for step in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == 0.0


def test_no_rows_or_a_foreign_label_is_refused(config: TamConfig) -> None:
    with pytest.raises(UserError, match="no rows"):
        fit([], TASK, config, TRAINER)
    with pytest.raises(UserError, match="row row-1: label 'good' is not among bad, fine"):
        fit(toy_rows(4), replace(TASK, labels=["bad", "fine"]), config, TRAINER)


class Planted:
    """Makes a file when it is unpickled by anything that runs code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


def spoil_with_a_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Planted(marker), protocol=2))


def spoil_with_torchs_pickle(path: Path, marker: Path) -> None:
    torch.save({"state_dict": Planted(marker)}, path)


def spoil_with_random_bytes(path: Path, marker: Path) -> None:
    path.write_bytes(bytes(i * 7919 % 251 for i in range(5000)))


def spoil_by_cutting(path: Path, marker: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def spoil_with_other_contents(path: Path, marker: Path) -> None:
    torch.save({"epoch": 3}, path)


SPOILERS = [
    spoil_with_a_pickle,
    spoil_with_torchs_pickle,
    spoil_with_random_bytes,
    spoil_by_cutting,
    spoil_with_other_contents,
]
LSTM = TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=16, hidden=12, dropout=0.1)


def stopped(path: Path, config: TamConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the second epoch, of which nothing is left but the checkpoint."""
    original = Learner.training_step
    steps: list[int] = []

    def stop(self: Learner, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        steps.append(batch_idx)
        if steps.count(0) > 1:
            raise KeyError("stopped")
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(KeyError, match="stopped"):
        patch.setattr(Learner, "training_step", stop)
        fit(toy_rows(120), TASK, config, TRAINER, seed=1, checkpoint=path)


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_checkpoint_that_is_of_no_use_is_put_aside_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path, Path], None]
) -> None:
    path, marker = tmp_path / "training-120.ckpt", tmp_path / "marker"
    stopped(path, LSTM, monkeypatch)
    spoil(path, marker)
    content = path.read_bytes()
    (tmp_path / "training-120.ckpt.damaged").write_text("an older one")
    (tmp_path / "training-120.ckpt.99999.part").write_text("what a process that was killed has left")
    heard = Heard()
    found, report = fit(toy_rows(120), TASK, LSTM, TRAINER, seed=1, checkpoint=path, progress=heard)
    whole, expected = trained(LSTM)
    assert torch.equal(weights(found), weights(whole))
    assert report == expected
    assert not marker.exists()
    aside = ["training-120.ckpt.damaged", "training-120.ckpt.damaged-2"]
    assert sorted(file.name for file in tmp_path.iterdir()) == aside
    assert (tmp_path / aside[0]).read_text() == "an older one"
    assert (tmp_path / aside[1]).read_bytes() == content
    said = f"{path} cannot be gone on from: kept as {aside[1]}, training begins again"
    assert heard.said == [said]


def test_the_checkpoint_of_another_model_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "training.ckpt"
    stopped(path, replace(LSTM, hidden=8), monkeypatch)
    found, _ = fit(toy_rows(120), TASK, LSTM, TRAINER, seed=1, checkpoint=path)
    assert torch.equal(weights(found), weights(trained(LSTM)[0]))
    assert [file.name for file in tmp_path.iterdir()] == ["training.ckpt.damaged"]


def test_a_checkpoint_that_cannot_be_written_leaves_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    path.mkdir()  # which no file can replace
    with pytest.raises(OSError, match="irectory"):
        fit(toy_rows(40), TASK, LSTM, TRAINER, seed=1, checkpoint=path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_tam_that_cannot_be_saved_says_why(tmp_path: Path) -> None:
    tam, _ = fit(toy_rows(40), TASK, LSTM, replace(TRAINER, epochs=1), seed=1)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="irectory"):
        tam.save(tmp_path / "file" / "tam")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("spoil", SPOILERS)
def test_weights_that_are_damaged_or_planted_are_refused_in_a_line(
    config: TamConfig, tmp_path: Path, name: str, spoil: Callable[[Path, Path], None]
) -> None:
    folder, marker = tmp_path / "tam", tmp_path / "marker"
    fit(toy_rows(40), TASK, config, replace(TRAINER, epochs=1), seed=1)[0].save(folder)
    weights_file = (folder / "model.safetensors").rename(folder / name)
    if name.endswith(".bin"):
        torch.save({"embedding.weight": torch.zeros(500)}, weights_file)
    spoil(weights_file, marker)
    with pytest.raises(UserError, match=f"TAM folder {folder}: could not be loaded") as error:
        load_tam(folder)
    assert "weights_only" not in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON in UTF-8"),
        (b'{"model_type": "caf\xe9"}', "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON in UTF-8"),
        (b"[]", "allowed is a JSON object, found list"),
        (b"{}", "could not be loaded"),
        (b'{"model_type": ["bert"]}', "could not be loaded"),
        (b'{"model_type": "zerogen-lstm", "hidden": "x"}', "could not be loaded"),
    ],
)
def test_a_configuration_that_is_none_is_refused_in_a_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_tam(tmp_path)


def test_code_in_a_folder_is_neither_run_nor_asked_about(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(TamConfig(name="tiny", model=str(tiny_encoder)), trainer=replace(TRAINER, epochs=1))[0].save(tmp_path)
    marker = tmp_path / "marker"
    (tmp_path / "code.py").write_text(f"open({str(marker)!r}, 'w')")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))

    def asked(*args: Any) -> str:
        pytest.fail("it asks")

    monkeypatch.setattr("builtins.input", asked)
    with pytest.raises(UserError, match="could not be loaded"):
        load_tam(tmp_path)
    assert not marker.exists()


def test_a_tam_is_found_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "words.txt").write_text("dull 1 2\n")
    tam, _ = trained(replace(LSTM, vectors="~/words.txt"), trainer=replace(TRAINER, epochs=1))
    tam.save(tmp_path / "tam")
    assert load_tam("~/tam").predict(["x"]) == tam.predict(["x"])


def test_labels_without_a_row_are_named() -> None:
    for labels, said in (
        (LABELS, []),
        ([*LABELS, "fine"], ["no training row has label 'fine'"]),
        (["so", *LABELS, "fine"], ["no training row has label 'so' or 'fine'"]),
    ):
        heard = Heard()
        task = replace(TASK, labels=labels)
        tam, _ = fit(toy_rows(16), task, LSTM, replace(TRAINER, epochs=1), seed=1, progress=heard)
        assert heard.said == said
        assert tam.labels == labels


def test_nothing_is_evaluated_on_no_rows() -> None:
    tam, _ = fit(toy_rows(16), TASK, LSTM, replace(TRAINER, epochs=1), seed=1)
    with pytest.raises(UserError, match="there are no rows to evaluate on"):
        zerogen.evaluate(tam, [])


def test_a_folder_that_is_no_tam_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trained model"):
        load_tam(tmp_path)
    with pytest.raises(UserError, match="not a trained task model"):
        load_tam(tiny_encoder)


def test_a_classifier_from_elsewhere_cuts_texts_at_its_positions(tiny_encoder: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_encoder, max_position_embeddings=40, ignore_mismatched_sizes=True
    )
    model.save_pretrained(tmp_path / "tam")
    byte_tokenizer().save_pretrained(tmp_path / "tam")
    tam = load_tam(tmp_path)  # the run folder around it will do
    assert tam.predict(["a" * 500 + str(i) for i in range(3)])[0].label in tam.labels
    assert load_tam(tmp_path, dtype="float32").spec.dtype == "float32"


def test_lstm_ids_of_unknown_words_and_padding() -> None:
    tam, _ = trained(TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=8, hidden=8))
    assert isinstance(tam.model, LstmForSequenceClassification)
    assert tam.tokenizer(["zzz Bright"])["input_ids"][0][0] == tam.tokenizer.unk_token_id
    assert tam.tokenizer(["BRIGHT"])["input_ids"] == tam.tokenizer(["bright"])["input_ids"]
    assert tam.tokenizer.pad_token_id == 0


def test_a_gpu_is_asked_to_repeat_itself_while_it_trains_alone() -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with repeatable(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(KeyError), repeatable(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        raise KeyError
    assert before == (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
