"""The progress bar of a training, which never makes the device wait."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override

LOSS = "train/loss"


class ProgressBar(RichProgressBar):
    """Moves with every step, and shows the loss of the last one that was logged.

    What is logged with ``prog_bar=True`` is read from the device after every step, for which the device has to finish
    the step first (Lightning 2.6), so the loss is not.

    Args:
        every_n_steps: Steps from one reading to the next.
    """

    def __init__(self, every_n_steps: int) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self._loss: dict[str, float] = {}
        self._read_at = -1  # the step

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        step = trainer.global_step
        due = not self._loss or step % self.every_n_steps == 0 or trainer.is_last_batch
        if trainer.training and due and step != self._read_at and LOSS in trainer.callback_metrics:
            self._loss, self._read_at = {LOSS: trainer.callback_metrics[LOSS].item()}, step
        return {**super().get_metrics(trainer, pl_module), **self._loss}
