"""Compiling the network for its training, and going on without where that does not work."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from typing_extensions import override

from icnet.training.cuda_graph import captured
from icnet.training.precision import level_of
from icnet.training.segmentation_task import SegmentationTask

log = logging.getLogger(__name__)

INDUCTOR = "inductor"
CUDA_GRAPH = "a CUDA graph"

BACKENDS = {"npu": "npugraphs", "cuda": CUDA_GRAPH}
"""Device type to what compiles there, otherwise inductor. NPUs: the one that torch_npu has for training with fixed
sizes, which crops have; its inductor needs Triton-Ascend besides. Not run on hardware. NVIDIA GPUs: a graph is there in
seconds where inductor takes minutes, and should free small steps, for which the host needs about 40 ms; on an H100 it
ran in bf16, where steps were too large to gain more than 2 %."""


def compiled(net: nn.Module, image: Tensor, backend: str = INDUCTOR) -> Callable[[Tensor], Any]:
    """Return what computes the same as ``net``, which stays as it is.

    Args:
        net: In training mode.
        image: (N, 3, H, W) that it takes; others will have its size.
        backend: One of ``BACKENDS``, or another of torch's. All but ``CUDA_GRAPH`` compile in the first call.
    """
    if backend == CUDA_GRAPH:
        return captured(net, image)
    module: Any = torch.compile(net, backend=backend, dynamic=False)
    forward: Callable[[Tensor], Any] = module.forward  # a module would be another home of all parameters
    return forward


class CompileNetwork(Callback):
    """Compile the network as a whole, for training alone: validation has images of any size.

    Once the device is known, a batch of noise passes forward and backward through both networks. The run goes on with
    the compiled one if it gives the same outputs and gradients, and otherwise without, with one line that says why.
    Parameters, running statistics and random numbers are then as they were, and checkpoints look the same.

    Args:
        batch_size: Images of a step on each device.
        crop_size: Their size, (height, width).
    """

    def __init__(self, batch_size: int, crop_size: Sequence[int]) -> None:
        self.shape = (batch_size, 3, *crop_size)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: SegmentationTask) -> None:  # type: ignore[override]
        level = level_of(trainer.precision_plugin)
        device = pl_module.device.type
        if device == "cpu" and level.imitated_on_cpu:
            log.warning("trainer.compile=true is left out: float16 is imitated on CPUs, operator by operator")
            return
        backend = BACKENDS.get(device, INDUCTOR)
        if backend == CUDA_GRAPH and (trainer.world_size > 1 or trainer.accumulate_grad_batches > 1):
            backend = INDUCTOR  # DDP works on gradients as they come, and accumulation adds to those of the step before
        log.info(
            "compiling the network with %s%s", backend, "" if backend == CUDA_GRAPH else ", which may take minutes"
        )
        started = time.monotonic()
        reason = self._try(trainer, pl_module, backend, level.rounding)
        if reason:
            pl_module.compiled = None
            log.warning("trainer.compile=true is left out: %s", reason)
        else:
            log.info("compiled in %.0f s", time.monotonic() - started)

    def _try(
        self, trainer: Trainer, task: SegmentationTask, backend: str, tolerances: tuple[float, float]
    ) -> str | None:
        """Compile, and return what is wrong with it."""
        noise = torch.randint(256, self.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        image = noise.to(task.device)
        with torch.random.fork_rng(device_type=task.device.type if task.device.type != "cpu" else "cuda"):
            with _buffers_kept(task), trainer.precision_plugin.forward_context():
                eager = _outputs_and_gradients(task, image)
            try:
                with _buffers_kept(task), trainer.precision_plugin.forward_context():
                    task.compiled = compiled(task.net, task.prepared(image), backend)
                    ours = _outputs_and_gradients(task, image)
            except Exception as error:  # compilers fail in many ways, and each of them is no reason to stop
                cause = getattr(error, "inner_exception", error)
                lines = [line for line in str(cause).splitlines() if line.strip()]
                return f"{type(cause).__name__}: {lines[0] if lines else 'no message'}"
        places = {gradient.data_ptr() for gradient in ours[1]}
        if backend == CUDA_GRAPH and len(places) < len(ours[1]):
            return "parameters share a gradient, which would be clipped and unscaled once for each of them"
        for what, one, other, allowed in zip(
            ("outputs", "gradients"), map(_flat, ours), map(_flat, eager), tolerances, strict=True
        ):
            difference = float((one - other).norm() / other.norm())
            if not difference <= allowed:  # nor NaN, which inductor of torch 2.13 gives in bfloat16 on CPUs
                return f"its {what} differ by {difference:.2g} of their norm from those without, allowed {allowed}"
        return None


def _outputs_and_gradients(task: SegmentationTask, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    outputs = task(image)
    weighted = [outputs[name] for name in task.criterion.weights]
    parameters = [parameter for parameter in task.net.parameters() if parameter.requires_grad]
    # Not by backward(), which would add to .grad and wake up DDP.
    gradients = torch.autograd.grad(_flat(weighted).square().mean(), parameters, allow_unused=True)
    return [output.detach() for output in weighted], [gradient for gradient in gradients if gradient is not None]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.float().flatten() for tensor in tensors])


@contextmanager
def _buffers_kept(module: nn.Module) -> Any:
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
