"""Ending a run whose loss is NaN or infinite."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from icnet.errors import UserError

HELP = "try a smaller optim.lr, trainer.gradient_clip_val=10 or a longer scheduler.warmup_epochs"


class StopOnNonFiniteLoss(Callback):
    """Stop at the first loss that is NaN or infinite, before any checkpoint can take up the damage.

    The losses stay on the device and are looked at every few steps and before anything is saved, so that the device
    never waits; the step that is named is the exact one.

    Args:
        checkpoints: Folder of the run's checkpoints.
        every_n_steps: How often to look.
    """

    def __init__(self, checkpoints: Path, every_n_steps: int) -> None:
        self.checkpoints = checkpoints
        self.every_n_steps = every_n_steps
        self._help = HELP
        self._pending: list[tuple[int, int, float, Tensor]] = []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if getattr(trainer.precision_plugin, "fixed", None) is not None:
            self._help = f"try amp.loss_scale=dynamic, or {HELP.removeprefix('try ')}"

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the loss; look at the noted ones now and then."""
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]  # the backbone's may be 0
        lr = rates[0] or rates[-1]
        self._pending.append((trainer.global_step, trainer.current_epoch + 1, lr, outputs["loss"].detach()))
        if len(self._pending) >= self.every_n_steps:
            self._look()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the epoch's checkpoint is saved."""
        self._look()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the best checkpoint is chosen."""
        self._look()

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look before any other checkpoint, and at the weights: the last step may have spoiled them after its loss."""
        self._look()
        values = [value for value in checkpoint["state_dict"].values() if value.is_floating_point()]
        if not torch.stack([value.isfinite().all() for value in values]).all():
            raise UserError(
                f"the weights became NaN or infinite by step {trainer.global_step}, so the run stopped; "
                f"{self._last_good()}; {self._help}"
            )

    def _last_good(self) -> str:
        saved = sorted(self.checkpoints.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
        return f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved before"

    def _look(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        losses = torch.stack([entry[3] for entry in pending]).tolist()
        for (step, epoch, lr, _), loss in zip(pending, losses, strict=True):
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss became {loss} at step {step} (epoch {epoch}, lr {lr:.4g}), so the run stopped; "
                    f"{self._last_good()}; {self._help}"
                )
