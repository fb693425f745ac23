"""Following the loss scale of mixed precision."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from icnet.training.precision import OptLevel, level_of

log = logging.getLogger(__name__)

WARNED = 10  # skipped steps that get a line of their own


class LossScaleMonitor(Callback):
    """Log ``amp/loss_scale`` and ``amp/skipped_steps`` where the loss is scaled, and say which steps were skipped."""

    def __init__(self) -> None:
        self._plugin: Any = None
        self._level: OptLevel | None = None
        self._seen = 0  # skipped steps
        self._warned = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._plugin = plugin = trainer.precision_plugin
        self._level = level = level_of(plugin)
        self._seen = self._plugin.skipped_steps
        if level.scales:
            kind = "dynamic, now" if self._plugin.fixed is None else "fixed at"
            log.info("mixed precision %s, loss scale %s %.10g", self._plugin.opt_level, kind, self._plugin.loss_scale)
        else:
            log.info("precision %s, no loss scale", self._plugin.opt_level)
        if level.imitated_on_cpu and pl_module.device.type == "cpu":
            log.info("float16 on a CPU is a trial of its rounding, computed in float32: amp=o0 is faster")

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        plugin = self._plugin
        if self._level is None or not self._level.scales:
            return
        if plugin.skipped_steps > self._seen:
            self._seen = plugin.skipped_steps
            self._warn(trainer.global_step)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            pl_module.log_dict({"amp/loss_scale": plugin.loss_scale, "amp/skipped_steps": float(plugin.skipped_steps)})

    def _warn(self, step: int) -> None:
        self._warned += 1
        if self._warned <= WARNED:
            rest = "; further ones are only counted" if self._warned == WARNED else ""
            scale = self._plugin.loss_scale
            log.warning("step %d skipped: a gradient overflowed; the loss scale is %.10g now%s", step, scale, rest)
