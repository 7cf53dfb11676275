"""The paper's BiLSTM classifiers, of one text and of a pair, and their word-level tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

if TYPE_CHECKING:
    from zerogen.config.schema import TamConfig

SPECIAL = ["[PAD]", "[UNK]", "[NONE]"]


class LstmConfig(PretrainedConfig):
    """Sizes of `LstmForSequenceClassification`: word types, width of embeddings and of each direction, layers.

    pair: whether it reads two texts.
    """

    model_type = "zerogen-lstm"

    def __init__(
        self,
        vocab_size: int = 2,
        embedding: int = 100,
        hidden: int = 150,
        dropout: float = 0.5,
        layers: int = 1,
        pair: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.embedding, self.hidden, self.dropout = vocab_size, embedding, hidden, dropout
        self.layers, self.pair = layers, pair
        kwargs.setdefault("pad_token_id", 0)
        super().__init__(**kwargs)


class BiLstm(nn.Module):
    """Layers of LSTMs that read rows in both directions; padding after a row is not read.

    Each direction is an LSTM of its own over padded rows, the second one over rows that are turned around: twice as
    fast on a processor as torch's packed sequences.
    """

    def __init__(self, width: int, hidden: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [width, *[2 * hidden] * (layers - 1)]
        self.forwards = nn.ModuleList(nn.LSTM(each, hidden, batch_first=True) for each in widths)
        self.backwards = nn.ModuleList(nn.LSTM(each, hidden, batch_first=True) for each in widths)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Return the last layer's states [B, T, 2H] of rows [B, T, D] with lengths [B], 0 after a row's end."""
        steps = torch.arange(rows.shape[1], device=rows.device)
        inside = (steps < lengths[:, None])[:, :, None]
        # Where each step of a row that is turned around comes from; it is its own inverse.
        turned = torch.where(inside[:, :, 0], lengths[:, None] - 1 - steps, steps)[:, :, None]
        for layer, (onward, backward) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            given = self.dropout(rows) if layer else rows
            found = backward(given.gather(1, turned.expand_as(given)))[0]
            rows = torch.cat([onward(given)[0], found.gather(1, turned.expand_as(found))], -1) * inside
        return rows


class LstmForSequenceClassification(PreTrainedModel):
    """A bidirectional LSTM. Padding is never read.

    Of one text, the two final states go into a linear classifier. The two texts p and h of a pair are read by the same
    LSTM; the largest value of each state over a text's words makes its vector, and [p, h, |p - h|, p * h] goes into
    three linear layers (as in Conneau et al., 2017, https://arxiv.org/abs/1705.02364).
    """

    config_class = LstmConfig
    base_model_prefix = "lstm"

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        width = 2 * config.hidden
        self.embedding = nn.Embedding(config.vocab_size, config.embedding, padding_idx=0)
        self.lstm = BiLstm(config.embedding, config.hidden, config.layers, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier: nn.Module = nn.Linear(width, config.num_labels)
        if config.pair:
            self.classifier = nn.Sequential(
                nn.Linear(4 * width, width),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(width, width),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(width, config.num_labels),
            )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's own initialisation of every layer."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Return logits [B, labels] for input_ids and attention_mask [B, T], padded on the right.

        token_type_ids: of a pair, [B, T], 0 for the words of the first text and 1 for those of the second after it.
        """
        if not self.config.pair:
            lengths = attention_mask.sum(-1).clamp(min=1)
            states = self._read(input_ids, lengths)
            last = states[torch.arange(len(states), device=states.device), lengths - 1]
            final = torch.cat([last[:, : self.config.hidden], states[:, 0, self.config.hidden :]], -1)  # [B, 2H]
            return SequenceClassifierOutput(logits=self.classifier(self.dropout(final)))
        assert token_type_ids is not None
        ids, lengths = two_streams(input_ids, attention_mask, token_type_ids)
        lengths = lengths.clamp(min=1)  # an empty text is one of padding
        states = self._read(ids, lengths)  # [2B, T, 2H]
        real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        pooled = states.masked_fill(~real[:, :, None], -torch.inf).amax(1)  # [2B, 2H]
        p, h = pooled.chunk(2)
        logits = self.classifier(self.dropout(torch.cat([p, h, (p - h).abs(), p * h], -1)))
        return SequenceClassifierOutput(logits=logits)

    def _read(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the last layer's states [B, T, 2H] of ids [B, T] with lengths [B]."""
        return self.lstm(self.dropout(self.embedding(ids)), lengths)


def two_streams(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Part pairs [B, T] into ids [2B, T], all first texts above all second ones, padded with 0, and lengths [2B]."""
    second = attention_mask.bool() & (token_type_ids == 1)
    first = attention_mask.bool() & ~second
    before, behind = first.sum(-1), second.sum(-1)
    places = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    shifted = input_ids.gather(1, (places + before[:, None]).clamp(max=input_ids.shape[1] - 1))
    ids = torch.cat([input_ids * first, shifted * (places < behind[:, None])])
    lengths = torch.cat([before, behind])
    return ids[:, : max(1, int(lengths.max()))], lengths


def untrained(
    config: TamConfig, words: int, width: int, pair: bool, labels: dict[str, Any]
) -> tuple[LstmForSequenceClassification, nn.Embedding]:
    """Return a classifier with the paper's sizes where the configuration has none, and its table of words.

    words: in the vocabulary. width: of their vectors. labels: what the model's configuration says about them.
    """
    model = LstmForSequenceClassification(
        LstmConfig(
            words,
            width,
            config.hidden or (300 if pair else 150),
            0.5 if config.dropout is None else config.dropout,
            layers=2 if pair else 1,
            pair=pair,
            **labels,
        )
    )
    return model, model.embedding


def word_tokenizer(texts: Iterable[str], vocabulary: int, reading: bool = False) -> PreTrainedTokenizerFast:
    """Learn a lower-cased word vocabulary from texts: id 0 is padding, 1 an unknown word, 2 stands for no answer.

    Of a pair, the words of the second text follow those of the first, with token type 1. reading: a pair begins with
    the token for no answer.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="$A",
        pair="[NONE]:0 $A:0 $B:1" if reading else "$A:0 $B:1",
        special_tokens=[("[NONE]", SPECIAL.index("[NONE]"))] if reading else [],
    )
    trainer = trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, show_progress=False)
    words.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def add_words(tokenizer: PreTrainedTokenizerFast, more: Iterable[str], vocabulary: int) -> None:
    """Fill the vocabulary of a word tokenizer up to its size with the first words that a text can be cut into."""
    from tokenizers import models

    words = tokenizer.backend_tokenizer
    known = words.get_vocab()
    for word in map(str.lower, more):
        if len(known) >= vocabulary:
            break
        pieces = words.pre_tokenizer.pre_tokenize_str(words.normalizer.normalize_str(word))
        if [piece for piece, _ in pieces] == [word]:
            known.setdefault(word, len(known))
    words.model = models.WordLevel(known, unk_token="[UNK]")
