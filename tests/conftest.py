"""No network, and tiny random models built on the spot."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side, whose threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from zerogen.config.schema import Config, FilterConfig, PlmConfig, SettingConfig, TamConfig, TrainerConfig
from zerogen.config.task_schema import ContextConfig, GoldConfig, TaskConfig
from zerogen.data.records import Answer, Example
from zerogen.data.synthetic import write_jsonl
from zerogen.plm.model import Plm

TEXTS = [
    'The movie review in positive sentiment for movie "The Bird" is: "A bright, moving film about a family."',
    'The movie review in negative sentiment for movie "Night" is: "Dull from start to end; I left early."',
    "Is this the question? Yes. It was in the paper.",
]


# Files are handed out whole to processes that run side by side: what takes longest goes first.
LONGEST = ("test_real", "test_server", "test_kinds", "test_launchers", "test_cli", "test_generator", "test_model")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection but those within this machine's processes."""

    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":
            raise OSError(f"a test tried to connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens; id 0 ends a text and also pads, as in GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


_GROUPED: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
_MIXED: dict[str, Any] = {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}
# Tied to scaled embeddings, random heads would repeat the last token.
_GEMMA = {**_GROUPED, **_MIXED, "head_dim": 16, "query_pre_attn_scalar": 9, "tie_word_embeddings": False}
# transformers' name of a family, and how its random models are built.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"num_attention_heads": 4}),
    "llama": ("llama", _GROUPED),
    "qwen2": ("qwen2", {**_GROUPED, **_MIXED, "use_sliding_window": True}),  # layers with a window, and others
    "qwen3": ("qwen3", {**_GROUPED, "head_dim": 16}),  # heads wider than the states divided among them
    "gemma3": ("gemma3_text", _GEMMA),  # scaled embeddings and queries, and a rope per kind of layer
    "gemma3, logits capped": ("gemma3_text", {**_GEMMA, "final_logit_softcapping": 5.0}),
    "mistral": ("mistral", {**_GROUPED, "sliding_window": 9}),  # all layers have the window
    "phi": ("phi", {"num_attention_heads": 4, "intermediate_size": 64}),  # attention beside the MLP, half a rope
    "phi3": ("phi3", {**_GROUPED, "sliding_window": 9}),  # queries, keys and values by one product
    "gemma2": ("gemma2", {**_GEMMA, "attn_logit_softcapping": 5.0}),
    "bloom": ("bloom", {"n_head": 4}),  # positions inside the attention (ALiBi), and no attention interface
}
SLOW = ["gemma2", "bloom"]  # families that are decoded without a cache
FAST = [family for family in FAMILIES if family not in SLOW]
every_fast_family = pytest.mark.parametrize("plm", FAST, indirect=True)
every_family = pytest.mark.parametrize("plm", list(FAMILIES), indirect=True)
_sliding = [family for family in FAST if "sliding_window" in FAMILIES[family][1]]
every_sliding_family = pytest.mark.parametrize("plm", _sliding, indirect=True)


def causal_model(family: str, vocab_size: int = 320) -> PreTrainedModel:
    """A random float32 model of one of `FAMILIES`, with logits far from uniform."""
    name, settings = FAMILIES[family]
    sizes = {"vocab_size": vocab_size, "hidden_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 128}
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(name, **sizes, **tokens, **settings)
        )
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(params=["gpt2", "llama", "gemma3"])
def plm(request: pytest.FixtureRequest) -> Plm:
    """A PLM whose name is that of its family."""
    return Plm(causal_model(request.param), byte_tokenizer(), request.param)


@pytest.fixture
def gpt2() -> Plm:
    return Plm(causal_model("gpt2"), byte_tokenizer())


@pytest.fixture
def task() -> TaskConfig:
    return TaskConfig(
        name="toy",
        labels=["bad", "good"],
        prompts={"bad": 'A bad "<C>": "', "good": 'A good "<C>": "'},
        scoring={"bad": 'Bad: "<X>"', "good": 'Good: "<X>"'},
        context=ContextConfig(prompt='Film: "', max_new_tokens=12, per_label=2),
        max_new_tokens=24,
    )


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer encoder with a tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = BertConfig(
            vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
        )
        BertForSequenceClassification(config).bert.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random causal model with a tokenizer."""
    folder = tmp_path_factory.mktemp("causal")
    causal_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def toy_rows(count: int) -> list[Example]:
    """Rows whose label is in their words; four rows share a context."""
    good, bad = ["bright", "moving", "lovely"], ["dull", "boring", "weak"]
    rows = []
    for i in range(count):
        word = (good if i % 2 else bad)[i // 2 % 3]
        text = f"a {word} film number {i}" + " indeed" * (i % 5)
        rows.append(Example(f"row-{i}", text, "good" if i % 2 else "bad", context=f"film {i // 4}"))
    return rows


def toy_pairs(count: int) -> list[Example]:
    """Pairs whose label says whether the text names the place of its context; four rows share a context."""
    places = ["Rome", "Oslo", "Lima"]
    rows = []
    for i in range(count):
        place, asked = places[i // 4 % 3], places[(i // 4 + i % 2) % 3]
        context = f"The bird number {i // 4} lives in {place}."
        rows.append(Example(f"row-{i}", f"It is in {asked}" + " indeed" * (i % 3), "bad" if i % 2 else "good", context))
    return rows


def toy_questions(count: int, unanswered: int = 0) -> list[Example]:
    """Questions that are answered by the word behind `in` or behind `eats`; of the last ones nothing is said."""
    places, foods = ["Rome", "Oslo", "Lima", "Bonn"], ["rice", "corn", "nuts"]
    rows = []
    for i in range(count):
        place, food = places[i % 4], foods[i // 2 % 3]
        context = "It is old. " * (i % 3) + f"The bird lives in {place} and eats {food}."
        question, word = ("Where does it live?", place) if i % 2 else ("What does it eat?", food)
        answers: tuple[Answer, ...] = (Answer(word, context.index(word)),)
        if i >= count - unanswered:
            question, answers = "When was it born?", ()
        rows.append(Example(f"row-{i}", question, "question", context, answers=answers))
    return rows


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, whose modules are imported anew in every test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_causal: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return a ZEROGEN run of tiny models, with gold rows in tmp_path and results in tmp_path/outputs."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ZEROGEN_CACHE", str(tmp_path / "cache"))
    gold = [{"text": row.text, "label": row.label} for row in toy_rows(120)]
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    write_jsonl(gold[:60], Path(files["train"]))
    write_jsonl(gold[60:], Path(files["validation"]))
    task = TaskConfig(
        name="toy",
        labels=["bad", "good"],
        max_length=64,
        max_new_tokens=24,
        min_words=1,
        prompts={"bad": 'A bad "<C>": "', "good": 'A good "<C>": "'},
        scoring={"bad": 'Bad: "<X>"', "good": 'Good: "<X>"'},
        context=ContextConfig(prompt='Film: "', max_new_tokens=12, per_label=2),
        gold={"own": GoldConfig(files=files)},
    )
    task.parse.fallback = "sentence"
    return Config(
        task=task,
        setting=SettingConfig("zerogen"),
        plm=PlmConfig("tiny", str(tiny_causal)),
        tam=TamConfig("tiny", model=str(tiny_encoder)),
        trainer=TrainerConfig(lr=1e-3, epochs=2),
        filter=FilterConfig(min_words=1, min_acceptance=0),
        n=400,
        gpu="none",
        output_dir=str(tmp_path / "outputs"),
    )
