"""How fast a run trains, measured as the published tables did, and where the time goes."""

import logging
import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

log = logging.getLogger(__name__)

LONG_WAIT = 0.1  # share of the time above which waiting for data is worth a line


class SpeedMonitor(Callback):
    """Log ``perf/images_per_s``: images of all devices per second of training, loading included, validation excluded.

    Args:
        warmup_steps: Steps at the start of the run that do not count.
        exact: Whether to wait for the device after every step, so that single steps can be told apart; the mean needs
            no such waiting.
    """

    def __init__(self, warmup_steps: int = 10, *, exact: bool = False) -> None:
        self.warmup_steps = warmup_steps
        self.exact = exact
        self.images_per_s: float | None = None
        self._images = 0  # of the steps that count
        self._timed_seconds = 0.0  # of them
        self._steps: list[float] = []  # seconds of each step, loading included
        self._waits: list[float] = []  # seconds of it until the batch was there
        self._since = 0.0
        self._loaded = 0.0

    @classmethod
    def of(cls, trainer: Trainer) -> "SpeedMonitor | None":
        """Return the one that watches a run."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        return next((callback for callback in callbacks if isinstance(callback, cls)), None)

    @property
    def seen(self) -> int:
        """Steps of this run, over all its epochs."""
        return len(self._steps)

    @property
    def timed_steps(self) -> int:
        """Steps after the warm-up; without one ``images_per_s`` is that of the last step, whatever happened in it."""
        return max(self.seen - self.warmup_steps, 0)

    def mean(self, steps: int, device: torch.device) -> tuple[float, float]:
        """Return how long the latest steps took on average, in seconds, and the share of it that was waiting for data.

        Args:
            steps: How many of them, one at least.
            device: What is waited for, so that steps that it has only been told of count too.
        """
        before = time.perf_counter()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds = sum(self._steps[-steps:]) + time.perf_counter() - before
        return seconds / steps, sum(self._waits[-steps:]) / seconds

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of a run that goes on in the middle of an epoch."""
        self._since = time.perf_counter()

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; what lies between epochs (validation, checkpoints) does not count."""
        self._since = time.perf_counter()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._loaded = time.perf_counter()

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
    ) -> None:
        if self.exact and pl_module.device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        images = len(batch["image"]) * trainer.world_size
        self._steps.append(now - self._since)
        self._waits.append(self._loaded - self._since)
        if self.timed_steps:
            self._images += images
            self._timed_seconds += now - self._since
            self.images_per_s = self._images / self._timed_seconds
        else:
            self.images_per_s = images / (now - self._since)  # something to show during warm-up
        self._since = now
        speed = torch.tensor(self.images_per_s)  # on the CPU: Lightning would copy a number to the device, and wait
        pl_module.log("perf/images_per_s", speed, prog_bar=True, batch_size=images)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the devices had to wait for data, or if nothing was timed."""
        if self.seen and not self.timed_steps:
            log.warning(
                "images/s was not measured: %d steps are no more than callbacks.throughput_warmup_steps=%d; "
                "what is shown is that of the last step",
                self.seen, self.warmup_steps,
            )  # fmt: skip
        share = self.summary(pl_module.device).get("data_wait_share") or 0.0
        if share > LONG_WAIT:
            log.warning(
                "%.0f %% of the training time went into waiting for data; more data.workers, data.cache=packed, a "
                "larger data.prefetch_factor or smaller images on disk help",
                100 * share,
            )

    def summary(self, device: torch.device) -> dict[str, Any]:
        """Return what was measured after the warm-up.

        Args:
            device: Whose memory is asked for.

        Returns:
            ``images_per_s``; ``steps`` that counted; ``step_ms_mean``, ``step_ms_median``, ``step_ms_p10`` and
            ``step_ms_p90``; ``data_wait_share`` (0-1); ``peak_memory_mb`` of the device, on a CPU of the process.
            Without a step after the warm-up only ``steps`` and ``peak_memory_mb``.
        """
        found: dict[str, Any] = {"steps": self.timed_steps, "peak_memory_mb": _peak_memory(device) / 2**20}
        if self.timed_steps:
            times = 1000 * torch.tensor(self._steps[self.warmup_steps :], dtype=torch.float64)
            names = ("step_ms_p10", "step_ms_median", "step_ms_p90")
            found |= {
                "images_per_s": self.images_per_s,
                "step_ms_mean": times.mean().item(),
                **dict(zip(names, times.quantile(_QUANTILES).tolist(), strict=True)),
                "data_wait_share": sum(self._waits[self.warmup_steps :]) / self._timed_seconds,
            }
        return found


_QUANTILES = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


def _peak_memory(device: torch.device) -> float:
    """Bytes."""
    if device.type == "cpu":
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return float(getattr(torch, device.type).max_memory_allocated(device))
