"""The group of processes that this one belongs to, as its environment tells, and where each member writes its log."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from icnet.config import TrainerConfig
from icnet.errors import UserError
from icnet.run.paths import RunPaths

LOG_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"  # Hydra's
WAIT_FOR_FOLDER = timedelta(minutes=10)
FOLDER_KEY = "icnet/run_folder"


class RankDied(Exception):
    """A process of the group has ended before its work was done; the message says which, how, and where its log is."""


@dataclass(frozen=True)
class Place:
    """One process's place in its group."""

    rank: int = 0
    local_rank: int = 0  # among the processes of this node
    node: int = 0
    local_size: int = 1
    size: int = 1


def joined() -> Place | None:
    """Return this process's place in the group that torchrun, SLURM or ``processes`` started it in, if one did."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        keys = ("RANK", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE")
        return Place(*(int(env[key]) for key in keys))
    # Set by srun alone: in a batch script there are SLURM_PROCID and SLURM_NTASKS too, but nobody to join.
    size = int(env.get("SLURM_STEP_NUM_TASKS") or 1)
    if "SLURM_PROCID" not in env or size == 1:
        return None  # a single task has the devices to itself and starts its own processes
    nodes = int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or 1)
    rank, local_rank, node = (int(env[f"SLURM_{key}"]) for key in ("PROCID", "LOCALID", "NODEID"))
    return Place(rank, local_rank, node, size // nodes, size)


def fit_to(place: Place, trainer: TrainerConfig, given: list[str]) -> None:
    """Let ``trainer.devices`` and ``trainer.num_nodes`` say what the group has.

    Args:
        place: Of this process.
        trainer: Changed where it holds its default.
        given: The words of the command line, whose values are not changed.

    Raises:
        UserError: If the configuration asks for another number of processes or nodes.
    """
    nodes, rest = divmod(place.size, place.local_size)
    if rest:
        raise UserError(
            f"this group has {place.size} processes, not as many on each node; start the same number on each"
        )
    for key, found in (("devices", place.local_size), ("num_nodes", nodes)):
        value: Any = getattr(trainer, key)
        count = len(value) if isinstance(value, list) else value
        if count == 1 and not any(word.startswith(f"trainer.{key}=") for word in given):
            setattr(trainer, key, found)
        elif count != found:
            what = "processes on each node" if key == "devices" else "nodes"
            raise UserError(
                f"trainer.{key}={value}, but this process was started in a group of {found} {what}; "
                f"give trainer.{key}={found}, or start as many"
            )


def log_path(folder: Path, job: str, devices: int | list[int], place: Place) -> Path:
    """Return where a process writes: ``<job>_<device>.log``, with the node's number on all nodes but the first."""
    device = devices[place.local_rank] if isinstance(devices, list) else place.local_rank
    return RunPaths(folder).log(job, device, place.node)


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


class RunFolder:
    """Agreement on one run folder between processes that were started side by side, each with a Hydra of its own.

    Under torchrun, rank 0 tells the others through the store that torchrun keeps; ``${now:}`` may differ between them.
    In a SLURM job the folder is named after job and step instead, and nobody has to wait.

    Args:
        place: Of this process.
        given: The words of the command line.

    Raises:
        UserError: If torchrun keeps no store and no folder is given.
    """

    def __init__(self, place: Place, given: list[str]) -> None:
        self.words: list[str] = []  # to be added to the command line
        self._store: Any = None
        self._first = place.rank == 0
        if not self._first:
            self.words.append("hydra.output_subdir=null")  # rank 0 writes it
        explicit = any(word.startswith("hydra.run.dir=") for word in given)
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            self._ask()
        elif "TORCHELASTIC_RUN_ID" in os.environ and not explicit:
            raise UserError("torchrun keeps no store here to agree on a folder; give hydra.run.dir=PATH")
        elif not explicit:
            job, step = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_STEP_ID", "0")
            self.words.append(f"hydra.run.dir=outputs/slurm_{job}_{step}")

    def _ask(self) -> None:
        from torch.distributed import TCPStore

        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = TCPStore(host, port, is_master=False, timeout=WAIT_FOR_FOLDER)
        if self._first and not self._store.check([FOLDER_KEY]):
            return
        folder = self._store.get(FOLDER_KEY).decode()  # rank 0's; or, after a restart, that of the run that broke
        if folder:
            quoted = folder.replace("'", r"\'")
            self.words.append(f"hydra.run.dir='{quoted}'")
        elif not self._first:
            sys.exit(0)  # rank 0 has only shown its help, or has said what is wrong

    def tell(self, folder: str) -> None:
        """Tell the others, once; with an empty text that there is none."""
        if self._first and self._store is not None:
            self._store.set(FOLDER_KEY, folder)
            self._store = None
