"""Each process of a run has a log file of its own."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from icnet.launch.rank import ProcessRank
from icnet.run.paths import RunPaths

LOG_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"  # Hydra's


def log_path(folder: Path, job: str, devices: int | list[int], rank: ProcessRank) -> Path:
    """Return where a process writes: ``<job>_<device>.log``, with the node's number on all nodes but the first."""
    device = devices[rank.local_rank] if isinstance(devices, list) else rank.local_rank
    return RunPaths(folder).log(job, device, rank.node)


@contextmanager
def own_log(path: Path, rank: int) -> Iterator[TextIO]:
    """Write this process's log into a file of its own; yields the stream that ends there.

    Rank 0 keeps the terminal and writes its log's records to the file too. Of the others everything goes there, what
    libraries written in C print included.
    """
    if rank:
        with path.open("a", encoding="utf-8") as file:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        yield sys.stderr
        return
    with path.open("a", encoding="utf-8") as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logging.getLogger().addHandler(handler)
        try:
            yield file
        finally:
            logging.getLogger().removeHandler(handler)
