"""Ending well when a run cannot go on: a loss that is no number, or a request to stop."""

import logging
import math
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from icnet.errors import UserError

log = logging.getLogger(__name__)

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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know what may be wrong."""
        if getattr(trainer.precision_plugin, "fixed", None) is not None:
            self._help = f"try amp.loss_scale=dynamic, or {HELP.removeprefix('try ')}"

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the loss; look at the noted ones now and then."""
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        self._pending.append((trainer.global_step, trainer.current_epoch + 1, lr, outputs["loss"].detach()))
        if len(self._pending) >= self.every_n_steps:
            self._look()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the epoch's checkpoint is saved."""
        self._look()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the best checkpoint is chosen."""
        self._look()

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


class CheckpointOnSignal(Callback):
    """Save ``last.ckpt`` when SIGTERM or Ctrl-C ends the run in training.

    In the middle of a validation nothing is saved: half-counted scores could not be continued. The last checkpoint
    then is that of the epoch before, and a resumed run trains the epoch again, to the same weights.

    The handler only takes a note, and the run ends after a whole optimizer step: half-accumulated gradients are in no
    checkpoint. Several processes get the signal at different places, so after each step they ask each other for a note;
    Lightning's handler would send a message from where the others may be waiting for gradients, and wait for ever.

    Args:
        checkpoints: Folder of the run's checkpoints.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints
        self._asked = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the note in the place of Lightning's handler, before it is registered."""
        connector = trainer._signal_connector
        assert hasattr(connector, "_sigterm_notifier_fn"), "Lightning has renamed its handler of SIGTERM"  # noqa: S101
        connector._sigterm_notifier_fn = self._note  # type: ignore[assignment, method-assign]

    def _note(self, *_: Any) -> None:
        self._asked = True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop all ranks after the same step."""
        if trainer.is_last_batch:
            if trainer.world_size > 1:  # the validation that follows would count the ranks' shares
                return
        elif (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        # Costs no wait for the device: Lightning's own question follows at once, at the start of the next step.
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            trainer._signal_connector.received_sigterm = True  # ends the run when the step is accounted for

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop at once: there is nothing to save, so nothing to agree on."""
        if self._asked:
            raise SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save, unless something else than a request ended the run."""
        if not isinstance(exception, (SIGTERMException, KeyboardInterrupt)):
            return
        if isinstance(exception, SIGTERMException):
            exception.code = 128 + signal.SIGTERM  # the shell's convention; without it the run would look finished
        path = self.checkpoints / "last.ckpt"
        if trainer.training:
            trainer.save_checkpoint(path)
        if trainer.training or path.exists():
            log.warning("stopped at step %d; go on with resume=%s", trainer.global_step, path)
        else:
            log.warning("stopped in the validation of the first epoch, before there was a checkpoint")
