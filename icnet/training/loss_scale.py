"""What multiplies the loss so that small gradients survive float16: a fixed number, or one that finds its way."""

from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from typing_extensions import override

FIRST_SCALE = 2.0**16
LARGEST_SCALE = 2.0**24  # apex's bound; torch's scalers have none


class FixedScale(GradScaler):
    """A loss scale that stays: no step is skipped, whatever its gradients are, apex's meaning of a static scale.

    Args:
        device_type: ``cpu`` or ``cuda``.
        value: The scale.
    """

    def __init__(self, device_type: str, value: float) -> None:
        super().__init__(device_type, init_scale=value)
        self.value = value

    @override
    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        return optimizer.step(*args, **kwargs)

    @override
    def update(self, new_scale: float | Tensor | None = None) -> None:
        super().update(self.value)


class DynamicScale(GradScaler):
    """Torch's scaler with apex's upper bound; counts the steps that it skips."""

    skipped_steps = 0
    one: Tensor | None = None  # on the loss's device

    @override
    def scale(self, outputs: Any) -> Any:
        if self.one is None:
            self.one = torch.ones((), device=outputs.device)
        return super().scale(outputs)

    @override
    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        done: list[bool] = []
        hook = optimizer.register_step_post_hook(lambda *_: done.append(True))
        try:
            result = super().step(optimizer, *args, **kwargs)
        finally:
            hook.remove()
        self.skipped_steps += not done
        return result

    @override
    def update(self, new_scale: float | Tensor | None = None) -> None:
        super().update(new_scale)
        super().update(self.scale(self.one).clamp(max=LARGEST_SCALE))  # without a wait for the device


def loss_scaler(device_type: str, fixed: float | None, growth_interval: int) -> Any:
    """Build the scaler, which has the methods of torch's ``GradScaler``.

    Args:
        device_type: ``cpu``, ``cuda`` or ``npu``.
        fixed: A scale that stays; None for a dynamic one.
        growth_interval: Good steps in a row after which a dynamic scale doubles.
    """
    first = FIRST_SCALE if fixed is None else fixed
    if device_type == "npu":
        # Ascend chips that saturate instead of overflowing raise a flag, which only torch_npu's scaler reads.
        from torch_npu.npu.amp import GradScaler as NpuGradScaler

        if fixed is not None:
            return NpuGradScaler(init_scale=first, dynamic=False)
        bounded = type("NpuDynamicScale", (DynamicScale, NpuGradScaler), {})
        return bounded(init_scale=first, growth_interval=growth_interval)
    if fixed is not None:
        return FixedScale(device_type, first)
    return DynamicScale(device_type, init_scale=first, growth_interval=growth_interval)
