"""The paper's BiLSTM classifier and its word-level tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput


class LstmConfig(PretrainedConfig):
    """Sizes of `LstmForSequenceClassification`: word types, width of embeddings and of each direction."""

    model_type = "zerogen-lstm"

    def __init__(
        self, vocab_size: int = 2, embedding: int = 100, hidden: int = 150, dropout: float = 0.5, **kwargs: Any
    ) -> None:
        self.vocab_size, self.embedding, self.hidden, self.dropout = vocab_size, embedding, hidden, dropout
        kwargs.setdefault("pad_token_id", 0)
        super().__init__(**kwargs)


class LstmForSequenceClassification(PreTrainedModel):
    """One bidirectional LSTM layer; its two final states go into a linear classifier. Padding is never read."""

    config_class = LstmConfig
    base_model_prefix = "lstm"

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding, padding_idx=0)
        self.lstm = nn.LSTM(config.embedding, config.hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.hidden, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's own initialisation of every layer."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SequenceClassifierOutput:
        """Return logits [B, labels] for input_ids and attention_mask [B, T], padded on the right."""
        embedded = self.dropout(self.embedding(input_ids))  # [B, T, E]
        lengths = attention_mask.sum(-1).clamp(min=1).cpu()  # an empty text reads one padding token
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        _, (final, _) = self.lstm(packed)  # [2, B, H]
        pooled = self.dropout(torch.cat([final[0], final[1]], -1))  # [B, 2H]
        return SequenceClassifierOutput(logits=self.classifier(pooled))


def word_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn a lower-cased word vocabulary from texts: id 0 is padding, id 1 an unknown word."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    words.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
