"""From configuration to network, loss, optimizer, and the task that holds them; where training goes on from."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.optim import Optimizer

from icnet.config import (
    COMPOSED_BACKBONE,
    OUTPUT_WEIGHTS,
    RENAMED,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SchedulerConfig,
    TrainConfig,
)
from icnet.data.labels import IGNORE_INDEX, ClassTable
from icnet.errors import UserError
from icnet.factory.data import batches_per_epoch, data_set, data_title
from icnet.factory.devices import device_type
from icnet.models import build_network, network_class, network_options
from icnet.models.checkpoints import Checkpoint, load_for_finetuning, load_weights, read_backbone, read_checkpoint
from icnet.models.network import NetworkDescription, SegmentationNetwork
from icnet.run import differences, resume
from icnet.training.losses import CascadeLoss
from icnet.training.optim import adamw, npu_fused_sgd, parameter_groups, poly, sgd, warmup_cosine
from icnet.training.precision import check_precision
from icnet.training.segmentation_task import SegmentationTask
from icnet.version import __version__

log = logging.getLogger(__name__)

DESCRIBED = ("data", "loss", "optim", "scheduler", "amp")  # the groups that a checkpoint tells about, beside its model


def resolve_network(config: TrainConfig) -> TrainConfig:
    """Check everything that depends on the network and the opt level, before anything is made.

    Args:
        config: One that has been through ``resolve``.

    Returns:
        The configuration with the network's own backbone if none is given, and without one if it has none.

    Raises:
        UserError: If the network, one of its options, outputs or weights is unknown, or the crop does not suit it; or
            if the opt level is unknown, has no such loss scale, or does not run on the device.
    """
    kind = network_class(config.model.name)
    options = description(config.model, 1).options
    check_precision(config.amp.opt_level, config.amp.loss_scale, device_type(config.trainer))
    output_weights(config.loss, kind)
    for side in config.data.crop_size:
        if side < kind.min_side:
            raise UserError(f"data.crop_size={side} is out of range; give a number from {kind.min_side}")
        if side != kind.allowed_side(side):
            raise UserError(
                f"data.crop_size={side} does not suit {config.model.name}; give multiples of {kind.divisor}, "
                f"such as {kind.allowed_side(side)}"
            )
    return replace(config, model=replace(config.model, backbone=options.get("backbone")))


def description(model: ModelConfig, num_classes: int) -> NetworkDescription:
    """Describe the network that is asked for, with all of its options.

    Raises:
        UserError: If the network or an option is unknown.
    """
    given = dict(model.options)
    has_backbone = "backbone" in network_class(model.name).options
    # model.name=NAME changes one key of the group's default option; its backbone is nobody's choice then.
    if model.backbone is not None and (has_backbone or model.backbone != COMPOSED_BACKBONE):
        given["backbone"] = model.backbone
    return NetworkDescription(model.name, network_options(model.name, given), num_classes)


def model_title(model: ModelConfig) -> str:
    """Return what reports call the network, such as ``icnet_resnet50``."""
    return network_class(model.name).title(model.name, description(model, 1).options)


def network(model: ModelConfig, num_classes: int, *, channels_last: bool = True) -> SegmentationNetwork:
    """Build the network with the weights that are asked for.

    Args:
        model: Which network.
        num_classes: Of the data.
        channels_last: Whether its weights lie in that order: faster on CPUs and GPUs, while NPUs have their own.

    Raises:
        UserError: If weights are missing, broken or of another architecture.
    """
    described = description(model, num_classes)
    net = build_network(described.name, num_classes, **described.options)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if model.backbone_weights:
        backbone = net.imagenet_backbone()
        if backbone is None:
            raise UserError(
                f"model.backbone_weights={model.backbone_weights} cannot be used: {model.name} has no part that "
                "ImageNet weights exist for; use model.weights to start from a whole checkpoint"
            )
        tensors = net.translate_imagenet(read_backbone(model.backbone_weights))
        load_weights(backbone, tensors, model.backbone_weights)
        log.info("backbone weights from %s", model.backbone_weights)
    if model.weights:
        checkpoint = read_checkpoint(Path(model.weights))
        _check_network(checkpoint, described)
        fresh = load_for_finetuning(net, checkpoint)
        if fresh:
            log.warning(
                "%s has %d classes and this run %d: everything was loaded but the classifiers (%s), which start anew",
                model.weights, checkpoint.num_classes, num_classes, ", ".join(fresh),
            )  # fmt: skip
        else:
            log.info("weights from %s", model.weights)
    return net


def _check_network(checkpoint: Checkpoint, wanted: NetworkDescription) -> None:
    """Refuse a checkpoint of another network or other options; the class count may differ."""
    found = checkpoint.network
    if (found.name, found.options) != (wanted.name, wanted.options):
        theirs, ours = (network_class(made.name).title(made.name, made.options) for made in (found, wanted))
        if theirs == ours:
            theirs, ours = (differences.text({"name": made.name, **made.options}) for made in (found, wanted))
        raise UserError(
            f"{checkpoint.path} was made with {theirs} and this run uses {ours}; "
            f"choose model={theirs} or another checkpoint"
        )


def output_weights(loss: LossConfig, kind: type[SegmentationNetwork]) -> dict[str, float]:
    """Return the weight of each of a network's outputs: what is given, or else the network's own.

    Raises:
        UserError: If a weight is given for an output that the network does not have, or all are 0.
    """
    given = loss.given_weights()
    for name in given.keys() - kind.loss_weights.keys():
        key = f"weights.{name}" if name in loss.weights else f"{name}_weight"
        raise UserError(
            f"loss.{key}={given[name]} is for no output of {kind.__name__}; it has {', '.join(kind.loss_weights)}"
        )
    weights = {name: given.get(name, weight) for name, weight in kind.loss_weights.items()}
    if not any(weights.values()):
        raise UserError(f"the loss weights of {', '.join(weights)} are all 0; give one a number above 0")
    return weights


def criterion(loss: LossConfig, net: SegmentationNetwork) -> CascadeLoss:
    """Build the loss.

    Args:
        loss: What is given.
        net: The network, which has weights of its own for its outputs.

    Raises:
        UserError: If there are class weights, but not one per class; or see ``output_weights``.
    """
    if loss.class_weights is not None and len(loss.class_weights) != net.num_classes:
        raise UserError(
            f"loss.class_weights has {len(loss.class_weights)} numbers and the data {net.num_classes} classes; "
            "give one per class, or null"
        )
    return CascadeLoss(
        output_weights(loss, type(net)),
        ignore_index=IGNORE_INDEX,
        resize=loss.resize,
        class_weights=loss.class_weights,
        ohem_threshold=loss.ohem_threshold,
        ohem_min_kept=loss.ohem_min_kept,
    )


def _cosine(optimizer: Optimizer, scheduler: SchedulerConfig, trainer: Trainer) -> dict[str, Any]:
    schedule = warmup_cosine(optimizer, trainer.max_epochs or 1, scheduler.warmup_epochs)
    return {"scheduler": schedule, "interval": "epoch"}


def _poly(optimizer: Optimizer, scheduler: SchedulerConfig, trainer: Trainer) -> dict[str, Any]:
    return {"scheduler": poly(optimizer, total_steps(trainer), scheduler.power), "interval": "step"}


OPTIMIZERS: dict[str, Callable[[list[dict[str, object]], OptimConfig], Optimizer]] = {
    "sgd": lambda groups, key: sgd(groups, key.momentum, key.weight_decay, nesterov=key.nesterov),
    "adamw": lambda groups, key: adamw(groups, (key.betas[0], key.betas[1]), key.weight_decay),
    "npu_fused_sgd": lambda groups, key: npu_fused_sgd(groups, key.momentum, key.weight_decay, nesterov=key.nesterov),
}
"""What ``optim.name`` may be, to what builds it from parameter groups."""

SCHEDULES: dict[str, Callable[[Optimizer, SchedulerConfig, Trainer], dict[str, Any] | None]] = {
    "cosine": _cosine,
    "poly": _poly,
    "constant": lambda optimizer, scheduler, trainer: None,
}
"""What ``scheduler.name`` may be, to what returns a ``lr_scheduler`` as Lightning takes it."""


def optimizer_factory(optim: OptimConfig, scheduler: SchedulerConfig) -> Callable[[SegmentationTask], Any]:
    """Return what builds the optimizer and its schedule once the length of the run is known."""

    def configure(task: SegmentationTask) -> dict[str, Any]:
        groups = parameter_groups(
            task.net.backbone_parameters(), task.net.head_parameters(), optim.lr, optim.head_lr_mult
        )
        optimizer = OPTIMIZERS[optim.name](groups, optim)
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


def task(config: TrainConfig, classes: ClassTable) -> SegmentationTask:
    """Build the LightningModule with everything in it."""
    net = network(config.model, len(classes), channels_last=config.trainer.accelerator != "npu")
    meta = {
        "version": __version__,
        "model": asdict(description(config.model, len(classes))),
        "classes": {
            "names": list(classes.names),
            "palette": [list(color) for color in classes.palette],
            "categories": list(classes.categories),
        },
        **_described(config),
        "data_title": data_title(config.data),
        "seed": config.seed,
    }
    return SegmentationTask(
        net, criterion(config.loss, net), classes, optimizer_factory(config.optim, config.scheduler), meta
    )


def resume_path(config: TrainConfig, num_classes: int) -> Path | None:
    """Find and check the checkpoint to resume from; None to start anew.

    Args:
        config: Of this run; see ``icnet.run.resume`` for what its ``resume`` means.
        num_classes: Of this run's data.

    Raises:
        UserError: If the file is missing, broken, or of another network or optimizer than this run's; or if a new run
            would overwrite an older one.
    """
    path = resume.choose_checkpoint(config, lambda path: _is_like(path, config))
    if path is None:
        return None
    checkpoint = read_checkpoint(path)
    if checkpoint.resumable:
        _check_network(checkpoint, description(config.model, num_classes))
    resume.check_checkpoint(
        path, config, resumable=checkpoint.resumable, classes=(checkpoint.num_classes, num_classes),
        optimizer=checkpoint.meta.get("optim", {}).get("name", config.optim.name),
        changed=changes(checkpoint.meta, config),
    )  # fmt: skip
    return path


def resolve_resume(config: TrainConfig) -> TrainConfig:
    """Return a configuration whose ``resume`` is the path to resume from, or None; see ``resume_path``."""
    path = resume_path(config, len(data_set(config.data).classes))
    return replace(config, resume=None if path is None else str(path))


def _is_like(path: Path, config: TrainConfig) -> bool:
    """Tell whether a checkpoint was made with a configuration, or one that comes to the same."""
    try:
        checkpoint = read_checkpoint(path)
        made = checkpoint.network
    except UserError:
        return False  # somebody else's, or broken: not this run's, then
    return made == description(config.model, made.num_classes) and not changes(checkpoint.meta, config)


def changes(meta: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Name the keys in which a configuration differs from the one that a checkpoint was made with.

    Args:
        meta: The checkpoint's description.
        config: The other one.

    Returns:
        Texts such as ``optim.lr was 0.1, is 0.2``; keys that no weight depends on are left out.
    """
    before, after = _compared(meta), _compared(_described(config))
    before.pop("data.val_split", None)  # scores depend on it, weights do not
    before["seed"], after["seed"] = meta.get("seed"), config.seed
    return differences.changes(before, after)


def _described(config: TrainConfig) -> dict[str, Any]:
    """Return what a checkpoint tells of the configuration; of the loss, all of its weights."""
    described = {key: asdict(getattr(config, key)) for key in DESCRIBED}
    described["trainer"] = {"batch_size": config.trainer.batch_size}
    weights = output_weights(config.loss, network_class(config.model.name))
    loss = {key: value for key, value in described["loss"].items() if key not in OUTPUT_WEIGHTS}
    return described | {"loss": loss | {"weights": weights}}


def _compared(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys and values; of the loss's weights too, each of which was a key in version 0.1."""
    groups = (*DESCRIBED, "trainer")
    found = {f"{group}.{key}": value for group in groups for key, value in described.get(group, {}).items()}
    found = {RENAMED.get(key, key): value for key, value in found.items()}
    old = {key: found.pop(f"loss.{key}", None) for key in OUTPUT_WEIGHTS}
    weights = found.pop("loss.weights", {key.removesuffix("_weight"): value for key, value in old.items()})
    return found | {f"loss.weights.{name}": weight for name, weight in weights.items() if weight is not None}
