"""The LightningModule that trains a text classifier, and the callback that keeps its best epoch."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zerogen.config import TrainerConfig
from zerogen.progress import Advance


class Classifier(pl.LightningModule):
    """Cross-entropy training of a model that maps input_ids and attention_mask [B, T] to logits [B, labels]."""

    def __init__(self, model: nn.Module, config: TrainerConfig, steps: int) -> None:
        super().__init__()
        self.model, self.config, self.steps = model, config, steps
        self.correct, self.loss, self.seen = 0, 0.0, 0

    def _loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        return logits, F.cross_entropy(logits, batch["labels"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._loss(batch)[1]

    def on_validation_epoch_start(self) -> None:
        self.correct, self.loss, self.seen = 0, 0.0, 0

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits, loss = self._loss(batch)
        self.correct += int((logits.argmax(-1) == batch["labels"]).sum())
        self.loss += float(loss) * len(logits)
        self.seen += len(logits)

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in self.model.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        kind = torch.optim.AdamW if self.config.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(groups, lr=self.config.lr, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        # Lightning refuses to clip for a fused optimizer under autocast, for float16's loss scale; bfloat16 has none.
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)

    def rate(self, step: int) -> float:
        """Return the share of the peak learning rate at a step: linear warm-up, then linear decay or constant."""
        warmup = round(self.config.warmup_ratio * self.steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.config.schedule == "constant":
            return 1.0
        return max(0.0, (self.steps - step) / max(1, self.steps - warmup))


class BestEpoch(pl.Callback):
    """Keeps the weights of the epoch with the best held-out accuracy (of equal ones, the lower loss)."""

    def __init__(self, patience: int | None, advance: Advance) -> None:
        self.patience, self.advance = patience, advance
        self.epoch = 0
        self.accuracy: float | None = None
        self._best: tuple[float, float] | None = None
        self._weights: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.advance(len(batch["labels"]))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        score = (pl_module.correct / pl_module.seen, -pl_module.loss / pl_module.seen)
        epoch = trainer.current_epoch + 1
        if self._best is None or score > self._best:
            self._best, self.epoch, self.accuracy = score, epoch, score[0]
            self._weights = {name: tensor.detach().clone() for name, tensor in pl_module.model.state_dict().items()}
        elif self.patience is not None and epoch - self.epoch >= self.patience:
            trainer.should_stop = True

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if self._weights:
            pl_module.model.load_state_dict(self._weights)
            self._weights = {}
        else:
            self.epoch = trainer.current_epoch
