"""Where the time of a training step goes on an NPU, by torch_npu's own profiler: Lightning's knows CPUs and GPUs."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

SKIPPED, WARM_UP, RECORDED = 1, 1, 3  # steps, as in Lightning's profiler


class StepProfiler(Callback):
    """Records operators and kernels of the first steps of a training.

    Args:
        folder: Where the traces go, one folder for each process; MindStudio Insight and Chrome's tracing show them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._profiler: Any = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        import torch_npu

        activity = torch_npu.profiler.ProfilerActivity
        self._profiler = torch_npu.profiler.profile(
            activities=[activity.CPU, activity.NPU],
            schedule=torch_npu.profiler.schedule(wait=SKIPPED, warmup=WARM_UP, active=RECORDED, repeat=1),
            on_trace_ready=torch_npu.profiler.tensorboard_trace_handler(str(self.folder)),
        )
        self._profiler.start()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._profiler.step()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._profiler.stop()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._profiler is not None:
            self._profiler.stop()
