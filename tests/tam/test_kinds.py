"""Pairs and question answering: what the TAMs learn, keep, and must not depend on."""

import gzip
import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering

from tests.conftest import byte_tokenizer, toy_pairs, toy_questions
from zerogen.config.schema import TamConfig, TrainerConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Prediction
from zerogen.errors import UserError
from zerogen.support.progress import Advance, Progress
from zerogen.tam.bidaf import BidafForQuestionAnswering, shared_words
from zerogen.tam.fit import fit, require
from zerogen.tam.labels import encode, order_pair
from zerogen.tam.learner import Learner, moving_average
from zerogen.tam.lstm import BiLstm, two_streams
from zerogen.tam.spans import character_ids, collate_windows, windows_of
from zerogen.tam.tam import Tam, load_tam
from zerogen.tam.vectors import read_vectors, words_of

PAIRS = TaskConfig(name="pairs", kind="pair", labels=["bad", "good"], max_length=64)
ASKED = TaskConfig(name="asked", kind="qa", labels=["question"], max_length=64, answer_tokens=8)
QUICK = TrainerConfig(lr=3e-3, epochs=2, batch_size=16)


@pytest.fixture(params=["encoder", "lstm"])
def config(request: pytest.FixtureRequest, tiny_encoder: Path) -> TamConfig:
    if request.param == "lstm":
        return TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=24, hidden=24, dropout=0.0)
    return TamConfig(name="tiny", model=str(tiny_encoder), dtype="float32")


class Heard(Progress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done = 0
        self.total: int | None = None

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, description: str, total: int | None, unit: str) -> Iterator[Advance]:
        self.done, self.total = 0, total

        def advance(steps: int) -> None:
            self.done += steps

        yield advance


def trained(task: TaskConfig, config: TamConfig, trainer: TrainerConfig = QUICK, rows: int = 120) -> Tam:
    examples = toy_pairs(rows) if task.kind == "pair" else toy_questions(rows)
    return fit(examples, task, config, trainer, seed=1)[0]


@pytest.mark.parametrize("task", [PAIRS, ASKED], ids=["pair", "qa"])
def test_the_same_seed_gives_the_same_weights(task: TaskConfig, config: TamConfig) -> None:
    before = torch.get_rng_state()
    first, second = trained(task, config), trained(task, config)
    assert torch.equal(before, torch.get_rng_state())
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


@pytest.mark.parametrize("task", [PAIRS, ASKED], ids=["pair", "qa"])
def test_it_learns_and_is_as_good_after_saving_and_loading(task: TaskConfig, config: TamConfig, tmp_path: Path) -> None:
    lr, epochs, batch_size = (1e-2, 30, 16) if config.kind == "lstm" else (3e-3, 70, 16)
    schedule = "constant"
    if config.kind == "encoder" and task.kind == "pair":  # comparing two texts takes more steps, the last ones small
        lr, epochs, batch_size, schedule = 2e-3, 120, 8, "linear"
    trainer = TrainerConfig(lr=lr, epochs=epochs, batch_size=batch_size, schedule=schedule)
    tam, report = fit(toy_pairs(240) if task.kind == "pair" else toy_questions(240), task, config, trainer, seed=1)
    assert report.heldout_accuracy is not None
    assert report.heldout_accuracy > 0.9
    rows = toy_pairs(40) if task.kind == "pair" else toy_questions(40)
    inputs = tam.inputs_of(rows)
    found = tam.predict(inputs)
    tam.save(tmp_path / "tam")
    assert load_tam(tmp_path / "tam").predict(inputs) == found
    if task.kind == "pair":
        assert sum(row.label == one.label for row, one in zip(rows, found, strict=True)) >= 36
    else:
        assert sum(row.answers[0].text == one.text for row, one in zip(rows, found, strict=True)) >= 36
        for row, one in zip(rows, found, strict=True):
            assert row.context is not None
            assert row.context[one.start :].startswith(one.text)
            assert 0 < one.probability <= 1


@pytest.mark.parametrize("task", [PAIRS, ASKED], ids=["pair", "qa"])
def test_padding_and_order_do_not_change_a_prediction(task: TaskConfig, config: TamConfig) -> None:
    tam = trained(task, config)
    inputs = [("Where?", "In Rome."), ("What does it eat? " * 4, "It eats rice. " * 3), ("x", "y"), ("Who?", "")]
    for one, found in zip(inputs, tam.predict(inputs), strict=True):
        (alone,) = tam.predict([one])
        if isinstance(found, Prediction):
            assert list(alone.probabilities.values()) == pytest.approx(list(found.probabilities.values()), abs=1e-5)
        else:
            assert (alone.text, alone.start) == (found.text, found.start)
            assert alone.probability == pytest.approx(found.probability, abs=1e-5)
    assert tam.predict([]) == []


def test_inputs_of_another_kind_are_refused(config: TamConfig) -> None:
    tam = trained(PAIRS, config, replace(QUICK, epochs=1), rows=16)
    with pytest.raises(TypeError, match=r"pairs: \(text, context\)"):
        tam.predict(["a text"])
    with pytest.raises(TypeError, match="pairs"):
        tam.predict("a text")


def test_the_task_says_which_text_comes_first(config: TamConfig) -> None:
    inputs = [("text", "context")]
    assert order_pair(inputs, ["text", "context"]) == inputs
    assert order_pair(inputs, ["context", "text"]) == [("context", "text")]
    tams = [
        trained(replace(PAIRS, order=order), config, replace(QUICK, epochs=1), rows=16)
        for order in (["text", "context"], ["context", "text"])
    ]
    tams[1].model.load_state_dict(tams[0].model.state_dict())
    assert tams[1].predict([("Rome", "Where")]) == tams[0].predict([("Where", "Rome")])


def test_two_streams_part_pairs() -> None:
    ids = torch.tensor([[5, 6, 7, 8, 0], [9, 3, 0, 0, 0], [4, 4, 4, 2, 2]])
    mask = (ids > 0).long()
    types = torch.tensor([[0, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]])
    streams, lengths = two_streams(ids, mask, types)
    assert streams.tolist() == [[5, 6, 0], [0, 0, 0], [4, 4, 4], [7, 8, 0], [9, 3, 0], [2, 2, 0]]
    assert lengths.tolist() == [2, 0, 3, 2, 2, 2]


def test_an_answer_in_a_far_window_is_found_by_its_characters(tiny_encoder: Path) -> None:
    """A reader that loves one word finds it wherever it stands."""
    tam = trained(ASKED, TamConfig(name="tiny", model=str(tiny_encoder), dtype="float32"), replace(QUICK, epochs=1))
    tam.tokenizer.model_max_length = 40
    token = tam.tokenizer("Rome", add_special_tokens=False)["input_ids"]

    class Loves(torch.nn.Module):
        device = torch.device("cpu")
        config = tam.model.config

        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            starts = (input_ids == token[0]).float() * 9
            ends = (input_ids == token[-1]).float() * 9
            return type("Outputs", (), {"start_logits": starts, "end_logits": ends})

    tam.model = Loves()
    passage = "nothing here, " * 20 + "but Rome it was. " + "nothing here, " * 20
    (found,) = tam.predict([("Where?", passage)])
    assert (found.text, found.start) == ("Rome", passage.index("Rome"))


def test_transformers_opens_a_saved_reader(tiny_encoder: Path, tmp_path: Path) -> None:
    tam = trained(ASKED, TamConfig(name="tiny", model=str(tiny_encoder), dtype="float32"))
    tam.save(tmp_path)
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    assert torch.equal(model.qa_outputs.weight, tam.model.qa_outputs.weight)


def test_questions_without_an_answer(config: TamConfig) -> None:
    lr, epochs = (1e-2, 25) if config.kind == "lstm" else (3e-3, 40)
    trainer = TrainerConfig(lr=lr, epochs=epochs, batch_size=16, schedule="constant")
    rows = toy_questions(240, unanswered=80)
    tam, _ = fit(rows, ASKED, config, trainer, seed=1)
    assert tam.spec.none
    found = tam.predict(tam.inputs_of(rows[-10:] + rows[:10]))
    assert sum(span.text == "" for span in found[:10]) >= 9
    assert sum(span.text != "" for span in found[10:]) >= 9


def test_bidaf_never_reads_padding_and_places_logits_on_the_passage(tmp_path: Path) -> None:
    tam = trained(ASKED, TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=8, hidden=8))
    assert isinstance(tam.model, BidafForQuestionAnswering)
    known = {one: i + 2 for i, one in enumerate(tam.model.config.characters)}
    assert character_ids(["It", "\u4e2d"], known)[0][:3] == [known["I"], known["t"], 0]
    assert character_ids(["\u4e2d"], known)[0][0] == 1
    encoded = encode(tam.tokenizer, [("where is it", "it lives in rome")])[0]
    ids = torch.tensor([encoded.ids])
    types = torch.tensor([encoded.types])
    characters = torch.ones(1, len(encoded.ids), 16, dtype=torch.long)
    with torch.no_grad():
        plain = tam.model(ids, torch.ones_like(ids), types, characters)
        wide = torch.nn.functional.pad
        padded = tam.model(
            wide(ids, (0, 6), value=7),
            wide(torch.ones_like(ids), (0, 6)),
            wide(types, (0, 6)),
            wide(characters, (0, 0, 0, 6), value=3),
        )
    assert encoded.types == [0, 0, 0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(padded.start_logits[:, :8], plain.start_logits)
    torch.testing.assert_close(padded.end_logits[:, :8], plain.end_logits)
    assert plain.start_logits[0, 1:4].tolist() == [0.0, 0.0, 0.0]
    assert plain.start_logits[0, 4:].abs().min() > 0


def torchs(lstm: BiLstm) -> torch.nn.LSTM:
    """Return torch's bidirectional LSTM with the same weights."""
    first = lstm.forwards[0]
    layers = len(lstm.forwards)
    whole = torch.nn.LSTM(first.input_size, first.hidden_size, layers, batch_first=True, bidirectional=True)
    for layer in range(layers):
        for side, suffix in ((lstm.forwards[layer], ""), (lstm.backwards[layer], "_reverse")):
            for name, tensor in side.named_parameters():
                getattr(whole, name.replace("_l0", f"_l{layer}{suffix}")).data.copy_(tensor)
    return whole


def test_both_directions_are_torchs_for_rows_of_any_length() -> None:
    torch.manual_seed(1)
    lstm = BiLstm(5, 4, layers=2).eval()
    rows, lengths = torch.randn(3, 7, 5), torch.tensor([7, 1, 4])
    found = lstm(rows, lengths)
    for row, length, states in zip(rows, lengths.tolist(), found, strict=True):
        torch.testing.assert_close(states[:length], torchs(lstm)(row[None, :length])[0][0])
        assert not states[length:].any()


def test_a_single_text_is_read_by_its_two_final_states() -> None:
    task = replace(PAIRS, kind="classification")
    config = TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=8, hidden=6)
    tam, _ = fit(toy_pairs(60), task, config, QUICK, seed=1)
    texts = ["the film was good", "bad", ""]
    with torch.no_grad():
        for text, prediction in zip(texts, tam.predict(texts), strict=True):
            ids = torch.tensor([tam.tokenizer(text)["input_ids"] or [0]])
            _, (final, _) = torchs(tam.model.lstm)(tam.model.embedding(ids))
            logits = tam.model.classifier(final.transpose(0, 1).flatten(1))[0]
            expected = dict(zip(tam.labels, logits.softmax(-1).tolist(), strict=True))
            assert prediction.probabilities == pytest.approx(expected, abs=1e-6)


def test_the_two_stream_lstm_computes_its_formula() -> None:
    """One pair at a time, without padding, as Conneau et al. (2017) write it."""
    tam = trained(PAIRS, TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=8, hidden=6))
    pairs = [("the film was good fun", "good"), ("bad", "it was very bad and long")]
    found = tam.predict(pairs)
    model = tam.model
    assert (model.config.layers, len(model.lstm.forwards)) == (2, 2)
    with torch.no_grad():
        for (text, context), prediction in zip(pairs, found, strict=True):
            p, h = (
                torchs(model.lstm)(model.embedding(torch.tensor([tam.tokenizer(one)["input_ids"]])))[0][0].max(0).values
                for one in (context, text)  # the order of the task
            )
            logits = model.classifier(torch.cat([p, h, (p - h).abs(), p * h])[None])[0]
            expected = dict(zip(tam.labels, logits.softmax(-1).tolist(), strict=True))
            assert prediction.probabilities == pytest.approx(expected, abs=1e-6)


def test_bidaf_computes_its_formula() -> None:
    """One question at a time, word by word, as Seo et al. (2017) write it, with the words that both texts have marked.

    In a batch it is padded.
    """
    tam = trained(ASKED, TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=8, hidden=6))
    model: Any = tam.model
    rows = [("where is it", "it lives in rome"), ("who", "anna lives here and bob in oslo , it is said")]
    windows = windows_of(tam.tokenizer, [row[0] for row in rows], [row[1] for row in rows], spelled=True)
    known = {one: i + 2 for i, one in enumerate(model.config.characters)}
    batch = collate_windows(windows, 0, True, known)
    del batch["starts"], batch["ends"], batch["inside"]
    with torch.no_grad():
        found = model(**batch)
        for row, window in enumerate(windows):
            embedded = torch.stack(
                [_word_of_bidaf(model, *of, known) for of in zip(window.ids, window.words, strict=True)]
            )
            count = sum(place is not None for place in window.offsets)
            asked_words, read_words = (
                [word.lower() for word in part]
                for part in (window.words[: len(window.ids) - count], window.words[len(window.ids) - count :])
            )
            marks = [word in read_words for word in asked_words] + [word in asked_words for word in read_words]
            assert any(marks) == (row == 0)
            embedded = torch.cat([embedded, torch.tensor(marks)[:, None]], 1)
            parts = embedded[: len(window.ids) - count], embedded[len(window.ids) - count :]
            question, passage = (torchs(model.contextual)(part[None])[0][0] for part in parts)
            scores = torch.stack(
                [
                    torch.stack(
                        [model.similarity(torch.cat([word, asked, word * asked])).squeeze() for asked in question]
                    )
                    for word in passage
                ]
            )
            attended = scores.softmax(1) @ question
            back = scores.max(1).values.softmax(0) @ passage
            flow = torch.cat([passage, attended, passage * attended, passage * back], 1)
            modelled = torchs(model.modelling)(flow[None])[0][0]
            closed = torchs(model.closing)(modelled[None])[0][0]
            starts = model.start(torch.cat([flow, modelled], 1)).squeeze(1)
            ends = model.end(torch.cat([flow, closed], 1)).squeeze(1)
            for mine, logits, none in ((starts, found.start_logits, 0), (ends, found.end_logits, 1)):
                torch.testing.assert_close(logits[row, len(window.ids) - count : len(window.ids)], mine)
                assert logits[row, 0] == model.none[none]


def test_words_of_both_texts_are_marked_by_id_or_by_spelling() -> None:
    known = {one: i + 2 for i, one in enumerate("ABab")}
    words = ["", "AB", "ab", "ba", "\u6771", "ab", "Ab", "AB", "\u4eac", ""]  # four of a question, four of a passage
    ids = torch.tensor([[2, 1, 4, 5, 1, 4, 1, 1, 1, 0]])  # 1 is any unknown word
    types = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1, 0]])
    characters = torch.tensor([character_ids(words, known)])
    found = shared_words(ids, (ids > 0).long(), types, characters)
    assert found[0].tolist() == [False, True, True, False, False, True, False, True, False, False]


def _word_of_bidaf(model: Any, word: int, spelling: str, known: dict[str, int]) -> torch.Tensor:
    letters = model.characters(torch.tensor(character_ids([spelling], known)))
    spelled = model.filters(letters.transpose(1, 2))[0].max(1).values
    made = torch.cat([model.words(torch.tensor(word)), spelled])
    for layer in model.highway:
        new, gate = layer(made).chunk(2)
        made = gate.sigmoid() * new.relu() + (1 - gate.sigmoid()) * made
    return made


def test_the_papers_sizes_are_the_defaults() -> None:
    sizes = {}
    for kind, rows in (("classification", toy_pairs(20)), ("pair", toy_pairs(20)), ("qa", toy_questions(20))):
        task = replace(ASKED if kind == "qa" else PAIRS, kind=kind)
        model: Any = fit(rows, task, TamConfig(name="lstm", kind="lstm"), replace(QUICK, epochs=1), seed=1)[0].model
        config = model.config
        sizes[kind] = config.embedding, config.hidden, config.dropout, getattr(config, "layers", None)
    assert sizes == {"classification": (100, 150, 0.5, 1), "pair": (100, 300, 0.5, 2), "qa": (100, 100, 0.2, None)}


def test_the_moving_average_is_what_is_kept(tiny_encoder: Path) -> None:
    config = TamConfig(name="tiny", model=str(tiny_encoder), dtype="float32")
    plain = trained(ASKED, config, replace(QUICK, epochs=1))
    averaged = trained(ASKED, config, replace(QUICK, epochs=1, ema=0.999))
    fresh = trained(ASKED, config, replace(QUICK, epochs=1, lr=1e-12))
    name = "qa_outputs.weight"
    weights = [tam.model.state_dict()[name] for tam in (fresh, averaged, plain)]
    assert not torch.equal(weights[1], weights[2])
    # It stands between where training began and where it ended.
    assert torch.dist(weights[0], weights[1]) < torch.dist(weights[0], weights[2])


@pytest.mark.parametrize("task", [PAIRS, ASKED], ids=["pair", "qa"])
def test_training_starts_from_word_vectors(task: TaskConfig, tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text(
        "2 3\nROME 9 9 9\nrome 1.5 2.5 3.5\noslo 4 5 6\nnowhere 0 0 0\nnew-york 1 1 1\ncafé 1 1 1\nNowhere 1 1 1\n"
    )
    config = TamConfig(name="lstm", kind="lstm", dtype="float32", hidden=8, vectors=str(path))
    heard = Heard()
    rows = toy_pairs(120) if task.kind == "pair" else toy_questions(120)
    tam, _ = fit(rows, task, config, replace(QUICK, epochs=1, lr=1e-12), seed=1, progress=heard)
    # The file's words are known even where the training texts lack them, unless no text is ever cut into them.
    assert {"rome", "oslo", "nowhere"} < tam.tokenizer.get_vocab().keys()
    assert not {"new-york", "Nowhere", "café"} & tam.tokenizer.get_vocab().keys()
    assert (
        tam.tokenizer.convert_tokens_to_ids(tam.tokenizer.tokenize("Nowhere, nowhere"))[::2]
        == [tam.tokenizer.get_vocab()["nowhere"]] * 2
    )
    learned = len(tam.tokenizer) - 4  # three special tokens and one word of the file's own
    assert heard.said == [f"{path} has vectors for 2 of {learned} words of the training texts, and 1 more"]
    table = tam.model.words if task.kind == "qa" else tam.model.embedding
    assert table.weight.shape[1] == 3
    place = tam.tokenizer.convert_tokens_to_ids("rome")
    assert table.weight[place].tolist() == pytest.approx([1.5, 2.5, 3.5])
    small, _ = fit(rows, task, replace(config, vocabulary=len(tam.tokenizer) - 1), replace(QUICK, epochs=1), seed=1)
    assert small.tokenizer.get_vocab().keys() == tam.tokenizer.get_vocab().keys() - {"nowhere"}
    path.write_text("nirgends 1 2 3\n")  # of another language
    with pytest.raises(UserError, match="holds none of the"):
        fit(rows, task, config, QUICK, seed=1)


def test_word_vectors_in_both_formats_and_wrong_files(tmp_path: Path) -> None:
    text, binary = tmp_path / "v.txt", tmp_path / "v.bin"
    text.write_text("rome 1 2\nOslo 3 4\n")
    numbers = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).numpy().astype("<f4")
    binary.write_bytes(b"2 2\nrome " + numbers[0].tobytes() + b"\nOslo " + numbers[1].tobytes() + b"\n")
    for path in (text, binary):
        found = read_vectors(path, {"rome": 5, "oslo": 7, "lima": 8})
        assert {place: vector.tolist() for place, vector in found.items()} == {5: [1.0, 2.0], 7: [3.0, 4.0]}
    text.write_text(". 9 9\n. . . 7 8\nnew york 5 6\r\n\nrome 1 2 \nother a b\n")
    assert {place: vector.tolist() for place, vector in read_vectors(text, {"rome": 5, "new york": 6}).items()} == {
        5: [1.0, 2.0],
        6: [5.0, 6.0],
    }
    text.write_text("rome 1 2\n\u00a0 3 4\n\u00a0b 5 6\n")  # words that are, or begin with, another white space
    assert list(read_vectors(text, {"rome": 1, "b": 2})) == [1]
    wrong = {
        "rome\t1\t2\n": "has 0 values, .* a space stands between them",
        "rome 1 2\noslo 3\n": "v.txt:2: 'oslo' has 1 values, the first word 2",
        "rome a b\n": "v.txt:1: allowed is a word and its 2 numbers",
        "x 1\n": "none of the 1",
        "rome nan 1\n": "'rome' has a value that is not finite",
        "rome\n": "v.txt:1: 'rome' has 0 values",
    }
    for content, message in wrong.items():
        text.write_text(content)
        with pytest.raises(UserError, match=message):
            read_vectors(text, {"rome": 1})
    with pytest.raises(UserError, match="v.tx: there is no such file; did you mean 'v.txt'"):
        read_vectors(tmp_path / "v.tx", {})
    binary.write_bytes(b"2 0\n")
    with pytest.raises(UserError, match="2 words of 0 values"):
        read_vectors(binary, {"rome": 1})
    for content, message in {"": "holds no word", "rome a b\n": "v.txt:1: allowed is"}.items():
        text.write_text(content)
        with pytest.raises(UserError, match=message):
            require(TamConfig(name="lstm", kind="lstm", vectors=str(text)), "pair")


def test_word_vectors_are_read_compressed_and_as_an_array(tmp_path: Path) -> None:
    text = "rome 1 2\nOslo 3 4\nl\u00e9on 5 6\n".encode()
    array = np.array([[1, 2], [3, 4], [5, 6]], dtype="<f4")
    words = ["rome", "Oslo", "l\u00e9on"]
    binary = b"3 2\n" + b"\n".join(word.encode() + b" " + row.tobytes() for word, row in zip(words, array, strict=True))
    (tmp_path / "v.txt.gz").write_bytes(gzip.compress(text))
    (tmp_path / "v.bin.gz").write_bytes(gzip.compress(binary))
    np.save(tmp_path / "a.npy", array.astype(np.float64))
    (tmp_path / "a.txt").write_text("\n".join(words), encoding="utf-8")
    np.save(tmp_path / "b.npy", array)
    (tmp_path / "b.vocab").write_text("\r\n".join(words) + "\r\n", encoding="utf-8-sig", newline="")
    for name in ("v.txt.gz", "v.bin.gz", "a.npy", "b.npy"):
        found = read_vectors(tmp_path / name, {"rome": 5, "l\u00e9on": 7, "lima": 8})
        assert {place: vector.tolist() for place, vector in found.items()} == {5: [1.0, 2.0], 7: [5.0, 6.0]}, name
        assert all(vector.dtype == torch.float32 for vector in found.values())
        assert list(words_of(tmp_path / name)) == words


def test_files_that_are_no_word_vectors_are_refused_without_their_bytes(tmp_path: Path) -> None:
    table = pyarrow.table({"word": ["rome", "oslo"], "x": [1.0, 2.0]})
    pyarrow.parquet.write_table(table, tmp_path / "v.parquet")
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as archive:
        archive.writestr("v.txt", "rome 1 2\n")
    torch.save({"rome": torch.ones(2)}, tmp_path / "v.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"rome": [1.0, 2.0]}))
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 1 2\n".encode("latin-1"))
    (tmp_path / "escape.txt").write_text("\x1b[31mrome 1 2\n\x1b[31mrome 1\n")
    (tmp_path / "v.bin").write_bytes(b"5 \x1b 7\n")
    (tmp_path / "endless.bin").write_bytes(b"2 2\n" + b"\x1b" * 9999)
    (tmp_path / "wide.bin").write_bytes(b"2 99999999999999\nrome ")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(os.urandom(999).hex().encode())[:-300])
    (tmp_path / "no.txt.gz").write_bytes(b"\x1brome 1 2\n")
    np.save(tmp_path / "alone.npy", np.ones((2, 3)))
    for name, array in (
        ("few", np.ones((2, 3))),
        ("flat", np.ones(1)),
        ("words", np.array([["rome", "1"]])),
        ("pickled", np.array([[Path()]])),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        (tmp_path / f"{name}.txt").write_text("rome")
    (tmp_path / "junk.npy").write_bytes(b"\x1b" * 99)
    (tmp_path / "junk.txt").write_text("rome")
    wrong = {
        "v.parquet": "is no text; allowed are",
        "v.zip": "is no text",
        "v.pt": "is no text",
        "old.pt": "is no text",
        "latin.txt": "is no text",
        "escape.txt": "escape.txt:2: ",
        "v.bin": "not word2vec's binary format",
        "endless.bin": "a word has no end",
        "wide.bin": "2 words of 99999999999999 values",
        "cut.txt.gz": "damaged",
        "no.txt.gz": "not compressed by gzip",
        "alone.npy": "its words, one a line, must be in alone.txt or alone.vocab",
        "few.npy": "has 2 vectors, few.txt 1 words",
        "flat.npy": "holds float64 .1.; allowed is one array of numbers",
        "words.npy": "holds <U4 .1, 2.; allowed",
        "pickled.npy": "not an array of numbers",
        "junk.npy": "not an array of numbers",
    }
    for name, message in wrong.items():
        with pytest.raises(UserError, match=message) as error:
            read_vectors(tmp_path / name, {"rome": 1})
        assert str(error.value).isprintable(), name


@pytest.mark.parametrize("task", [PAIRS, ASKED], ids=["pair", "qa"])
def test_a_folder_without_all_weights_is_refused(task: TaskConfig, config: TamConfig, tmp_path: Path) -> None:
    trained(task, config).save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    dropped = next(name for name in weights if "bias" in name)
    del weights[dropped]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"1 of its weights are missing, such as {dropped}"):
        load_tam(tmp_path)


def test_pairs_of_empty_texts_have_a_prediction(config: TamConfig) -> None:
    assert trained(PAIRS, config).predict([("", "")])[0].label in PAIRS.labels


def test_the_moving_average_follows_faster_at_first() -> None:
    update = moving_average(0.5)
    average, expected = torch.tensor(0.0), 0.0
    for step, value in enumerate([1.0, 3.0, -2.0, 8.0]):
        average = update(average, torch.tensor(value), torch.tensor(step))
        share = min(0.5, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * value
        assert float(average) == pytest.approx(expected)
    assert float(update(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(1000))) == pytest.approx(0.5)


def test_training_that_patience_has_ended_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between its last save and its end."""
    rows = toy_pairs(60)
    config = TamConfig(name="lstm", kind="lstm", dtype="float32", embedding=24, hidden=24, dropout=0.0)
    trainer = TrainerConfig(lr=1e-3, epochs=12, batch_size=16, patience=1, schedule="constant")
    path, kept = tmp_path / "training.ckpt", tmp_path / "kept.ckpt"
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda self, **_: self.replace(kept) if self == path else unlink(self))
    for seed in range(20):  # one of which would be better an epoch later
        whole, report = fit(rows, PAIRS, config, trainer, seed=seed, checkpoint=path)
        if fit(rows, PAIRS, config, replace(trainer, patience=2), seed=seed)[1].epoch > report.epoch:
            break
    else:
        pytest.fail("no seed stops too early")
    monkeypatch.undo()
    kept.rename(path)
    found, again = fit(rows, PAIRS, config, trainer, seed=seed, checkpoint=path)
    assert again == report
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name]), name


def test_models_that_want_no_types_get_none() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert all(row.types is None for row in encode(tokenizer, [("a", "b")]))


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("task", [PAIRS, ASKED], ids=["pair", "qa"])
def test_training_that_goes_on_ends_as_if_it_had_not_stopped(
    task: TaskConfig, config: TamConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float | None
) -> None:
    rows = toy_pairs(60) if task.kind == "pair" else toy_questions(60)
    trainer = TrainerConfig(lr=3e-3, epochs=4, batch_size=16, ema=ema)
    config.dropout = 0.2
    whole, report = fit(rows, task, config, trainer, seed=1)
    path = tmp_path / "run" / "training.ckpt"
    steps = 0
    original = Learner.training_step

    def stopped(self: Learner, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps > 10:  # in the third epoch
            raise KeyError("stopped")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Learner, "training_step", stopped)
    with pytest.raises(KeyError, match="stopped"):
        fit(rows, task, config, trainer, seed=1, checkpoint=path)
    assert path.is_file()
    steps = -100
    heard = Heard()
    found, again = fit(rows, task, config, trainer, seed=1, checkpoint=path, progress=heard)
    assert [line.partition(" rows ")[2] for line in heard.said] == ["goes on from its last finished epoch"]
    assert heard.done == heard.total  # of the bar
    assert steps + 100 < 12  # the first two epochs were not trained again
    assert again == report
    assert not path.exists()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name]), name
