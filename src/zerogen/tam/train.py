"""The tiny task model (TAM): fit, predict, save, load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zerogen.config import TamConfig, TrainerConfig, check_tam, check_trainer
from zerogen.errors import UserError
from zerogen.lightning import quiet_lightning
from zerogen.models import fingerprint, has_bfloat16, load_pretrained, quiet_loading, resolve, tam_folder
from zerogen.progress import Quiet
from zerogen.records import Example, Prediction, derive
from zerogen.tam.classifier import BestEpoch, Classifier
from zerogen.tam.data import Buckets, by_length, collate, split_heldout
from zerogen.tam.lstm import LstmConfig, LstmForSequenceClassification, word_tokenizer


@dataclass(frozen=True, slots=True)
class FitReport:
    """rows and heldout: rows trained on and rows that picked the epoch; accuracy on the latter, None without any."""

    rows: int
    heldout: int
    epoch: int
    heldout_accuracy: float | None


class Tam:
    """A trained text classifier with its tokenizer; build it with `fit` or `load_tam`."""

    def __init__(self, model: Any, tokenizer: Any, labels: Sequence[str], dtype: str = "auto") -> None:
        self.model, self.tokenizer, self.labels, self.dtype = model.eval(), tokenizer, list(labels), dtype

    @torch.inference_mode()
    def predict(self, texts: Sequence[str], batch_size: int = 64, progress: Quiet | None = None) -> list[Prediction]:
        """Predict the label of each text; texts longer than the TAM's maximum are cut at their end.

        Raises TypeError for a single string.
        """
        if isinstance(texts, str):
            raise TypeError("texts is a string; allowed is a list of strings")
        encoded = encode(self.tokenizer, texts)
        device = self.model.device
        done: list[Prediction | None] = [None] * len(texts)
        with (progress or Quiet()).bar("predicting", len(texts), "rows") as advance:
            for batch in by_length([len(ids) for ids in encoded], batch_size):
                inputs = collate([(encoded[i], 0) for i in batch], self.tokenizer.pad_token_id)
                del inputs["labels"]
                with torch.autocast(device.type, torch.bfloat16, enabled=half_precision(self.dtype, device)):
                    logits = self.model(**{name: tensor.to(device) for name, tensor in inputs.items()}).logits
                for i, row in zip(batch, logits.float().softmax(-1).tolist(), strict=True):
                    done[i] = Prediction.of(dict(zip(self.labels, row, strict=True)))
                advance(len(batch))
        return [prediction for prediction in done if prediction is not None]

    def save(self, folder: Path) -> None:
        """Write the folder that transformers' `from_pretrained` (for an LSTM: `load_tam`) opens."""
        with quiet_loading():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_tam(folder: str | Path, device: str | torch.device = "cpu", dtype: str = "auto") -> Tam:
    """Open a folder that `Tam.save` wrote, or the run folder around it.

    dtype: arithmetic of predictions, `float32` or `bfloat16`; `auto` is that of training. Raises `UserError` when the
    folder holds no trained text classifier.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    folder = tam_folder(Path(folder))
    try:
        if '"zerogen-lstm"' in (folder / "config.json").read_text(encoding="utf-8"):
            with quiet_loading():
                model: Any = LstmForSequenceClassification.from_pretrained(folder)
            tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
        else:
            config = AutoConfig.from_pretrained(folder)
            if not any("ForSequenceClassification" in name for name in config.architectures or ()):
                raise UserError(f"TAM folder {folder}: holds {config.architectures}, not a trained text classifier")
            model, tokenizer = load_pretrained(
                AutoModelForSequenceClassification, resolve(str(folder), None, "TAM"), "TAM"
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"TAM folder {folder}: could not be loaded ({str(error).splitlines()[0]})") from error
    _bound(model, tokenizer)
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    trained_in = getattr(model.config, "zerogen_dtype", "auto")
    return Tam(model.to(device), tokenizer, labels, trained_in if dtype == "auto" else dtype)


def identity(config: TamConfig) -> str:
    """Identify what training starts from, for hashes."""
    return "" if config.model is None else fingerprint(resolve(config.model, config.revision, "tam.model"))


def require(config: TamConfig) -> None:
    """Raise `UserError` where the weights that training starts from cannot be had."""
    if config.kind == "encoder":
        _fresh(config, ["a", "b"], 8, [])


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts, cut at the tokenizer's maximum length."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, return_attention_mask=False)["input_ids"]
    return ids


def half_precision(dtype: str, device: torch.device) -> bool:
    """Say whether to compute in bfloat16: asked for, or `auto` on hardware that has it."""
    return has_bfloat16(device) if dtype == "auto" else dtype == "bfloat16"


def fit(
    rows: Sequence[Example],
    labels: Sequence[str],
    tam: TamConfig,
    trainer: TrainerConfig,
    *,
    max_length: int = 128,
    seed: int = 42,
    device: str | torch.device = "cpu",
    progress: Quiet | None = None,
) -> tuple[Tam, FitReport]:
    """Train a fresh TAM on rows and return the weights of its best epoch on held-out rows.

    labels: names in the order of the classifier's outputs. max_length: tokens read of a text.
    Same rows, configuration and seed give the same weights on the same machine; torch's global random state is left as
    it was. Raises `UserError` when a row's label is not among `labels` or there are no rows.
    """
    import pytorch_lightning as pl

    check_tam(tam)
    check_trainer(trainer)
    if not rows:
        raise UserError("there are no rows to train on")
    for row in rows:
        if row.label not in labels:
            raise UserError(f"row {row.uid}: label '{row.label}' is not among {', '.join(labels)}")
    device = torch.device(device)
    train, heldout = split_heldout(rows, trainer.heldout, seed)
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), quiet_lightning():
        torch.manual_seed(derive(seed, "tam"))
        model, tokenizer = _fresh(tam, labels, max_length, [row.text for row in train])
        batches = _loader(tokenizer, train, labels, trainer.batch_size, derive(seed, "batches"), shuffle=True)
        checks = _loader(tokenizer, heldout, labels, trainer.batch_size, 0, shuffle=False) if heldout else None
        module = Classifier(model, trainer, steps=len(batches) * trainer.epochs)
        with (progress or Quiet()).bar(
            f"training on {len(train):,} rows", len(train) * trainer.epochs, "rows"
        ) as advance:
            best = BestEpoch(trainer.patience, advance)
            lightning = pl.Trainer(
                accelerator="gpu" if cuda else "cpu",
                devices=cuda or 1,
                precision="bf16-mixed" if half_precision(tam.dtype, device) else "32-true",
                max_epochs=trainer.epochs,
                callbacks=[best],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            lightning.fit(module, batches, checks)
    model.config.zerogen_dtype = tam.dtype  # predictions after loading are computed as they were here
    trained = Tam(model.to(device), tokenizer, labels, tam.dtype)
    return trained, FitReport(len(train), len(heldout), best.epoch, best.accuracy)


def _fresh(tam: TamConfig, labels: Sequence[str], max_length: int, texts: Sequence[str]) -> tuple[Any, Any]:
    """Return an untrained classifier on top of the configured encoder, or an LSTM with the vocabulary of `texts`."""
    names = dict(enumerate(labels))
    ids = {label: i for i, label in names.items()}
    if tam.kind == "lstm":
        tokenizer = word_tokenizer(texts, tam.vocabulary)
        config = LstmConfig(
            len(tokenizer), tam.embedding, tam.hidden, tam.dropout, num_labels=len(names), id2label=names, label2id=ids
        )
        tokenizer.model_max_length = max_length
        return LstmForSequenceClassification(config), tokenizer
    from transformers import AutoModelForSequenceClassification

    source = resolve(str(tam.model), tam.revision, "tam.model")
    model, tokenizer = load_pretrained(
        AutoModelForSequenceClassification,
        source,
        "tam.model",
        num_labels=len(names),
        id2label=names,
        label2id=ids,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )
    _bound(model, tokenizer)
    tokenizer.model_max_length = min(max_length, tokenizer.model_max_length)
    return model, tokenizer


def _bound(model: Any, tokenizer: Any) -> None:
    """Let a tokenizer cut texts at the model's positions, and give both a padding token."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    # RoBERTa's table holds two rows more than it has positions; its tokenizer knows.
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    tokenizer.model_max_length = min(positions, tokenizer.model_max_length)


def _loader(
    tokenizer: Any, rows: Sequence[Example], labels: Sequence[str], batch_size: int, seed: int, shuffle: bool
) -> Any:
    encoded = encode(tokenizer, [row.text for row in rows])
    pairs = [(ids, labels.index(row.label)) for ids, row in zip(encoded, rows, strict=True)]
    lengths = [len(ids) for ids in encoded]
    pad = tokenizer.pad_token_id
    return torch.utils.data.DataLoader(
        pairs,  # type: ignore[arg-type]
        batch_sampler=Buckets(lengths, batch_size, seed) if shuffle else by_length(lengths, batch_size),
        collate_fn=lambda batch: collate(batch, pad),
    )
