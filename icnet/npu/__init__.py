"""Lightning on Huawei Ascend NPUs: an accelerator, a strategy for one device and one for many over HCCL.

Only Lightning, torch and, once an NPU is asked for, torch_npu are imported here: the folder works in other projects as
it is, under any name. Where torch_npu is installed without CANN, ``import torch`` needs TORCH_DEVICE_BACKEND_AUTOLOAD=0
in the environment; the project sets it in ``icnet/__init__.py``. ``load()`` brings torch_npu in, ``register()`` makes
``Trainer(accelerator="npu")`` known.
"""

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from .accelerator import NPUAccelerator
from .profiler import StepProfiler
from .runtime import NPUUnavailable, device_count, devices_found, load
from .strategy import NPUDDPStrategy, SingleNPUStrategy

__all__ = [
    "NPUAccelerator",
    "NPUDDPStrategy",
    "NPUUnavailable",
    "SingleNPUStrategy",
    "StepProfiler",
    "device_count",
    "devices_found",
    "load",
    "register",
]


def register() -> None:
    """Tell Lightning the names ``npu`` (accelerator), ``single_npu`` and ``npu_ddp`` (strategies); repeatable."""
    AcceleratorRegistry.register("npu", NPUAccelerator, description="Huawei Ascend NPU", override=True)
    for name, strategy in (("single_npu", SingleNPUStrategy), ("npu_ddp", NPUDDPStrategy)):
        StrategyRegistry.register(name, strategy, description=strategy.__doc__ or "", override=True)
