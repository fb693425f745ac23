"""Operators of the simulated NPUs: torch's own CPU kernels, run on the memory of npu tensors.

The "device" memory of the simulated CANN is host memory. An operator's npu arguments are therefore read and written
where they lie, as CPU tensors over the same bytes; new results are copied into new npu tensors, which torch_npu's own
allocator serves. Views, allocation, storages and everything above the kernels (autograd, autocast, formats) stay
torch_npu's.
"""

import functools
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

CPU = torch.device("cpu")
# Left to torch_npu: they make or rearrange memory, or ask about it, and compute nothing.
NATIVE = {"empty", "empty_like", "empty_strided", "new_empty_strided", "set_", "resize_", "resize_as_", "as_strided_"}
NATIVE |= {"is_set_to", "is_pinned", "_pin_memory", "record_stream"}
# Take tensors of several devices: copies, scalars, and indices, which may be on the CPU.
MIXED = {"copy_", "_to_copy", "_copy_from", "_copy_from_and_resize", "_local_scalar_dense"}
MIXED |= {"_foreach_copy_", "index", "index_put_", "_index_put_impl_", "_unsafe_index"}

_libraries: list[torch.library.Library] = []  # holds the registrations: they end with it
_default_generator = threading.Lock()
_initialized = False  # the NPU, just before a fork
_forked = False  # this process was forked from one that had initialised its NPU


def register() -> None:
    """Puts the CPU kernels in the place of the NPU's, once per process."""
    if _libraries:
        return
    _libraries.append(torch.library.Library("aten", "IMPL"))
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    above = set(torch._C._dispatch_get_registrations_for_dispatch_key("AutogradPrivateUse1"))
    for name in torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1"):
        operator = _find(name)
        if operator is None or _is_view(operator) or operator._schema.name.removeprefix("aten::") in NATIVE:
            continue
        parts = None
        if has_kernel(name, "CompositeImplicitAutograd"):
            parts = operator.decompose
        elif name in above and has_kernel(name, "CompositeExplicitAutograd"):
            parts = functools.partial(operator._op_dk, torch._C.DispatchKey.CompositeExplicitAutograd)
        if parts is not None:  # torch_npu has one kernel for it; here it is made of its parts, as on a CPU
            _bind(name, parts, "PrivateUse1")
            if name in above:
                _bind(name, parts, "AutogradPrivateUse1")
        elif torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CPU"):
            _bind(name, _on_host(operator), "PrivateUse1")
    for name, kernel in OWN.items():
        _bind(name, kernel, "PrivateUse1")
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


def _before_fork() -> None:
    global _initialized
    _initialized = torch.npu.is_initialized()


def _after_fork_in_child() -> None:
    global _forked
    _forked = _initialized


def _find(name: str) -> Any:
    """The operator of a kernel's full name; None outside of aten, and for kernels without an operator."""
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    try:
        return getattr(getattr(torch.ops.aten, packet), overload or "default") if namespace == "aten" else None
    except AttributeError:
        return None


def _bind(name: str, kernel: Callable[..., Any], key: str) -> None:
    _libraries[0].impl(name.removeprefix("aten::"), kernel, key, allow_override=True)


def _is_view(operator: Any) -> bool:
    return any(a.alias_info is not None and not a.alias_info.is_write for a in operator._schema.arguments)


def _on_host(operator: Any) -> Callable[..., Any]:
    """The kernel for `operator` on npu tensors."""
    name = operator._schema.name.partition("::")[2]
    # Results that the caller provides may change their size, which borrowed memory cannot.
    outs = [a.name for a in operator._schema.arguments if a.is_out]
    random = torch.Tag.nondeterministic_seeded in operator.tags
    compute = operator if outs or not _sums_products(name) else _in_float32(operator)
    takes_generator = any(a.name == "generator" for a in operator._schema.arguments)
    mixed = name in MIXED

    def kernel(*args: Any, **kwargs: Any) -> Any:
        call = _Call(name, mixed)
        provided = {key: kwargs.pop(key) for key in outs if key in kwargs}
        wanted = kwargs.get("device")
        host_args = call.to_host(args)
        host_kwargs = {key: call.to_host(value) for key, value in kwargs.items()}
        separate = {key: call.to_host(tensor).clone() for key, tensor in provided.items()}
        for key, tensor in provided.items():
            host_kwargs[key] = call.lend(tensor, separate[key])
        device = torch.device(wanted) if wanted is not None else call.device
        if device is not None and device.type == "npu" and device.index is None:
            device = torch.device("npu", torch.npu.current_device())
        if not random:
            results = compute(*host_args, **host_kwargs)
        else:
            with _random(device, call.generator) as generator:
                if takes_generator:
                    host_kwargs["generator"] = generator
                results = operator(*host_args, **host_kwargs)
        for key, tensor in provided.items():
            if separate[key].shape != tensor.shape:
                tensor.resize_(separate[key].shape)
            _host(tensor).copy_(separate[key])
        return call.to_npu(results, device)

    return kernel


def _sums_products(name: str) -> bool:
    return "conv" in name or name in {"mm", "addmm", "bmm", "baddbmm", "matmul", "linear"}


def _in_float32(operator: Callable[..., Any]) -> Callable[..., Any]:
    """What the matrix unit of an NPU does with float16: products are summed in float32, the sum is rounded."""

    def compute(*args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if not any(tensor.dtype == torch.float16 for tensor in tensors):
            return operator(*args, **kwargs)
        results = operator(*map(_widen, args), **{key: _widen(value) for key, value in kwargs.items()})
        return torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.half, results)

    return compute


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.float16 else value


class _Call:
    """One call of an operator: which host tensor stands for which npu tensor."""

    def __init__(self, name: str, mixed: bool) -> None:
        self.name = name
        self.mixed = mixed
        self.device: torch.device | None = None
        self.generator: torch.Generator | None = None
        self.lent: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def note_device(self, tensor: torch.Tensor) -> None:
        """Raises RuntimeError for tensors of two devices, as the real ones do."""
        if tensor.device.type == "npu" and self.device is None:
            self.device = tensor.device
        elif tensor.device.type == "npu" and tensor.device != self.device and not self.mixed:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {self.device} and "
                f"{tensor.device}! (operator {self.name})"
            )

    def to_host(self, value: Any) -> Any:
        """Replaces npu tensors and devices inside `value`."""
        if isinstance(value, torch.Tensor):
            if value.device.type == "npu":
                self.note_device(value)
                return self.lend(value, _host(value))
            if value.device.type == "cpu" and value.dim() > 0 and not self.mixed:
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but found at least two devices, npu and cpu! "
                    f"(operator {self.name})"
                )
            return self.lend(value, value)
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.to_host, value))
        if isinstance(value, torch.device):
            return CPU
        if isinstance(value, torch.Generator):
            self.generator = value
            return None
        return value

    def lend(self, tensor: torch.Tensor, host: torch.Tensor) -> torch.Tensor:
        self.lent[id(host)] = (tensor, host)
        return host

    def to_npu(self, value: Any, device: torch.device | None) -> Any:
        """Replaces host tensors in the results: lent ones by their owners, others by npu tensors with their content."""
        if isinstance(value, torch.Tensor):
            if id(value) in self.lent:
                return self.lent[id(value)][0]
            if device is None or device.type != "npu":
                return value
            result = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
            _host(result).copy_(value)
            return result
        if isinstance(value, (list, tuple)):
            return type(value)(self.to_npu(item, device) for item in value)
        return value


def _host(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor over the memory of an npu tensor.

    Raises:
        RuntimeError: In a child forked after the NPU was initialised: a real one cannot be used there.
    """
    if _forked:
        raise RuntimeError(
            "Cannot re-initialize NPU in forked subprocess. To use NPU with multiprocessing, you must use the 'spawn' "
            "start method"
        )
    storage = tensor.untyped_storage()
    host = torch.empty(0, dtype=tensor.dtype, device=CPU)
    bytes_ = storage.nbytes()
    if bytes_ == 0:
        return host.as_strided(tensor.shape, tensor.stride())
    memory = torch._C._construct_storage_from_data_pointer(storage.data_ptr(), CPU, bytes_)
    return host.set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())


@contextmanager
def _random(device: torch.device | None, generator: torch.Generator | None) -> Iterator[torch.Generator]:
    """A CPU generator that follows from the NPU generator's seed and offset, which moves on by one draw.

    CPU operators without a generator argument draw from torch's default one, so that one is put into the same state
    for the time being.
    """
    index = torch.npu.current_device() if device is None or device.index is None else device.index
    source = generator if generator is not None else torch.npu.default_generators[index]
    seed, offset = struct.unpack("<QQ", bytes(source.get_state().tolist()))
    source.set_state(torch.tensor(list(struct.pack("<QQ", seed, offset + 4)), dtype=torch.uint8, device=CPU))
    mixed = (seed + offset * 0x9E3779B97F4A7C15) & 0x7FFFFFFFFFFFFFFF  # an odd constant: neighbours come far apart
    host = torch.Generator(CPU)
    host.manual_seed(mixed)
    with _default_generator:
        before = torch.random.get_rng_state()
        torch.random.set_rng_state(host.get_state())
        try:
            yield host
        finally:
            torch.random.set_rng_state(before)


def _per_channel(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(C,) as (1, C, 1, ...), to go with `like` (N, C, ...)."""
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _sum_channels(values: torch.Tensor) -> torch.Tensor:
    """(N, C, ...) to (C,), in float32."""
    return values.float().sum([d for d in range(values.dim()) if d != 1])


# Synchronised batch normalisation, which torch has for CUDA only: each is made of operators on npu tensors.


def _batch_norm_stats(values: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    count = values.numel() / values.shape[1]
    mean = _sum_channels(values) / count
    variance = _sum_channels((values.float() - _per_channel(mean, values)).square()) / count
    return mean, (variance + eps).rsqrt()


def _batch_norm_gather_stats_with_counts(
    values: torch.Tensor,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    eps: float,
    counts: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    count = counts.sum()
    share = (counts / count).view(-1, 1)
    total = (share * mean).sum(0)
    variance = (share * (invstd.pow(-2) - eps + (mean - total).square())).sum(0)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(total.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    return total, (variance + eps).rsqrt()


def _batch_norm_elemt(
    values: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    result = (values.float() - _per_channel(mean, values)) * _per_channel(invstd, values)
    if weight is not None:
        result = result * _per_channel(weight, values)
    if bias is not None:
        result = result + _per_channel(bias, values)
    return result.to(values.dtype)


def _batch_norm_backward_reduce(
    grad: torch.Tensor,
    values: torch.Tensor,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    weight: torch.Tensor | None,
    input_g: bool,
    weight_g: bool,
    bias_g: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    sum_dy = _sum_channels(grad)
    sum_dy_xmu = _sum_channels(grad.float() * (values.float() - _per_channel(mean, values)))
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy.clone()


def _batch_norm_backward_elemt(
    grad: torch.Tensor,
    values: torch.Tensor,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    weight: torch.Tensor | None,
    sum_dy: torch.Tensor,
    sum_dy_xmu: torch.Tensor,
    count: torch.Tensor,
) -> torch.Tensor:
    total = count.sum()
    centred = values.float() - _per_channel(mean, values)
    slope = centred * _per_channel(invstd.square() * sum_dy_xmu / total, values)
    scale = invstd if weight is None else invstd * weight
    return ((grad.float() - _per_channel(sum_dy / total, values) - slope) * _per_channel(scale, values)).to(grad.dtype)


OWN: dict[str, Callable[..., Any]] = {
    "aten::batch_norm_stats": _batch_norm_stats,
    "aten::batch_norm_gather_stats_with_counts": _batch_norm_gather_stats_with_counts,
    "aten::batch_norm_elemt": _batch_norm_elemt,
    "aten::batch_norm_backward_reduce": _batch_norm_backward_reduce,
    "aten::batch_norm_backward_elemt": _batch_norm_backward_elemt,
}
