"""Lightning's strategies for one NPU and for several joined by HCCL."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, distributed
from torch.distributed import ReduceOp
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

WATCHDOG_SECONDS = 600  # beyond HCCL's own limit, so that HCCL tells first what it waited for
RNG_KEY = "npu_rng_states"
"""Key in checkpoints: one uint8 tensor per rank, the state of the random numbers of its NPU."""


class _KeepsRandomState(Strategy):
    """Save and restore the state of each NPU's random numbers, which Lightning does not know of."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Add the states of all ranks; called on every rank."""
        from torch_npu import npu

        states: list[Any] = [npu.get_rng_state(self.root_device).tolist()]
        if distributed.is_initialized():
            own, states = bytes(states[0]), [None] * distributed.get_world_size()
            distributed.all_gather_object(states, own)  # not as tensors: torch_npu warns of pickled ones
        tensors = [torch.tensor(list(state), dtype=torch.uint8) for state in states]
        super().save_checkpoint({**checkpoint, RNG_KEY: tensors}, filepath, storage_options)

    @override
    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Restore this rank's state if the checkpoint has one."""
        from torch_npu import npu

        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        states = checkpoint.get(RNG_KEY)
        if states:
            rank = distributed.get_rank() if distributed.is_initialized() else 0
            npu.set_rng_state(states[rank % len(states)], self.root_device)
        return checkpoint


class SingleNPUStrategy(_KeepsRandomState, SingleDeviceStrategy):
    """One process on one NPU."""

    strategy_name = "single_npu"

    def __init__(self, device: str | torch.device = "npu:0", **kwargs: Any) -> None:
        super().__init__(device, **kwargs)
        self._parallel_devices: list[torch.device] = []

    @property
    def parallel_devices(self) -> list[torch.device]:
        """The device, once Lightning has said which; empty before, or Lightning would not say."""
        return self._parallel_devices

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device]) -> None:
        if len(devices) != 1:
            raise MisconfigurationException(f"{type(self).__name__} works on one NPU, not {len(devices)}")
        self._parallel_devices = devices
        self._root_device = devices[0]


class NPUDDPStrategy(_KeepsRandomState, DDPStrategy):
    """One process per NPU, gradients averaged over HCCL.

    Args:
        **kwargs: Of ``DDPStrategy`` and ``DistributedDataParallel``.

    Raises:
        MisconfigurationException: If a communication hook is given: Lightning registers them on GPUs only.
    """

    strategy_name = "npu_ddp"

    def __init__(self, **kwargs: Any) -> None:
        if any(name.startswith("ddp_comm_") for name in kwargs):
            raise MisconfigurationException(f"{type(self).__name__} has no communication hooks; leave ddp_comm_* out")
        seconds = int(os.environ.get("HCCL_EXEC_TIMEOUT") or 0)
        if seconds:  # torch's own watchdog, at 30 minutes, would not let HCCL wait as long as it was told
            kwargs.setdefault("timeout", timedelta(seconds=seconds + WATCHDOG_SECONDS))
        super().__init__(**{"process_group_backend": "hccl", **kwargs})

    @override
    def _setup_model(self, model: Module) -> DistributedDataParallel:
        # DDPStrategy's would wrap it within a CUDA stream.
        return DistributedDataParallel(model, device_ids=self.determine_ddp_device_ids(), **self._ddp_kwargs)

    @override
    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Wait for all ranks, each on its own device."""
        if distributed.is_initialized():
            distributed.barrier(device_ids=self.determine_ddp_device_ids())

    @override
    def reduce(
        self, tensor: Tensor | Any, group: Any | None = None, reduce_op: ReduceOp | str | None = "mean"
    ) -> Tensor | Any:
        """Reduce a tensor over all ranks, in place where Lightning does.

        Lightning would ask HCCL for averages, which it forms by an in-place division: an error for integers. So the
        mean is a sum, divided afterwards.

        Args:
            tensor: Any shape. Other things are returned as they are.
            group: The ranks; None for all.
            reduce_op: ``"mean"`` or ``"avg"``, with which an integer tensor is left alone and the mean returned as
                floating point; ``"sum"``, ``"max"`` and so on; or a ``ReduceOp``.
        """
        mean = reduce_op == ReduceOp.AVG or (isinstance(reduce_op, str) and reduce_op.lower() in {"mean", "avg"})
        if not mean or not isinstance(tensor, Tensor) or not distributed.is_initialized():
            return super().reduce(tensor, group, reduce_op)
        ranks = distributed.get_world_size(group)
        if tensor.is_floating_point():
            return super().reduce(tensor, group, "sum").div_(ranks)
        return super().reduce(tensor.clone(), group, "sum") / ranks

    @override
    def teardown(self) -> None:
        """Leave the group of processes; torch does so by itself for NCCL only."""
        super().teardown()
        if distributed.is_initialized():
            distributed.destroy_process_group()
