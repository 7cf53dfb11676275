"""TAMs without pretrained weights (`tam=lstm`): BiLSTMs for labels, BiDAF for spans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.support.files import expanded
from zerogen.tam.table import head_of

if TYPE_CHECKING:
    from torch import Tensor

    from zerogen.config.schema import TamConfig
    from zerogen.config.task_schema import TaskConfig
    from zerogen.data.records import Example
    from zerogen.support.progress import Progress


class Scratch:
    """The TAM that starts from nothing, or from the word vectors of `tam.vectors`."""

    @staticmethod
    def check(config: TamConfig, kind: str) -> None:
        """Accept whatever is within the bounds of its keys."""

    @staticmethod
    def require(config: TamConfig, kind: str) -> None:
        """Raise `UserError` for a file that does not begin as word vectors do."""
        from zerogen.tam.vectors import check_vectors

        if config.vectors is not None:
            check_vectors(_vectors_file(config.vectors))

    @staticmethod
    def build(config: TamConfig, task: TaskConfig, rows: Sequence[Example], progress: Progress) -> tuple[Any, Any]:
        """Return an untrained LSTM, or BiDAF, with the vocabulary of the rows and of the word vectors."""
        import torch

        from zerogen.tam import bidaf, lstm

        head = head_of(task.kind)
        texts = _texts(rows, head.pair)
        tokenizer = lstm.word_tokenizer(texts, config.vocabulary, reading=head.spans)
        vectors = _read_vectors(config, tokenizer, progress) if config.vectors else {}
        width = len(next(iter(vectors.values()))) if vectors else config.embedding
        if head.spans:
            model, words = bidaf.untrained(config, len(tokenizer), width, texts)
        else:
            model, words = lstm.untrained(config, len(tokenizer), width, head.pair, head.config(task.labels))
        with torch.no_grad():
            for place, vector in vectors.items():
                words.weight[place] = vector
        return model, tokenizer

    @staticmethod
    def open(folder: Path) -> tuple[Any, Any]:
        """Open a folder by its model_type."""
        from transformers import PretrainedConfig, PreTrainedTokenizerFast

        from zerogen.support.weights import refuse_missing
        from zerogen.tam.bidaf import BidafForQuestionAnswering
        from zerogen.tam.lstm import LstmForSequenceClassification

        networks = {
            one.config_class.model_type: one for one in (LstmForSequenceClassification, BidafForQuestionAnswering)
        }
        network: Any = networks[PretrainedConfig.get_config_dict(folder)[0]["model_type"]]
        model, report = network.from_pretrained(folder, output_loading_info=True, trust_remote_code=False)
        refuse_missing(report)
        return model, PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)


def _texts(rows: Sequence[Example], pair: bool) -> list[str]:
    """Return the texts that a vocabulary is learned from: of pairs each once, since many share a context."""
    if not pair:
        return [row.text for row in rows]
    return list(dict.fromkeys(text for row in rows for text in (row.text, row.context) if text))


def _vectors_file(path: str) -> Path:
    return Path(expanded(path, "tam.vectors"))


def _read_vectors(config: TamConfig, tokenizer: Any, progress: Progress) -> dict[int, Tensor]:
    """Return the vectors of words by their ids, after adding the file's words to the tokenizer."""
    from zerogen.tam.lstm import SPECIAL, add_words
    from zerogen.tam.vectors import read_vectors, words_of

    path, learned = _vectors_file(str(config.vectors)), len(tokenizer) - len(SPECIAL)
    covered = len(read_vectors(path, tokenizer.get_vocab()))
    add_words(tokenizer, words_of(path), config.vocabulary)
    vectors = read_vectors(path, tokenizer.get_vocab())
    more = len(vectors) - covered
    progress.say(f"{path} has vectors for {covered:,} of {learned:,} words of the training texts, and {more:,} more")
    return vectors
