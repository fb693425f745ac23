"""Images per second, measured as the published tables did."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Log ``perf/images_per_s``: images of all devices per second of training, loading included, validation excluded.

    Args:
        warmup_steps: Steps at the start of the run that do not count.
    """

    def __init__(self, warmup_steps: int = 10) -> None:
        self.warmup_steps = warmup_steps
        self.images_per_s: float | None = None
        self._seen = 0  # steps of this run, over all its epochs
        self._images = 0
        self._seconds = 0.0
        self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of a run that goes on in the middle of an epoch."""
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; what lies between epochs (validation, checkpoints) does not count."""
        self._since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
    ) -> None:
        """Count one step."""
        now = time.perf_counter()
        self._seen += 1
        images = len(batch["image"]) * trainer.world_size
        if self._seen > self.warmup_steps:
            self._images += images
            self._seconds += now - self._since
            self.images_per_s = self._images / self._seconds
        else:
            self.images_per_s = images / (now - self._since)  # something to show during warm-up
        self._since = now
        pl_module.log("perf/images_per_s", self.images_per_s, prog_bar=True, batch_size=images)
