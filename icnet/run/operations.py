"""What the operations of a profiled run took, from the file of whichever profiler wrote it."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from icnet.run.paths import RunPaths

COLUMNS = ("operation", "calls", "self_us")
"""Of ``operations.csv``: name, count, and microseconds without those of operations inside."""

KERNELS = "**/kernel_details.csv"
"""What torch_npu's profiler leaves, a kernel in each line (MindStudio's guide, "Timeline and Summary Data")."""


@dataclass(frozen=True)
class Operation:
    """All calls of an operation in the steps that were recorded."""

    name: str
    calls: int
    milliseconds: float
    """By itself, without the operations inside."""
    share: float
    """Of all operations, 0-1."""


def costliest_operations(run: RunPaths, count: int = 5) -> list[Operation]:
    """Return what took most time in a run that was profiled, costliest first; nothing if it was not."""
    microseconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    if run.operations.is_file():
        for name, number, own in _rows(run.operations, *COLUMNS):
            microseconds[name] += float(own)
            calls[name] += int(number)
    else:
        for path in sorted(run.profile.glob(KERNELS))[:1]:  # of one process
            for name, duration in _rows(path, "Type", "Duration(us)"):
                microseconds[name] += float(duration)
                calls[name] += 1
    total = sum(microseconds.values())
    names = sorted(microseconds, key=lambda name: -microseconds[name])[:count]
    return [Operation(name, calls[name], microseconds[name] / 1000, microseconds[name] / total) for name in names]


def _rows(path: Path, *columns: str) -> Iterator[tuple[str, ...]]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield tuple(row[column] for column in columns)
