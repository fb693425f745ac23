"""Float32 originals of float16 weights, for O2."""

from functools import partial
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, distributed, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

Masters = dict[nn.Parameter, nn.Parameter]  # of the float16 parameters


class MasterWeights:
    """The float32 originals of a module's float16 parameters.

    All parameters of the module's children but BatchNorm's are rounded to float16 in place; buffers stay. Each child
    with such parameters then takes floating-point tensors as float16 and returns them as float32. State dicts hold the
    masters, and what is loaded goes into both.

    Args:
        module: The module. Parameters that are its own and not its children's stay float32.
    """

    def __init__(self, module: nn.Module) -> None:
        self.masters: Masters = {}
        self._hooks: list[Any] = []
        for child in module.children():
            owners = [owner for owner in child.modules() if not isinstance(owner, BATCH_NORMS) and _own(owner)]
            for owner in owners:
                for param in _own(owner).values():
                    if param not in self.masters:
                        self.masters[param] = nn.Parameter(param.detach().float(), param.requires_grad)
                        param.data = param.detach().half()
                self._hooks.append(owner.register_state_dict_post_hook(partial(_save, self.masters)))
                self._hooks.append(owner.register_load_state_dict_pre_hook(partial(_load, self.masters)))
            if owners:
                self._hooks.append(child.register_forward_pre_hook(_to_float16, with_kwargs=True))
                self._hooks.append(child.register_forward_hook(_to_float32))

    def synchronize(self) -> None:
        """Move the masters to the parameters' device; in a group of processes take over those of the first."""
        for param, master in self.masters.items():
            master.data = master.data.to(param.device)
        if self.masters and distributed.is_available() and distributed.is_initialized():
            values = [master.data for master in self.masters.values()]
            flat = torch.cat([value.flatten() for value in values])
            distributed.broadcast(flat, src=0)
            for value, part in zip(values, flat.split([value.numel() for value in values]), strict=True):
                value.copy_(part.view_as(value))

    def take_gradients(self) -> None:
        """Move the float16 gradients to the masters, as float32."""
        for param, master in self.masters.items():
            if param.grad is None:
                continue
            if master.grad is None:
                master.grad = param.grad.float()
            else:  # zeros that a fused optimizer keeps, in a buffer that it steps on
                master.grad.copy_(param.grad)
            param.grad = None

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Round the masters into the module."""
        for param, master in self.masters.items():
            param.copy_(master)

    def restore(self) -> None:
        """Make the module what it was: float32, without hooks."""
        for hook in self._hooks:
            hook.remove()
        for param, master in self.masters.items():
            param.grad = None
            param.data = master.data = master.data.to(param.device)


def _save(masters: Masters, owner: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name, param in _own(owner).items():
        state_dict[prefix + name] = masters[param].detach()


@torch.no_grad()
def _load(masters: Masters, owner: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    for name, param in _own(owner).items():
        value = state_dict.get(prefix + name)
        if value is not None and value.shape == param.shape:  # torch itself complains about others
            masters[param].copy_(value)


def _own(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the floating-point parameters that are directly in the module."""
    params = module.named_parameters(recurse=False, remove_duplicate=False)
    return {name: param for name, param in params if param.is_floating_point()}


def _cast(data: Any, dtype: torch.dtype) -> Any:
    return apply_to_collection(data, Tensor, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def _to_float16(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return _cast((args, kwargs), torch.float16)


def _to_float32(module: nn.Module, args: Any, output: Any) -> Any:
    return _cast(output, torch.float32)
