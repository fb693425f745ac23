"""What the rest of a run will cost, said after its first steps instead of when it is over."""

import logging
import time
from datetime import datetime, timedelta

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from icnet.training.callbacks.speed_monitor import LONG_WAIT, SpeedMonitor
from icnet.training.callbacks.validation_schedule import validation_interval

log = logging.getLogger(__name__)

STEPS = 20
STARTING_UP = 5  # of them, which pay for first times: loaders, kernels, caches


class CostEstimate(Callback):
    """Log after 20 steps when the run will end, its memory, and what it waits for; again after its first validation.

    A run that is shorter than that says nothing. Behind ``SpeedMonitor``, whose times are used.

    Args:
        data_helps: What makes loading faster than it is configured, in words.
        device_helps: What makes a step faster.
    """

    def __init__(self, data_helps: str, device_helps: str) -> None:
        self.helps = {"data": data_helps, "the device": device_helps}
        self._seconds_per_batch: float | None = None
        self._begun = 0.0  # of a validation
        self._validated = False  # one was timed

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        speed = SpeedMonitor.of(trainer)
        if speed is None or speed.seen != STEPS or not trainer.is_global_zero:
            return
        seconds, wait = speed.mean(STEPS - STARTING_UP, pl_module.device)
        self._seconds_per_batch = seconds
        left = batches_left(trainer)
        if left is None:
            return
        validations = validations_left(trainer)
        on_cpu = pl_module.device.type == "cpu"
        limit = "data" if wait > LONG_WAIT else "the device"
        log.info(
            "a step takes %.3g s, %.0f %% of it waiting for data; the %d that are left take until %s%s. The run has "
            "taken %.1f GiB of %s so far. Its speed is limited by %s; what helps: %s",
            seconds, 100 * wait, left, _until(left * seconds),
            f", {validations} validations not counted" if validations else "",
            speed.summary(pl_module.device)["peak_memory_mb"] / 1024, "memory" if on_cpu else "the device's memory",
            limit, self.helps[limit],
        )  # fmt: skip

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = time.perf_counter()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._validated or self._seconds_per_batch is None or not trainer.is_global_zero:
            return
        self._validated = True
        left, validations = batches_left(trainer), validations_left(trainer) - 1  # this one is still counted
        if left is None or validations < 1:
            return
        seconds = time.perf_counter() - self._begun
        log.info(
            "a validation takes %.3g s; with the %d to come the run ends about %s",
            seconds, validations, _until(left * self._seconds_per_batch + validations * seconds),
        )  # fmt: skip


def batches_left(trainer: Trainer) -> int | None:
    """Return how many batches each device has still to train, or None if the run has no end."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
    batches = None
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        batches = int(trainer.num_training_batches) * (trainer.max_epochs - trainer.current_epoch) - done
    if trainer.max_steps >= 0:
        steps = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        batches = steps if batches is None else min(batches, steps)
    return batches


def validations_left(trainer: Trainer) -> int:
    """Return how many validations are to come, that of the current epoch included; 0 if the run has no end."""
    left = batches_left(trainer)
    if not trainer.limit_val_batches or left is None:
        return 0
    done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
    epochs = (done + left) // int(trainer.num_training_batches)  # steps may end within one, which is not validated
    return sum(
        (epoch + 1) % validation_interval(trainer, epoch) == 0
        for epoch in range(trainer.current_epoch, trainer.current_epoch + epochs)
    )


def _until(seconds: float) -> str:
    """Return an end that is so far away, such as ``2026-11-26 18:40 (5:12:00 from now)``."""
    end = datetime.fromtimestamp(time.time() + seconds)
    return f"{end:%Y-%m-%d %H:%M} ({timedelta(seconds=round(seconds))} from now)"
