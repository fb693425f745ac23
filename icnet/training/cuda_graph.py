"""A network's forward and backward pass as CUDA graphs: the host starts each as a whole instead of kernel by kernel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def captured(net: nn.Module, image: Tensor) -> Callable[[Tensor], Any]:
    """Record what a network in training does to a batch; the same kernels then run, with the same results.

    The network passes some batches forward and backward, which moves its running statistics. Its outputs, and the
    gradients of its parameters, lie where those of the step before lay: a step drops the old gradients before it
    computes new ones, and adds nothing to them. Parameters change in place, as optimizers change them.

    Args:
        net: In training mode, on an NVIDIA GPU. It stays as it is.
        image: (N, 3, H, W) that it takes. Others of this size and memory format go through the graph.

    Returns:
        What stands in for calling ``net``.

    Raises:
        RuntimeError: If the network waits for the device, or does something else that a graph cannot hold.
    """
    caches = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # the casts of weights belong to what is recorded
    try:
        recorded: Any = torch.cuda.make_graphed_callables(_Call(net), (image,), allow_unused_input=True)
        return recorded.forward
    finally:
        torch.set_autocast_cache_enabled(caches)


class _Call(nn.Module):
    """Calls a network, its hooks included, which a module to be recorded must not have itself."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Any:
        return self.net(image)
