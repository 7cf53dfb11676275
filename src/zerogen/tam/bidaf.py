"""BiDAF (Seo et al., 2017, https://arxiv.org/abs/1611.01603): a small reader without pretrained weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from zerogen.tam.lstm import BiLstm, two_streams

if TYPE_CHECKING:
    from zerogen.config.schema import TamConfig


class BidafConfig(PretrainedConfig):
    """Sizes of `BidafForQuestionAnswering`: word types, the characters it tells apart, and widths."""

    model_type = "zerogen-bidaf"

    def __init__(
        self,
        vocab_size: int = 3,
        characters: str = "",
        embedding: int = 100,
        hidden: int = 100,
        dropout: float = 0.2,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.characters, self.embedding, self.hidden = vocab_size, characters, embedding, hidden
        self.dropout = dropout
        kwargs.setdefault("pad_token_id", 0)
        super().__init__(**kwargs)


class BidafForQuestionAnswering(PreTrainedModel):
    """Character CNN, highway, contextual LSTM, attention flow, modelling LSTM, pointers. Padding is never attended to.

    A row holds the token for no answer, the question's words, and the passage's words. Beyond the paper, a word also
    says whether the other text has it, too (Chen et al., 2017, https://arxiv.org/abs/1704.00051): from a few thousand
    rows the attention alone hardly learns to compare words.
    """

    config_class = BidafConfig
    base_model_prefix = "bidaf"

    def __init__(self, config: BidafConfig) -> None:
        super().__init__(config)
        hidden, dropout, filters, each = config.hidden, config.dropout, 100, 8
        width = config.embedding + filters
        self.words = nn.Embedding(config.vocab_size, config.embedding, padding_idx=0)
        self.characters = nn.Embedding(len(config.characters) + 2, each, padding_idx=0)
        self.filters = nn.Conv1d(each, filters, kernel_size=5)
        self.highway = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(2))
        self.contextual = BiLstm(width + 1, hidden)
        self.similarity = nn.Linear(6 * hidden, 1)
        self.modelling = BiLstm(8 * hidden, hidden, 2, dropout)
        self.closing = BiLstm(2 * hidden, hidden)
        self.start, self.end = nn.Linear(10 * hidden, 1), nn.Linear(10 * hidden, 1)
        self.none = nn.Parameter(torch.zeros(2))  # logits of no answer
        self.dropout = nn.Dropout(dropout)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's own initialisation of every layer."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, characters: Tensor, **_: Any
    ) -> QuestionAnsweringModelOutput:
        """Return start and end logits [B, T]; they are 0 for the question's words and for padding.

        input_ids, attention_mask, token_type_ids: [B, T], padded on the right; type 1 is the passage.
        characters: [B, T, WORD_LENGTH], those of each word, see `spans.character_ids`.
        """
        batch, length = input_ids.shape
        places, lengths = two_streams(
            torch.arange(length, device=input_ids.device).expand(batch, -1), attention_mask, token_type_ids
        )
        rows = self._embedded(input_ids, characters)  # [B, T, D]
        shared = shared_words(input_ids, attention_mask, token_type_ids, characters)
        rows = torch.cat([rows, shared[:, :, None].to(rows.dtype)], -1)
        rows = rows.repeat(2, 1, 1).gather(1, places[:, :, None].expand(-1, -1, rows.shape[-1]))  # [2B, S, D + 1]
        states = self.contextual(self.dropout(rows), lengths.clamp(min=1))
        question, passage = states.chunk(2)  # [B, S, 2H]
        before, behind = lengths.chunk(2)
        question, passage = question[:, : int(before.max())], passage[:, : max(1, int(behind.max()))]
        steps = torch.arange(length, device=input_ids.device)
        in_question = steps[: question.shape[1]] < before[:, None]
        behind = behind.clamp(min=1)  # an empty passage is one of padding
        in_passage = steps[: passage.shape[1]] < behind[:, None]

        # w [c; q; c * q] without making all pairs: [B, N, M]
        of_passage, of_question, of_both = self.similarity.weight[0].chunk(3)
        scores = (passage @ of_passage)[:, :, None] + (question @ of_question)[:, None] + self.similarity.bias
        scores = scores + (passage * of_both) @ question.transpose(1, 2)
        scores = scores.masked_fill(~in_question[:, None], -torch.inf)
        to_question = scores.softmax(-1) @ question  # [B, N, 2H]
        weights = scores.amax(-1).masked_fill(~in_passage, -torch.inf).softmax(-1)  # [B, N]
        to_passage = (weights[:, None] @ passage).expand_as(passage)
        flow = torch.cat([passage, to_question, passage * to_question, passage * to_passage], -1)  # [B, N, 8H]
        modelled = self.modelling(self.dropout(flow), behind)  # [B, N, 2H]
        starts = self.start(self.dropout(torch.cat([flow, modelled], -1))).squeeze(-1)  # [B, N]
        closed = self.closing(self.dropout(modelled), behind)
        ends = self.end(self.dropout(torch.cat([flow, closed], -1))).squeeze(-1)
        return QuestionAnsweringModelOutput(
            start_logits=self._placed(starts, before, in_passage, length, self.none[0]),
            end_logits=self._placed(ends, before, in_passage, length, self.none[1]),
        )

    def _embedded(self, input_ids: Tensor, characters: Tensor) -> Tensor:
        """Return what a word's id and its characters say of it, [B, T, D]."""
        spelled = self.dropout(self.characters(characters.flatten(0, 1))).transpose(1, 2)  # [B * T, each, W]
        spelled = self.filters(spelled).amax(-1).view(*input_ids.shape, -1)  # [B, T, filters]
        rows = torch.cat([self.dropout(self.words(input_ids)), spelled], -1)
        for layer in self.highway:
            made, gate = layer(rows).chunk(2, -1)
            gate = gate.sigmoid()
            rows = gate * made.relu() + (1 - gate) * rows
        return rows

    def _placed(self, logits: Tensor, before: Tensor, in_passage: Tensor, length: int, none: Tensor) -> Tensor:
        """Put logits [B, N] of the passage's words after the `before` [B] words of the question, [B, T]."""
        steps = torch.arange(logits.shape[1], device=logits.device)
        places = (before[:, None] + steps).clamp(max=length - 1)
        placed = logits.new_zeros(len(logits), length)
        placed = placed.scatter_add(1, places, logits.masked_fill(~in_passage, 0.0))
        return torch.cat([none.expand(len(logits), 1), placed[:, 1:]], 1)


def shared_words(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, characters: Tensor) -> Tensor:
    """Tell for each word of the question whether the passage has it, too, and the other way round: bool [B, T].

    Shapes as in `BidafForQuestionAnswering.forward`. Words are the same by their ids, or, for names that the vocabulary
    lacks, by their characters.
    """
    same = (input_ids[:, :, None] == input_ids[:, None]) & (input_ids > 1)[:, None]  # 1 is any unknown word
    alike = (characters != 1).all(-1)[:, None].expand_as(same).clone()  # 1 is any unknown character
    for one in characters.unbind(-1):
        alike &= one[:, :, None] == one[:, None]
    real, passage = attention_mask.bool(), token_type_ids == 1
    others = real[:, None] & (passage[:, :, None] != passage[:, None])
    return ((same | alike) & others).any(-1) & real


def untrained(
    config: TamConfig, words: int, width: int, texts: Iterable[str]
) -> tuple[BidafForQuestionAnswering, nn.Embedding]:
    """Return a reader with the paper's sizes where the configuration has none, and its table of words.

    words: in the vocabulary. width: of their vectors. texts: whose characters it tells apart.
    """
    dropout = 0.2 if config.dropout is None else config.dropout
    model = BidafForQuestionAnswering(
        BidafConfig(words, frequent_characters(texts), width, config.hidden or 100, dropout)
    )
    return model, model.words


def frequent_characters(texts: Iterable[str], least: int = 5) -> str:
    """Return the characters that stand in texts at least `least` times, in their order."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return "".join(sorted(one for one, count in counts.items() if count >= least and not one.isspace()))
