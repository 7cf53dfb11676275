"""Label texts without training: by the cosine of their embedding to that of sentences that describe a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zerogen.data.records import Example, Prediction
from zerogen.support.progress import Progress
from zerogen.support.weights import load_pretrained, resolve
from zerogen.tam.batches import by_length
from zerogen.tam.labels import collate, encode
from zerogen.tam.tam import bound, uses_bfloat16

if TYPE_CHECKING:
    from zerogen.config.schema import TamConfig

_TEMPERATURE = 0.05  # of the softmax over cosines, whose differences are small; it changes no prediction
_BATCH = 64
_NEAREST, _NEAR = 8, 0.45  # words near a word, at most, and their least cosine
_ROWS_COMPARED = 1000  # words that are compared with all at a time


class Embedder:
    """An encoder as it is before any training, whose mean output vector, over the tokens of a text, embeds the text."""

    def __init__(self, config: TamConfig, max_length: int, device: torch.device) -> None:
        from transformers import AutoModel

        source = resolve(str(config.model), config.revision, "tam.model")
        model, self.tokenizer = load_pretrained(AutoModel, source, "tam.model", dtype=torch.float32)
        bound(model, self.tokenizer)
        self.tokenizer.model_max_length = min(max_length, self.tokenizer.model_max_length)
        self.model, self.half = model.to(device), uses_bfloat16(config.dtype, device)

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Tensor:
        """Return vectors of length 1, float32 [N, D]; a text that is too long is cut at its end."""
        rows = encode(self.tokenizer, texts)
        vectors = torch.empty(len(rows), self.model.config.hidden_size)
        with (progress or Progress()).bar("embedding", len(rows), "rows") as advance, torch.inference_mode():
            for batch in by_length([len(row.ids) for row in rows], _BATCH):
                inputs = collate([rows[i] for i in batch], self.tokenizer.pad_token_id)
                ids, mask = (inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
                with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.half):
                    hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
                sums = (hidden.float() * mask[..., None]).sum(1)
                vectors[batch] = torch.nn.functional.normalize(sums, dim=-1).cpu()
                advance(len(batch))
        return vectors

    def embed_rows(self, rows: Sequence[Example], pair: bool, progress: Progress | None = None) -> Tensor:
        """Return a vector for each row, float32: of its text [N, D]; of a pair [N, 2D].

        That of a pair is the absolute difference and the product of the vectors of its texts, after InferSent (Conneau
        et al. 2017, https://arxiv.org/abs/1705.02364).
        """
        texts = self.embed([row.text for row in rows], progress)
        if not pair:
            return texts
        contexts = self.embed([row.context or "" for row in rows], progress)
        return torch.cat([(texts - contexts).abs(), texts * contexts], dim=-1)

    def near_words(self, words: Sequence[str], progress: Progress | None = None) -> dict[str, tuple[str, ...]]:
        """Return, for each word in lower case, up to 8 others that are near it, the nearest first.

        Near is a cosine above 0.45 of their vectors, each embedded alone in lower case, so that a word's case says
        nothing of its meaning. A word that has none is left out.
        """
        vectors = self.embed([word.lower() for word in words], progress)
        near: dict[str, tuple[str, ...]] = {}
        for start in range(0, len(words), _ROWS_COMPARED):
            found = (vectors[start : start + _ROWS_COMPARED] @ vectors.T).topk(min(_NEAREST + 1, len(words)))
            for word, cosines, places in zip(
                words[start:], found.values.tolist(), found.indices.tolist(), strict=False
            ):
                pairs = zip(cosines, places, strict=True)
                others = [words[place] for cosine, place in pairs if cosine > _NEAR and words[place] != word]
                if others:
                    near[word.casefold()] = tuple(others[:_NEAREST])
        return near

    def predict(
        self, texts: Sequence[str], descriptions: Mapping[str, Sequence[str]], progress: Progress | None = None
    ) -> list[Prediction]:
        """Predict the label whose mean description has the largest cosine to a text; descriptions: label to sentences.

        The probabilities are a softmax over cosines: they order texts and are not calibrated.
        """
        labels = torch.stack([self.embed(sentences).mean(0) for sentences in descriptions.values()])
        cosines = self.embed(texts, progress) @ torch.nn.functional.normalize(labels, dim=-1).T
        return [
            Prediction.of(dict(zip(descriptions, row, strict=True)))
            for row in (cosines / _TEMPERATURE).softmax(-1).tolist()
        ]
