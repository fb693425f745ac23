"""One run folder for processes that torchrun or SLURM started side by side."""

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from icnet.errors import UserError
from icnet.launch.messages import USER_MISTAKE, sweeps
from icnet.launch.rank import ProcessRank, from_environment

WAIT_FOR_FOLDER = timedelta(minutes=10)
FOLDER_KEY = "icnet/run_folder"


class SharedRunFolder:
    """Agreement on one run folder between processes that were started side by side, each with a Hydra of its own.

    Under torchrun, rank 0 tells the others through the store that torchrun keeps; ``${now:}`` may differ between them.
    In a SLURM job the folder is named after job and step instead, and nobody has to wait.

    Args:
        rank: Of this process.
        given: The overrides of the command line.

    Raises:
        UserError: If torchrun keeps no store and no folder is given.
    """

    def __init__(self, rank: ProcessRank, given: Sequence[str]) -> None:
        self.overrides: list[str] = []  # to be added to those given
        self._store: Any = None
        self._first = rank.rank == 0
        if not self._first:
            self.overrides.append("hydra.output_subdir=null")  # rank 0 writes it
        explicit = any(override.startswith("hydra.run.dir=") for override in given)
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            self._ask()
        elif "TORCHELASTIC_RUN_ID" in os.environ and not explicit:
            raise UserError("torchrun keeps no store here to agree on a folder; give hydra.run.dir=PATH")
        elif not explicit:
            job, step = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_STEP_ID", "0")
            self.overrides.append(f"hydra.run.dir=outputs/slurm_{job}_{step}")

    def _ask(self) -> None:
        from torch.distributed import TCPStore

        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = TCPStore(host, port, is_master=False, timeout=WAIT_FOR_FOLDER)
        if self._first and not self._store.check([FOLDER_KEY]):
            return
        folder = self._store.get(FOLDER_KEY).decode()  # rank 0's; or, after a restart, that of the run that broke
        if folder:
            quoted = folder.replace("'", r"\'")
            self.overrides.append(f"hydra.run.dir='{quoted}'")
        elif not self._first:
            sys.exit(0)  # rank 0 has only shown its help, or has said what is wrong

    def tell(self, folder: str) -> None:
        """Tell the others, once; with an empty text that there is none."""
        if self._first and self._store is not None:
            self._store.set(FOLDER_KEY, folder)
            self._store = None


def shared_run_folder(overrides: Sequence[str]) -> SharedRunFolder | None:
    """Return the agreement with the other processes of this one's group; None if it is in none.

    Args:
        overrides: Those of the command line.

    Raises:
        UserError: If the group would sweep; ranks other than 0 exit instead.
    """
    rank = from_environment()
    if rank is None:
        return None
    if sweeps(overrides):
        if rank.rank:
            sys.exit(USER_MISTAKE)
        raise UserError("-m in a group of torchrun or srun would sweep in every process; start it by python alone")
    return SharedRunFolder(rank, overrides)
