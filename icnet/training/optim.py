"""Optimizers with the recipe's two parameter groups, and its schedules."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, PolynomialLR


def parameter_groups(
    backbone: Sequence[nn.Parameter], head: Sequence[nn.Parameter], lr: float, head_lr_mult: float,
    backbone_lr_mult: float = 1.0,
) -> list[dict[str, object]]:  # fmt: skip
    """Split the network into ``backbone`` and ``head``, each trained at a rate of its own.

    Frozen parameters stay in their group: without a gradient no optimizer touches them, and a run that is resumed may
    freeze others.

    Args:
        backbone: Parameters that ImageNet weights exist for.
        head: The others.
        lr: Learning rate.
        head_lr_mult: Learning rate of ``head`` in units of ``lr``.
        backbone_lr_mult: Learning rate of ``backbone`` in units of ``lr``; at 0 its weights stay.
    """
    return [
        {"params": list(backbone), "lr": lr * backbone_lr_mult, "name": "backbone"},
        {"params": list(head), "lr": lr * head_lr_mult, "name": "head"},
    ]


FUSED = frozenset({"cpu"})
"""Device types where torch's fused kernels step faster than what it chooses by itself: on 2 cores a step of 28 million
parameters takes 0.6 (SGD) and 0.35 (AdamW) of the time. On GPUs its choice, foreach, is as fast (a step on an H100 48.7
ms, fused 48.3); on NPUs nothing was measured."""


def sgd(
    groups: list[dict[str, object]], momentum: float, weight_decay: float, *, nesterov: bool, fused: bool = False
) -> Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        groups: See ``parameter_groups``.
        momentum: Share of the step before.
        weight_decay: Decay of the weights.
        nesterov: Whether the gradient is taken ahead of the momentum.
        fused: Whether torch's fused kernel steps. It takes the gradients as they are, so none may be multiplied by a
            loss scale, and every parameter that is ever trained has one in the first step.
    """
    options: dict[str, Any] = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    return _resumable(SGD(groups, **options, fused=fused or None))


def npu_fused_sgd(
    groups: list[dict[str, object]], momentum: float, weight_decay: float, *, nesterov: bool
) -> Optimizer:
    """SGD by torch_npu's kernels over all parameters at once: the same values, fewer launches; needs an NPU.

    It trains what had a gradient in the first step, from the tensors that held it then: ``zero_grad`` of the module
    drops them and must not be called.

    Raises:
        RuntimeError: After a step, if a parameter is left out or its gradient is held in another tensor than at first.
    """
    from torch_npu.optim import NpuFusedSGD

    optimizer = NpuFusedSGD(groups, lr=groups[0]["lr"], momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    optimizer.register_step_post_hook(_KeepsGradients())
    return optimizer


class _KeepsGradients:
    """Notices what NpuFusedSGD passes over in silence; after the step, as gradients may be computed within it."""

    places: list[int] | None = None

    def __call__(self, optimizer: Optimizer, *_: object) -> None:
        params = [param for group in optimizer.param_groups for param in group["params"] if param.requires_grad]
        places = [param.grad.data_ptr() if param.grad is not None else 0 for param in params]
        self.places = self.places or places
        if not all(places) or places != self.places:
            raise RuntimeError(
                "NpuFusedSGD did not see all gradients: they are missing or not where they were at first"
            )


def adamw(
    groups: list[dict[str, object]], betas: tuple[float, float], weight_decay: float, *, fused: bool = False
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).

    Args:
        groups: See ``parameter_groups``.
        betas: Decay of the two averages.
        weight_decay: Decay of the weights.
        fused: Whether torch's fused kernel steps, to the same values up to rounding. It takes the gradients as they
            are: none may be multiplied by a loss scale.
    """
    return _resumable(AdamW(groups, betas=betas, weight_decay=weight_decay, fused=fused or None))


def _resumable(optimizer: Optimizer) -> Optimizer:
    """Let the optimizer go on from checkpoints of other devices, and of runs that froze other parameters."""
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)
    optimizer.register_load_state_dict_post_hook(_lay_out_as_parameters)
    return optimizer


def _keep_implementation(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Let a checkpoint from another device say nothing about how this one computes."""
    groups = [
        {**saved, **{key: group[key] for key in ("foreach", "fused")}}
        for saved, group in zip(state_dict["param_groups"], optimizer.param_groups, strict=False)
    ]
    return {**state_dict, "param_groups": groups}


def _lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Give what a checkpoint brought the parameters' order in memory, by which fused kernels go, unasked.

    Nor does SGD's bear a parameter without momentum beside one that has it: what was frozen before gets one of 0, from
    which the first step is the same.
    """
    for group in optimizer.param_groups:
        if group["fused"] and group.get("momentum") and optimizer.state:
            for param in group["params"]:
                if param.requires_grad and optimizer.state[param].get("momentum_buffer") is None:
                    optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
    for param, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == param.shape and value.stride() != param.stride():
                state[name] = torch.empty_like(param).copy_(value)


def warmup_cosine_factor(epoch: int, epochs: int, warmup: int) -> float:
    """Learning rate of an epoch in units of the base one, as in the recipe behind the published tables.

    (e + 1) / (W + 1) in the W epochs of warm-up, then 0.5 (1 + cos(pi (e - W) / (E - W))).

    Args:
        epoch: e, from 0.
        epochs: E, of the whole run.
        warmup: W.
    """
    if epoch < warmup:
        return (epoch + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min((epoch - warmup) / max(epochs - warmup, 1), 1.0)))


def warmup_cosine(optimizer: Optimizer, epochs: int, warmup: int) -> LambdaLR:
    """Per-epoch warm-up and cosine; see ``warmup_cosine_factor``."""
    return LambdaLR(optimizer, lambda epoch: warmup_cosine_factor(epoch, epochs, warmup))


def poly(optimizer: Optimizer, steps: int, power: float) -> PolynomialLR:
    """Per-step polynomial decay, (1 - step / steps) ^ power, of the paper and the reference."""
    return PolynomialLR(optimizer, total_iters=steps, power=power)


def seek(scheduler: LRScheduler, position: int, base_lrs: Sequence[float]) -> list[float]:
    """Put a schedule of this file where it would stand had it come so far by itself, and set the learning rates.

    Args:
        scheduler: The schedule, and the optimizer that it belongs to.
        position: Steps of ``poly``, epochs of ``warmup_cosine``.
        base_lrs: The learning rate of each parameter group that the schedule is in units of.

    Returns:
        The learning rate of each group, as the formula has it: that of a schedule which came there step by step may
        differ in the last digits.
    """
    scheduler.last_epoch = position
    scheduler.base_lrs = list(base_lrs)
    if isinstance(scheduler, PolynomialLR):
        factor = (1 - min(position, scheduler.total_iters) / scheduler.total_iters) ** scheduler.power
        factors = [factor] * len(scheduler.base_lrs)
    elif isinstance(scheduler, LambdaLR):
        factors = [factor(position) for factor in scheduler.lr_lambdas]
    else:
        raise TypeError(f"{type(scheduler).__name__} is no schedule of this file")
    rates = [lr * factor for lr, factor in zip(scheduler.base_lrs, factors, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return rates
