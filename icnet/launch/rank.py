"""This process's rank in its process group, as the environment tells."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from icnet.config import TrainerConfig
from icnet.errors import UserError


class RankDied(Exception):
    """A rank of the process group has ended before its work was done; the message says which, how, and its log."""


@dataclass(frozen=True)
class ProcessRank:
    """One process's rank in its process group; by default that of a process which is alone."""

    rank: int = 0
    local_rank: int = 0  # among the processes of this node
    node: int = 0
    local_world_size: int = 1
    world_size: int = 1


def from_environment() -> ProcessRank | None:
    """Return the rank that torchrun, SLURM or ``processes`` gave this process; None if nobody started a group."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        keys = ("RANK", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE")
        return ProcessRank(*(int(env[key]) for key in keys))
    # Set by srun alone: in a batch script there are SLURM_PROCID and SLURM_NTASKS too, but nobody to join.
    size = int(env.get("SLURM_STEP_NUM_TASKS") or 1)
    if "SLURM_PROCID" not in env or size == 1:
        return None  # a single task has the devices to itself and starts its own processes
    nodes = int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or 1)
    rank, local_rank, node = (int(env[f"SLURM_{key}"]) for key in ("PROCID", "LOCALID", "NODEID"))
    return ProcessRank(rank, local_rank, node, size // nodes, size)


def fit_trainer(trainer: TrainerConfig, rank: ProcessRank, overrides: Iterable[str]) -> TrainerConfig:
    """Return the configuration with the ``devices`` and ``num_nodes`` that the process group has.

    Args:
        trainer: The configuration; a key that holds its default gives way to the group.
        rank: Of this process.
        overrides: Those of the command line, whose values are not changed.

    Raises:
        UserError: If the configuration asks for another number of processes or nodes.
    """
    nodes, rest = divmod(rank.world_size, rank.local_world_size)
    if rest:
        raise UserError(
            f"this group has {rank.world_size} processes, not as many on each node; start the same number on each"
        )
    given = list(overrides)
    devices = _fit("devices", trainer.devices, rank.local_world_size, "processes on each node", given)
    return replace(trainer, devices=devices, num_nodes=_fit("num_nodes", trainer.num_nodes, nodes, "nodes", given))


def _fit(key: str, value: Any, found: int, what: str, overrides: list[str]) -> Any:
    count = len(value) if isinstance(value, list) else value
    if count == found:
        return value
    if count == 1 and not any(override.startswith(f"trainer.{key}=") for override in overrides):
        return found
    raise UserError(
        f"trainer.{key}={value}, but this process was started in a group of {found} {what}; "
        f"give trainer.{key}={found}, or start as many"
    )
