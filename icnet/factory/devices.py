"""Which devices a run uses, and what Lightning needs for each kind."""

import os
from dataclasses import replace
from typing import Any, TypeVar

import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from icnet import npu
from icnet.config import EvalConfig, TrainConfig, TrainerConfig
from icnet.errors import UserError

Config = TypeVar("Config", TrainConfig, EvalConfig)


def resolve(config: Config) -> Config:
    """Return a configuration with what this machine has instead of ``auto``; everything below expects one of these."""
    return replace(config, trainer=resolve_accelerator(config.trainer))


def resolve_accelerator(trainer: TrainerConfig) -> TrainerConfig:
    """Return ``trainer`` with what this machine has instead of ``auto``: an NPU before a GPU before the CPU."""
    if trainer.accelerator != "auto":
        return trainer
    gpu = "gpu" if torch.accelerator.is_available() else "cpu"
    return replace(trainer, accelerator="npu" if npu.devices_found() else gpu)


def device_indices(trainer: TrainerConfig) -> list[int]:
    """Return the devices of this machine that a run uses, one process each; on CPUs a device is a process.

    Raises:
        UserError: If the machine does not have them.
    """
    kind, wanted = trainer.accelerator, trainer.devices
    here = _count(kind)
    if isinstance(wanted, list):
        if kind == "cpu":
            raise UserError(f"trainer.devices={wanted} picks devices, but this run is on the CPU; give a number")
        if max(wanted) >= here:
            raise UserError(
                f"trainer.devices={wanted} is out of range; this machine has {here} {kind.upper()}s, 0 to {here - 1}"
            )
        return wanted
    if wanted > here:
        what = "give at most" if kind == "cpu" else f"this machine has {here} {kind.upper()}s; give at most"
        raise UserError(f"trainer.devices={wanted} is out of range; {what} {here}")
    return list(range(wanted))


def _count(kind: str) -> int:
    """Return how many devices of a kind there are: at least one."""
    if kind == "auto":
        raise ValueError("trainer.accelerator=auto is not resolved; pass the configuration through resolve first")
    if kind == "cpu":
        return max(os.cpu_count() or 1, 2)
    if kind == "npu":
        try:
            return npu.device_count()
        except npu.NPUUnavailable as error:
            raise UserError(f"trainer.accelerator=npu, but {error}; or choose trainer=cpu_1p") from error
    if not torch.accelerator.is_available():
        raise UserError("trainer.accelerator=gpu, but torch finds no GPU here; choose trainer=cpu_1p")
    return torch.accelerator.device_count()


def process_count(trainer: TrainerConfig) -> int:
    """Return the number of processes on this machine."""
    return len(device_indices(trainer))


def world_size(trainer: TrainerConfig) -> int:
    """Return the number of processes over all nodes."""
    return process_count(trainer) * trainer.num_nodes


def device_type(trainer: TrainerConfig) -> str:
    """Return the devices' type as torch names it: ``cpu``, ``cuda``, ``npu``."""
    if trainer.accelerator != "gpu":
        return trainer.accelerator
    found = torch.accelerator.current_accelerator()
    return found.type if found else "cuda"


def device_arguments(trainer: TrainerConfig, *, bucket_view: bool = True, static_graph: bool = False) -> dict[str, Any]:
    """Return what tells Lightning's Trainer where to run.

    Args:
        trainer: The configuration.
        bucket_view: Whether gradients may lie in the buffers that DDP reduces, which saves their memory.
        static_graph: Whether every step does the same, so that DDP need not look for it. Not used with accumulated
            gradients: torch 2.13 fails in the first step whose gradients stay where they are.

    Raises:
        UserError: If the machine does not have the devices.
    """
    indices = device_indices(trainer)
    if trainer.accelerator == "npu":
        npu.register()
    return {
        "accelerator": trainer.accelerator,
        "devices": trainer.devices if trainer.accelerator == "cpu" else indices,
        "num_nodes": trainer.num_nodes,
        "strategy": _strategy(trainer, bucket_view, static_graph),
    }


def _strategy(trainer: TrainerConfig, bucket_view: bool, static_graph: bool) -> Strategy | str:
    # Statistics of BatchNorm are shared by a callback instead: DDP would broadcast them in every forward, in
    # validation too, where ranks may have different numbers of batches and would wait for each other for ever.
    options: dict[str, Any] = {"broadcast_buffers": False, "gradient_as_bucket_view": bucket_view}
    options["static_graph"] = static_graph and trainer.accumulate_grad_batches == 1
    several = world_size(trainer) > 1
    if trainer.accelerator == "npu":
        return npu.NPUDDPStrategy(**options) if several else npu.SingleNPUStrategy()
    return DDPStrategy(**options) if several else "auto"


def group_plugins(trainer: TrainerConfig) -> list[Any]:
    """Keep a process that is alone from being taken for one of the tasks that a SLURM job was given."""
    return [LightningEnvironment()] if world_size(trainer) == 1 else []


def prepare_device(trainer: TrainerConfig) -> None:
    """Choose fast settings for the machine."""
    if trainer.accelerator == "gpu" and torch.cuda.is_available() and not trainer.deterministic:
        torch.backends.cudnn.benchmark = True  # shapes are fixed in training
        torch.set_float32_matmul_precision("high")
