"""From configuration to the task that is trained: network, loss, optimizer and schedule in one LightningModule."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer

from icnet.config import OptimConfig, SchedulerConfig, TrainConfig
from icnet.data.labels import ClassTable
from icnet.errors import UserError
from icnet.factory.data import batches_per_epoch, data_title
from icnet.factory.devices import device_type
from icnet.factory.loss import criterion, output_weights
from icnet.factory.network import description, network
from icnet.factory.resuming import described_groups
from icnet.models import network_class
from icnet.models.network import SegmentationNetwork, describe_sides
from icnet.run.results import DataFingerprint
from icnet.training.activation_checkpointing import check_activation_checkpointing, checkpoint_activations
from icnet.training.callbacks.weight_average import check_average
from icnet.training.freezing import check_parts
from icnet.training.optim import FUSED, adamw, npu_fused_sgd, parameter_groups, poly, sgd, warmup_cosine
from icnet.training.precision import OPT_LEVELS, check_precision
from icnet.training.segmentation_task import SegmentationTask
from icnet.version import __version__

log = logging.getLogger(__name__)


def resolve_task(config: TrainConfig) -> TrainConfig:
    """Check everything that depends on the network and the opt level, before anything is made.

    Args:
        config: One that has been through ``resolve``.

    Returns:
        The configuration with the network's own backbone if none is given, and without one if it has none.

    Raises:
        UserError: If the network, one of its options, outputs, weights or parts is unknown, or the crop does not suit
            it; or if the opt level is unknown, has no such loss scale or no weights that can be averaged, or does not
            run on the device.
    """
    kind = network_class(config.model.name)
    options = description(config.model, 1).options
    check_precision(config.amp.opt_level, config.amp.loss_scale, device_type(config.trainer))
    if config.trainer.activation_checkpointing:
        check_activation_checkpointing(kind, config.amp.opt_level, device_type(config.trainer))
    if config.callbacks.ema_decay:
        check_average(config.amp.opt_level)
    output_weights(config.loss, kind)
    check_parts(kind, config.optim.freeze)
    for side in config.data.crop_size:
        if side != kind.allowed_side(side):
            wrong = "is too small for" if side < kind.min_side else "does not suit"
            allowed = describe_sides(kind.min_side, kind.divisor)
            raise UserError(
                f"data.crop_size={side} {wrong} {config.model.name}; give {allowed}, such as {kind.allowed_side(side)}"
            )
    return replace(config, model=replace(config.model, backbone=options.get("backbone")))


def _cosine(optimizer: Optimizer, scheduler: SchedulerConfig, trainer: Trainer) -> dict[str, Any]:
    schedule = warmup_cosine(optimizer, trainer.max_epochs or 1, scheduler.warmup_epochs)
    return {"scheduler": schedule, "interval": "epoch"}


def _poly(optimizer: Optimizer, scheduler: SchedulerConfig, trainer: Trainer) -> dict[str, Any]:
    return {"scheduler": poly(optimizer, total_steps(trainer), scheduler.power), "interval": "step"}


OPTIMIZERS: dict[str, Callable[[list[dict[str, object]], OptimConfig, bool], Optimizer]] = {
    "sgd": lambda groups, key, fused: sgd(groups, key.momentum, key.weight_decay, nesterov=key.nesterov, fused=fused),
    "adamw": lambda groups, key, fused: adamw(groups, (key.betas[0], key.betas[1]), key.weight_decay, fused=fused),
    "npu_fused_sgd": lambda groups, key, fused: npu_fused_sgd(
        groups, key.momentum, key.weight_decay, nesterov=key.nesterov
    ),
}
"""What ``optim.name`` may be, to what builds it from parameter groups, and whether a fused kernel may step."""

SCHEDULES: dict[str, Callable[[Optimizer, SchedulerConfig, Trainer], dict[str, Any] | None]] = {
    "cosine": _cosine,
    "poly": _poly,
    "constant": lambda optimizer, scheduler, trainer: None,
}
"""What ``scheduler.name`` may be, to what returns a ``lr_scheduler`` as Lightning takes it."""


def optimizer_factory(
    optim: OptimConfig, scheduler: SchedulerConfig, *, scaled: bool = False
) -> Callable[[SegmentationTask], Any]:
    """Return what builds the optimizer and its schedule once the device and the length of the run are known.

    Args:
        optim: Which optimizer.
        scheduler: Which schedule.
        scaled: Whether gradients carry a loss scale when they are computed.
    """

    def configure(task: SegmentationTask) -> dict[str, Any]:
        parts = task.net.backbone_parameters(), task.net.head_parameters()
        groups = parameter_groups(*parts, optim.lr, optim.head_lr_mult, optim.backbone_lr_mult)
        fused = not scaled and task.device.type in FUSED and task.net.static_graph
        optimizer = OPTIMIZERS[optim.name](groups, optim, fused)
        schedule = SCHEDULES[scheduler.name](optimizer, scheduler, task.trainer)
        return {"optimizer": optimizer} | ({"lr_scheduler": schedule} if schedule else {})

    return configure


def total_steps(trainer: Trainer) -> int:
    """Return the number of optimizer steps of the whole run.

    Lightning's ``estimated_stepping_batches`` says the same, but starts the loader to find out, and before a resumed
    run knows where in the epoch it stands.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    batches = batches_per_epoch(len(data.train), data.batch_size * trainer.world_size, trainer.limit_train_batches)
    steps = -(-batches // trainer.accumulate_grad_batches) * (trainer.max_epochs or 1)
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)


def check_training(config: TrainConfig, net: SegmentationNetwork) -> None:
    """Refuse a training of nothing, and warn where a setting has no effect or keeps random weights.

    Args:
        config: Of the run.
        net: The network, with what is frozen in it.

    Raises:
        UserError: If every parameter is frozen or has a learning rate of 0.
    """
    optim = config.optim
    backbone = net.backbone_parameters()
    moving = [*net.head_parameters(), *(backbone if optim.backbone_lr_mult else ())]
    if not any(parameter.requires_grad for parameter in moving):
        raise UserError(
            f"optim.backbone_lr_mult=0 with optim.freeze=[{','.join(optim.freeze)}] leaves nothing to train; "
            "change one of them"
        )
    if optim.backbone_lr_mult != 1 and not backbone:
        log.warning("optim.backbone_lr_mult changes nothing: %s has no backbone", config.model.name)
    kept = optim.freeze or (backbone and not optim.backbone_lr_mult)
    if kept and not (config.model.weights or config.model.backbone_weights or config.resume):
        log.warning(
            "optim.freeze and optim.backbone_lr_mult=0 keep random weights: neither model.weights nor "
            "model.backbone_weights is given"
        )


def task(
    config: TrainConfig,
    classes: ClassTable,
    *,
    class_weights: Sequence[float] | None = None,
    fingerprint: DataFingerprint | None = None,
) -> SegmentationTask:
    """Build the LightningModule with everything in it.

    Args:
        config: Of the run.
        classes: Of its data.
        class_weights: Of the loss, as ``icnet.factory.class_weights`` returns them; None for those in ``config``.
        fingerprint: Of its data, for the checkpoints; None in a process that writes none.
    """
    net = network(config.model, classes.names, channels_last=config.trainer.accelerator != "npu", resume=config.resume)
    described = replace(description(config.model, len(classes)), widths=net.widths)
    meta = {
        "version": __version__,
        "model": described.plain(),
        **({"keep": config.model.keep} if config.model.keep < 1 else {}),
        "classes": {
            "names": list(classes.names),
            "palette": [list(color) for color in classes.palette],
            "categories": list(classes.categories),
        },
        **described_groups(config),
        "data_title": data_title(config.data),
        "seed": config.seed,
        "fingerprint": asdict(fingerprint) if fingerprint else None,
    }
    loss = criterion(config.loss, net, class_weights)
    if class_weights is not None:
        meta["class_weights"] = dict(zip(classes.names, class_weights, strict=True))
        shown = ", ".join(f"{name} {weight:.4g}" for name, weight in meta["class_weights"].items())
        log.info("loss.class_weights=%s: %s", config.loss.class_weights, shown)
    configure = optimizer_factory(config.optim, config.scheduler, scaled=OPT_LEVELS[config.amp.opt_level].scales)
    built = SegmentationTask(net, loss, classes, configure, meta, frozen=config.optim.freeze)
    if config.trainer.activation_checkpointing:
        checkpoint_activations(net)
    check_training(config, net)
    return built
