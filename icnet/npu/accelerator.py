"""Lightning's Accelerator for Ascend NPUs."""

import contextlib
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from typing_extensions import override

from .runtime import NPUUnavailable, device_count


class NPUAccelerator(Accelerator):
    """Ascend NPUs, as ``torch.device("npu", index)``."""

    @override
    def setup_device(self, device: torch.device) -> None:
        """Make the device the current one.

        Raises:
            MisconfigurationException: If it is no NPU: Lightning's own choice of a strategy would train on the CPU
                without a word.
        """
        if device.type != "npu":
            raise MisconfigurationException(
                f"accelerator='npu' was given the device {device}; pass strategy='single_npu' or 'npu_ddp'"
            )
        from torch_npu import npu

        npu.set_device(device)
        npu.set_compile_mode(jit_compile=False)  # precompiled operators; the default of newer devices only

    @override
    def teardown(self) -> None:
        from torch_npu import npu

        npu.empty_cache()

    @override
    def get_device_stats(self, device: str | torch.device | int) -> dict[str, Any]:
        """Return the allocator's figures, free and total memory (all in bytes) and utilization (percent)."""
        from torch_npu import npu

        free, total = npu.mem_get_info(device)
        stats = {**npu.memory_stats(device), "memory.free": free, "memory.total": total}
        with contextlib.suppress(Exception):  # some drivers do not tell, and no run should end for that
            stats["utilization"] = npu.utilization(device)
        return stats

    @staticmethod
    @override
    def parse_devices(devices: int | str | list[int]) -> list[int]:
        """Turn a count, ``"0,2"``, ``"auto"`` or a list into indices.

        Raises:
            MisconfigurationException: If an index does not exist or there are not as many.
        """
        here = device_count()
        if isinstance(devices, str):
            devices = here if devices in {"auto", "-1"} else [int(index) for index in devices.split(",")]
        wanted = list(range(here if devices == -1 else devices)) if isinstance(devices, int) else list(devices)
        if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(range(here)):
            raise MisconfigurationException(f"devices={devices} is out of range; this machine has {here} NPUs, from 0")
        return wanted

    @staticmethod
    @override
    def get_parallel_devices(devices: list[int]) -> list[torch.device]:
        return [torch.device("npu", index) for index in devices]

    @staticmethod
    @override
    def auto_device_count() -> int:
        return device_count()

    @staticmethod
    @override
    def is_available() -> bool:
        try:
            return device_count() > 0
        except NPUUnavailable:
            return False

    @staticmethod
    @override
    def name() -> str:
        return "npu"
