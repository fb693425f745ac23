"""Float16 on CPUs, whose own float16 convolutions are about a hundred times as slow as those of float32."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

PRODUCTS = frozenset(
    {
        torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose2d,
        torch.conv_transpose3d, torch.nn.functional.linear, torch.matmul, torch.mm, torch.bmm, torch.addmm,
        torch.baddbmm, Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm,
    }
)  # fmt: skip
"""Sums of products: what autocast computes in float16."""


class Float16Products(TorchFunctionMode):
    """Compute the float16 convolutions and matrix products of CPU tensors in float32, and round what comes out.

    Inputs are float16 and so is the result; the sum between them has float32's bits, as in the units of GPUs and NPUs.
    Gradients pass through the same roundings and so underflow and overflow as float16's. Elsewhere, and for other
    operators, nothing changes.
    """

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func not in PRODUCTS or not _is_float16([*args, *given.values()]):
            return func(*args, **given)
        with torch.autocast("cpu", enabled=False):
            result = func(*map(_round, args), **{name: _round(value) for name, value in given.items()})
        return result.half()


def _is_float16(values: list[Any]) -> bool:
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors or any(tensor.device.type != "cpu" for tensor in tensors):
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.float16
    return any(tensor.dtype == torch.float16 for tensor in tensors)


def _round(value: Any) -> Any:
    return value.half().float() if isinstance(value, Tensor) and value.is_floating_point() else value
