"""Why a job of a multirun has no result, as its folder tells; the only place that writes and reads ``error.txt``."""

import contextlib
from pathlib import Path

from icnet.run import files
from icnet.run.paths import RunPaths, failures_below

DIED = "died"
"""Of a defect, or of a process that was lost."""
FAILED = "failed"
"""Of what the user can fix."""


def write_failure(folder: Path, kind: str, line: str) -> None:
    """Leave in a job's folder how it failed, if its disk still takes it.

    Args:
        folder: The job's.
        kind: ``DIED`` or ``FAILED``.
        line: Why.
    """
    with contextlib.suppress(OSError):
        files.write_text(RunPaths(folder).failure, f"{kind}: {line}\n")


def read_failure(folder: Path) -> str | None:
    """Return how a job failed, such as ``died: rank 1 was killed``; None if it did not.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no text.
    """
    path = RunPaths(folder).failure
    return (path.read_text(encoding="utf-8").strip() or None) if path.exists() else None


def kind_of(failure: str) -> str:
    """Return the kind of a failure that ``read_failure`` has returned."""
    return failure.split(":", 1)[0]


def kinds_below(sweep: Path) -> set[str]:
    """Return the kinds of the failures of a multirun's jobs, wherever they ran, as far as they can be read."""
    kinds = set()
    for path in failures_below(sweep):
        with contextlib.suppress(OSError, ValueError):
            kinds.add(kind_of(read_failure(path.parent) or ""))
    return kinds


def clear_failure(folder: Path) -> None:
    """Forget how an earlier job in this folder failed."""
    RunPaths(folder).failure.unlink(missing_ok=True)


def clear_failures(sweep: Path) -> None:
    """Forget how jobs of an earlier sweep into this folder failed."""
    for path in failures_below(sweep):
        path.unlink(missing_ok=True)
