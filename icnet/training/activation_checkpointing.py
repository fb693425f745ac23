"""Computing the activations of a network's stages again in the backward pass, instead of keeping them."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from icnet.errors import UserError
from icnet.models.network import SegmentationNetwork
from icnet.training.precision import OPT_LEVELS, amp_options

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def check_activation_checkpointing(kind: type[SegmentationNetwork], opt_level: str, device_type: str) -> None:
    """Refuse what cannot be computed again.

    Args:
        kind: The network's class.
        opt_level: A key of ``OPT_LEVELS``.
        device_type: ``cpu``, ``cuda`` or ``npu``.

    Raises:
        UserError: If the network has no stages, or its float16 is imitated, which the backward pass would not do.
    """
    if not kind.stages:
        raise UserError(
            f"trainer.activation_checkpointing=true cannot be used: {kind.__name__} names no stages; leave it out"
        )
    if device_type == "cpu" and OPT_LEVELS[opt_level].imitated_on_cpu:
        computed = amp_options(lambda level: not level.imitated_on_cpu)
        raise UserError(
            f"trainer.activation_checkpointing=true cannot be used with amp.opt_level={opt_level} on a CPU, whose "
            f"float16 is imitated in the forward pass only; choose {computed}"
        )


def checkpoint_activations(net: SegmentationNetwork) -> None:
    """Keep only the inputs of a network's stages in training; the gradients are the same to the bit.

    Args:
        net: The network. Its modules and the keys of its state dict stay as they are.
    """
    for name in net.stages:
        stage = net.get_submodule(name)
        stage.forward = partial(_run, stage, stage.forward)


def _run(stage: nn.Module, forward: Any, *args: Any) -> Any:
    if not (stage.training and torch.is_grad_enabled()):
        return forward(*args)
    # Random numbers would have to be read from the device to be drawn again; a stage draws none.
    contexts = partial(_contexts, stage)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return those of the forward pass and of its repetition."""
    return nullcontext(), _statistics_kept(stage)


@contextmanager
def _statistics_kept(stage: nn.Module) -> Generator[None, None, None]:
    """Let BatchNorm count in copies of its running statistics: the same batch has been counted already."""
    kept = [
        (module, name, getattr(module, name))
        for module in stage.modules()
        for name in STATISTICS
        if module.training and getattr(module, name, None) is not None
    ]
    for module, name, value in kept:
        setattr(module, name, value.clone())
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
