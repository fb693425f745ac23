"""Where the time of a training step goes on CPUs and GPUs; NPUs have ``icnet.npu.StepProfiler``."""

import csv
import io

from lightning.pytorch.profilers import PyTorchProfiler
from torch.autograd import DeviceType
from typing_extensions import override

from icnet.run import files
from icnet.run.operations import COLUMNS
from icnet.run.paths import RunPaths


class OperationsProfiler(PyTorchProfiler):
    """Lightning's profiler, which also leaves what each operation took by itself, for the report.

    Args:
        run: Where trace and tables go.
    """

    def __init__(self, run: RunPaths) -> None:
        super().__init__(str(run.folder), run.profile.name)
        self._table = run.operations

    @override
    def summary(self) -> str:
        text = super().summary()
        if text and self.local_rank == 0:
            self._write_operations()
        return text

    def _write_operations(self) -> None:
        """Write operations with their own time on the device, where one was used, otherwise on the CPU."""
        events = [
            event
            for event in self.function_events.key_averages()  # type: ignore[union-attr]
            if event.device_type == DeviceType.CPU and "::" in event.key and not event.key.startswith("autograd::")
        ]
        on_device = any(event.self_device_time_total for event in events)
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(COLUMNS)
        for event in events:
            own = event.self_device_time_total if on_device else event.self_cpu_time_total
            table.writerow([event.key, event.count, round(own, 1)])
        files.write_text(self._table, text.getvalue())
