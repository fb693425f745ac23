"""How long the stages of the demo take for each picture."""

from collections import deque

import numpy as np

STAGES = ("read", "network", "draw", "write")
KEPT = 100_000  # pictures whose times are remembered: a camera has no end


class StageTimes:
    """The times of the last ``KEPT`` pictures in each stage.

    The first picture pays for memory, kernels and caches; it counts only if there is no other.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, deque[float]] = {stage: deque(maxlen=KEPT) for stage in STAGES}
        self._first: dict[str, float] = {}

    def add(self, stage: str, seconds: float) -> None:
        """Note how long a picture took in one of ``STAGES``."""
        if stage in self._first:
            self._seconds[stage].append(seconds)
        else:
            self._first[stage] = seconds

    def rate(self, stage: str) -> float:
        """Return pictures per second that a stage would do by itself."""
        return float(1 / np.mean(self._of(stage)))

    def table(self) -> str:
        """Return a line for each stage with the median and the 99th percentile of its times in milliseconds."""
        rows = [f"{'ms':<8}{'p50':>10}{'p99':>10}"]
        for stage in STAGES:
            middle, slow = 1000 * np.percentile(self._of(stage), (50, 99))
            rows.append(f"{stage:<8}{middle:>10.1f}{slow:>10.1f}")
        return "\n".join(rows)

    def _of(self, stage: str) -> list[float]:
        return list(self._seconds[stage]) or [self._first[stage]]
