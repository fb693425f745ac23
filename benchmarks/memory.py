"""How much memory a call takes at most."""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

import torch


class PeakMemory:
    """Measures how much memory a call takes at most, beyond what was taken before it (Linux or an accelerator)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks: dict[str, float] = {}

    def measure(self, name: str, run: Callable[[], object]) -> None:
        """Call ``run`` and remember its GiB under ``name``."""
        before = self._reset()
        run()
        self.peaks[name] = max(self.peaks.get(name, 0.0), self._peak() - before)

    def process(self) -> float:
        """Return the most GiB that the process has taken so far."""
        return self._peak()

    def column(self) -> dict[str, str]:
        """Return the cells for ``print_table``."""
        return {name: f"{peak:.1f}" for name, peak in self.peaks.items() if peak > 0}

    def _reset(self) -> float:
        if self.device.type != "cpu":
            module = getattr(torch, self.device.type)
            module.reset_peak_memory_stats()
            return module.memory_allocated() / 2**30
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed
            Path("/proc/self/clear_refs").write_text("5")  # peak := now
        return self._status("VmRSS")

    def _peak(self) -> float:
        if self.device.type != "cpu":
            return getattr(torch, self.device.type).max_memory_allocated() / 2**30
        return self._status("VmHWM")

    @staticmethod
    def _status(key: str) -> float:
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith(key):
                    return int(line.split()[1]) / 2**20
        return 0.0
