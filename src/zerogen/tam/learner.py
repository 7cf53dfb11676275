"""The LightningModule that trains a TAM, and the callback that keeps the best epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from zerogen.config.schema import TrainerConfig
from zerogen.errors import UserError
from zerogen.support.doors import call
from zerogen.support.progress import Advance
from zerogen.tam.batches import by_length
from zerogen.tam.ensemble import Ensemble
from zerogen.tam.losses import loss_of
from zerogen.tam.table import Head


class Learner(pl.LightningModule):
    """Trains a model on what a head makes of its outputs, by the weighted mean of the rows' losses.

    With `trainer.ema`, the model that is checked and kept is the moving average of the weights. With an ensemble of the
    training rows' predictions, rows are also pulled towards it, and left out where it disputes their label.
    """

    def __init__(
        self, model: nn.Module, head: Head, config: TrainerConfig, steps: int, ensemble: Ensemble | None = None
    ) -> None:
        super().__init__()
        self.ensemble = ensemble  # a module: its state is saved with the weights
        self.model, self.head, self.config, self.steps = model, head, config, steps
        self.row_loss = loss_of(config.loss)
        self.correct, self.loss, self.seen = 0, 0.0, 0
        self._average: AveragedModel | None = None
        if config.ema is not None:
            self._average = AveragedModel(model, avg_fn=moving_average(config.ema), use_buffers=True)
        self._random: dict[str, Any] = {}

    def loss_and_hits(
        self, batch: dict[str, Tensor], weights: Tensor, ensemble: Ensemble | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch under weights [B], and for each of its B rows whether the model is right.

        ensemble: adds its pull on the rows to their losses.
        """
        outputs = self.head.outputs(self.model, batch)
        shares, losses = batch.get("targets"), []
        for logits, targets in outputs:
            of_rows = self._expected_losses(logits, targets, shares)
            if ensemble is not None:
                of_rows = of_rows + ensemble.pull(logits, batch["rows"])
            losses.append(weighted_mean(of_rows, weights))
        return torch.stack(losses).mean(), torch.stack(
            [logits.argmax(-1) == targets for logits, targets in outputs]
        ).all(0)

    def _expected_losses(self, logits: Tensor, targets: Tensor, shares: Tensor | None) -> Tensor:
        """Return the loss of each row, [B]; under the probabilities of labels, shares [B, C], where there are any."""
        if shares is None:
            return self._row_losses(logits, targets)
        expected = torch.zeros_like(shares[:, 0])
        for label, share in enumerate(shares.T):
            (rows,) = share.nonzero(as_tuple=True)  # of the others the loss may be infinite
            if len(rows):
                losses = self._row_losses(logits[rows], torch.full_like(targets[rows], label))
                expected = expected.index_add(0, rows, share[rows] * losses)
        return expected

    def _row_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        name = self.config.loss
        losses = call("trainer.loss", name, self.row_loss, logits, targets)
        if not isinstance(losses, Tensor) or losses.shape != targets.shape:
            shape = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            shapes = f"{shape} of logits {list(logits.shape)}"
            raise UserError(f"trainer.loss={name}: returned {shapes}; allowed is one loss per row, [B]")
        return losses

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        weights = batch["weights"]
        if self.ensemble is not None:
            weights = weights * self.ensemble.kept[batch["rows"]]
        loss = self.loss_and_hits(batch, weights, self.ensemble)[0]
        self.log("loss", loss)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def on_train_start(self) -> None:
        if self._random:
            torch.set_rng_state(self._random["cpu"].cpu())
            if self._random["cuda"] is not None:
                torch.cuda.set_rng_state(self._random["cuda"].cpu(), self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the random state, from which dropouts are drawn, to what Lightning saves."""
        checkpoint["random"] = {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._random = checkpoint["random"]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._average is not None:
            self._average.update_parameters(self.model)
        if self.ensemble is not None and self.trainer.global_step % self.config.ensembling_steps == 0:
            self.ensemble.update(self._predictions())

    def _predictions(self) -> Tensor:
        """Return the probabilities of the labels of all training rows, without dropout, [N, C]."""
        assert self.ensemble is not None
        loader: Any = self.trainer.train_dataloader
        items, found = loader.dataset, torch.empty_like(self.ensemble.average)
        training = self.model.training
        self.model.eval()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for places in by_length([len(item.ids) for item in items], self.config.batch_size):
                batch = {
                    name: tensor.to(self.device)
                    for name, tensor in loader.collate_fn([items[place] for place in places]).items()
                }
                ((logits, _),) = self.head.outputs(self.model, batch)
                found[batch["rows"]] = logits.softmax(-1)
        self.model.train(training)
        return found

    def swap(self) -> None:
        """Exchange the weights with their moving average, if there is one."""
        if self._average is not None:
            own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            self.model.load_state_dict(self._average.module.state_dict())
            self._average.module.load_state_dict(own)

    def on_validation_epoch_start(self) -> None:
        self.correct, self.loss, self.seen = 0, 0.0, 0
        self.swap()

    def on_validation_end(self) -> None:  # after the callbacks
        self.swap()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        loss, right = self.loss_and_hits(batch, torch.ones_like(batch["weights"]))
        self.correct += int(right.sum())
        self.loss += float(loss) * len(right)
        self.seen += len(right)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"heldout_loss": self.loss / self.seen, "heldout_accuracy": self.correct / self.seen})

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in self.model.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        if self.config.optimizer == "adadelta":
            optimizer: torch.optim.Optimizer = torch.optim.Adadelta(groups, lr=self.config.lr)
        else:
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


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Return sum(w l) / sum(w) of losses [B] and weights [B]; 0 where all weights are 0."""
    # nll_loss adds up as it does within F.cross_entropy: with equal weights the mean has the bits of that.
    first = torch.zeros(len(losses), dtype=torch.long, device=losses.device)
    total = F.nll_loss(-(weights * losses)[:, None], first, reduction="sum")
    return total / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """Return the update of an exponential moving average that follows faster at first, as in TensorFlow's."""

    def update(average: Tensor, new: Tensor, count: Any) -> Tensor:
        step = int(count)
        return torch.lerp(average, new, 1 - min(decay, (1 + step) / (10 + step))) if new.is_floating_point() else new

    return update


class BestEpoch(pl.Callback):
    """Keeps the weights of the epoch with the best held-out accuracy (of equal ones, the lower loss)."""

    def __init__(self, patience: int | None, advance: Advance) -> None:
        self.patience, self.advance = patience, advance
        self.epoch = 0
        self.accuracy: float | None = None
        self._best: tuple[float, float] | None = None
        self._weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.train_dataloader.batch_sampler.epoch = trainer.current_epoch  # more than 0 where training goes on
        self._stop_without_progress(trainer, trainer.current_epoch)
        self.advance(trainer.current_epoch * len(trainer.train_dataloader.dataset))

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "accuracy": self.accuracy, "best": self._best, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.accuracy = state_dict["epoch"], state_dict["accuracy"]
        self._best, self._weights = state_dict["best"], state_dict["weights"]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.advance(len(batch["input_ids"]))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        score = (pl_module.correct / pl_module.seen, -pl_module.loss / pl_module.seen)
        epoch = trainer.current_epoch + 1
        if self._best is None or score > self._best:
            self._best, self.epoch, self.accuracy = score, epoch, score[0]
            self._weights = {name: tensor.detach().clone() for name, tensor in pl_module.model.state_dict().items()}
        self._stop_without_progress(trainer, epoch)

    def _stop_without_progress(self, trainer: Any, epoch: int) -> None:
        if self._best is not None and self.patience is not None and epoch - self.epoch >= self.patience:
            trainer.should_stop = True

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if self._weights:
            pl_module.model.load_state_dict(self._weights)
            self._weights = {}
        else:
            self.epoch = trainer.current_epoch
            pl_module.swap()
