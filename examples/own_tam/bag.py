"""A TAM of your own: a bag of word embeddings, averaged and added up to the labels' logits.

    cd examples/own_tam
    python -m zerogen --config-dir . setting=supervised task=rotten_tomatoes tam=bag limit=4000
    echo "a lovely film" | python -m zerogen.predict outputs/rotten_tomatoes/supervised_none_bag_*

`tam/bag.yaml` names it, `trainer/bag.yaml` says how it is trained. Its folders are opened where this module is found.
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

from zerogen.config.schema import TamConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.errors import UserError
from zerogen.tam.lstm import word_tokenizer


class BagConfig(PretrainedConfig):
    """Sizes of a `Bag`."""

    model_type = "bag"


class Bag(PreTrainedModel):
    """The mean of its words' vectors, which have one value per label; padding is never read."""

    config_class = BagConfig

    def __init__(self, config: BagConfig) -> None:
        super().__init__(config)
        self.words = nn.EmbeddingBag(config.vocab_size, config.num_labels, mode="sum")
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SequenceClassifierOutput:
        """Return logits [B, labels] for input_ids and attention_mask [B, T]."""
        weights = attention_mask / attention_mask.sum(-1, keepdim=True).clamp(min=1)
        return SequenceClassifierOutput(logits=self.words(input_ids, per_sample_weights=weights))

    @staticmethod
    def check(config: TamConfig, kind: str) -> None:
        """Raise `UserError` for tasks other than classification."""
        if kind != "classification":
            raise UserError(f"tam={config.name}: reads single texts; allowed are tasks of kind classification")

    @staticmethod
    def require(config: TamConfig, kind: str) -> None:
        """Need no weights."""

    @staticmethod
    def build(config: TamConfig, task: TaskConfig, rows: Any, progress: Any) -> tuple[Any, Any]:
        """Return an untrained bag of the words of the rows, and its tokenizer."""
        tokenizer = word_tokenizer([row.text for row in rows], config.vocabulary)
        return Bag(BagConfig(vocab_size=len(tokenizer), num_labels=len(task.labels))), tokenizer

    @staticmethod
    def open(folder: Path) -> tuple[Any, Any]:
        """Open what was trained."""
        return Bag.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)
