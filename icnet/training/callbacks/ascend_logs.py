"""The result files of the Ascend port that the published NPU table was made with: same names, keys and units."""

import platform
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from icnet.run import files
from icnet.run.paths import RunPaths
from icnet.training.callbacks.speed_monitor import SpeedMonitor
from icnet.training.callbacks.training_results import TrainingResults


class AscendLogs(Callback):
    """Write ``<case>.log`` (``key = value`` lines) and ``<case>_loss.txt`` (one loss per line) at the end of a run.

    The case is ``<network>_bs<batch over all devices>_<devices>p_<kind>``, such as ``ICNet_bs128_8p_acc``.
    ``TrainAccuracy`` is the mIoU as the Ascend port reports it, the running mean, in percent; the official one stands
    in the run's results.

    Args:
        folder: Of the run.
        network: What files call it, see ``icnet.models.name_in_files``.
        kind: ``perf`` for a short run that measures speed, ``acc`` for a whole one.
        batch_size: Per device.
        every_n_steps: How often a loss is recorded.
    """

    def __init__(self, folder: Path, network: str, kind: str, batch_size: int, every_n_steps: int) -> None:
        self.paths = RunPaths(folder)
        self.network = network
        self.kind = kind
        self.batch_size = batch_size
        self.every_n_steps = every_n_steps
        self._losses: list[Tensor] = []
        self._last: Tensor | None = None

    @property
    @override
    def state_key(self) -> str:
        """The name that checkpoints of version 0.1 know it by."""
        return "ResultFiles"

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"losses": [loss.item() for loss in self._losses]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._losses = [torch.tensor(loss) for loss in state_dict["losses"]]

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a loss now and then, on its device."""
        self._last = outputs["loss"].detach()
        if trainer.global_step % self.every_n_steps == 0:
            self._losses.append(self._last)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        results = next(callback for callback in callbacks if isinstance(callback, TrainingResults))
        monitor = SpeedMonitor.of(trainer)
        speed = monitor.images_per_s if monitor and monitor.timed_steps else None
        losses = [loss.item() for loss in self._losses]
        if not losses and self._last is not None:
            losses = [self._last.item()]
        images = self.batch_size * trainer.world_size
        case = f"{self.network}_bs{images}_{trainer.world_size}p_{self.kind}"
        if self._last is None and self.paths.ascend_log(case).exists():  # nothing was trained that was not before
            return
        mean = results.history[-1].miou_running_mean if results.history else None
        lines: dict[str, Any] = {
            "Network": self.network,
            "RankSize": trainer.world_size,
            "BatchSize": images,
            "DeviceType": platform.machine(),
            "CaseName": case,
            "ActualFPS": f"{speed:.2f}" if speed else "",
            "TrainingTime": f"{1000 * images / speed:.2f}" if speed else "",  # ms per iteration
            "TrainAccuracy": "" if mean is None else f"{100 * mean:.2f}",
            "ActualLoss": f"{losses[-1]:.4f}" if losses else "",
            "E2ETrainingTime": f"{results.seconds:.0f}",
        }
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        files.write_text(self.paths.ascend_log(case), text)
        files.write_text(self.paths.ascend_losses(case), "".join(f"{loss:.4f}\n" for loss in losses))
