"""From configuration to network, loss, optimizer, and the task that holds them; where training goes on from."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from icnet import __version__
from icnet.config import LossConfig, ModelConfig, OptimConfig, SchedulerConfig, TrainConfig
from icnet.data.labels import IGNORE_INDEX, ClassTable
from icnet.errors import UserError
from icnet.losses import CascadeLoss
from icnet.models.checkpoints import Checkpoint, load_for_finetuning, load_weights, read_backbone, read_checkpoint
from icnet.models.icnet import ICNet
from icnet.optim import adamw, parameter_groups, poly, sgd, warmup_cosine
from icnet.task import SegmentationTask

log = logging.getLogger(__name__)


def network(model: ModelConfig, num_classes: int) -> ICNet:
    """Build the network with the weights that are asked for.

    Raises:
        UserError: If weights are missing, broken or of another architecture.
    """
    net = ICNet(num_classes, model.backbone).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if model.backbone_weights:
        load_weights(net.backbone, read_backbone(model.backbone_weights), model.backbone_weights)
        log.info("backbone weights from %s", model.backbone_weights)
    if model.weights:
        checkpoint = read_checkpoint(Path(model.weights))
        _check_backbone(checkpoint, model)
        fresh = load_for_finetuning(net, checkpoint)
        if fresh:
            log.warning(
                "%s has %d classes and this run %d: everything was loaded but the classifiers (%s), which start anew",
                model.weights, checkpoint.num_classes, num_classes, ", ".join(fresh),
            )  # fmt: skip
        else:
            log.info("weights from %s", model.weights)
    return net


def _check_backbone(checkpoint: Checkpoint, model: ModelConfig) -> None:
    if checkpoint.backbone != model.backbone:
        raise UserError(
            f"{checkpoint.path} was made with {checkpoint.backbone} and this run uses {model.backbone}; "
            f"choose model=icnet_{checkpoint.backbone} or another checkpoint"
        )


def criterion(loss: LossConfig, num_classes: int) -> CascadeLoss:
    """Build the loss.

    Raises:
        UserError: If there are class weights, but not one per class.
    """
    if loss.class_weights is not None and len(loss.class_weights) != num_classes:
        raise UserError(
            f"loss.class_weights has {len(loss.class_weights)} numbers and the data {num_classes} classes; "
            "give one per class, or null"
        )
    weights = {"sub124": loss.sub124_weight, "sub24": loss.sub24_weight, "sub4": loss.sub4_weight}
    return CascadeLoss(
        weights,
        ignore_index=IGNORE_INDEX,
        resize=loss.resize,
        class_weights=loss.class_weights,
        ohem_threshold=loss.ohem_threshold,
        ohem_min_kept=loss.ohem_min_kept,
    )


def optimizer_factory(optim: OptimConfig, scheduler: SchedulerConfig) -> Callable[[SegmentationTask], Any]:
    """Return what builds the optimizer and its schedule once the length of the run is known."""

    def configure(task: SegmentationTask) -> dict[str, Any]:
        groups = parameter_groups(
            task.net.backbone_parameters(), task.net.head_parameters(), optim.lr, optim.head_lr_mult
        )
        if optim.name == "adamw":
            first, second = optim.betas
            optimizer = adamw(groups, (first, second), optim.weight_decay)
        else:
            optimizer = sgd(groups, optim.momentum, optim.weight_decay, nesterov=optim.nesterov)
        if scheduler.name == "cosine":
            epochs = task.trainer.max_epochs or 1
            schedule = {"scheduler": warmup_cosine(optimizer, epochs, scheduler.warmup_epochs), "interval": "epoch"}
        elif scheduler.name == "poly":
            schedule = {"scheduler": poly(optimizer, total_steps(task.trainer), scheduler.power), "interval": "step"}
        else:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    return configure


def total_steps(trainer: Trainer) -> int:
    """Return the number of optimizer steps of the whole run.

    Lightning's ``estimated_stepping_batches`` says the same, but starts the loader to find out, and before a resumed
    run knows where in the epoch it stands.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    batches = len(data.train) // (data.batch_size * trainer.world_size)
    limit = trainer.limit_train_batches
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = -(-batches // trainer.accumulate_grad_batches) * (trainer.max_epochs or 1)
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)


def task(config: TrainConfig, classes: ClassTable) -> SegmentationTask:
    """Build the LightningModule with everything in it."""
    net = network(config.model, len(classes))
    meta = {
        "version": __version__,
        "model": {"name": config.model.name, "backbone": config.model.backbone, "num_classes": len(classes)},
        "classes": {
            "names": list(classes.names),
            "palette": [list(color) for color in classes.palette],
            "categories": list(classes.categories),
        },
        "data": asdict(config.data),
        "optim": config.optim.name,
    }
    return SegmentationTask(
        net, criterion(config.loss, len(classes)), classes, optimizer_factory(config.optim, config.scheduler), meta
    )


def resume_path(
    resume: str | None, output_dir: Path, model: ModelConfig, optim: OptimConfig, num_classes: int
) -> Path | None:
    """Find and check the checkpoint to go on from.

    Args:
        resume: A path; ``auto`` for the newest ``last.ckpt`` of this run folder or else below outputs/; or None.
        output_dir: This run's folder.
        model: What this run trains.
        optim: How this run trains.
        num_classes: Of this run's data.

    Raises:
        UserError: If the file is missing, broken, or of another network or optimizer than this run's.
    """
    if resume is None:
        return None
    if resume == "auto":
        own = output_dir / "checkpoints" / "last.ckpt"
        found = [own] if own.exists() else sorted(
            Path("outputs").glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime
        )  # fmt: skip
        if not found:
            log.info("resume=auto: no checkpoints/last.ckpt in %s or below outputs/: the run starts anew", output_dir)
            return None
        path = found[-1]
    else:
        path = Path(resume)
    checkpoint = read_checkpoint(path)
    if not checkpoint.resumable:
        raise UserError(f"resume={path} holds weights but no run's state; use model.weights={path} to start from them")
    _check_backbone(checkpoint, model)
    if checkpoint.num_classes != num_classes:
        raise UserError(
            f"resume={path} has {checkpoint.num_classes} classes and the data {num_classes}; "
            f"use model.weights={path} to start a new run from its weights"
        )
    optimizer = checkpoint.meta.get("optim", optim.name)
    if optimizer != optim.name:
        raise UserError(
            f"resume={path} was made with optim={optimizer} and this run uses optim={optim.name}; "
            f"choose the same, or use model.weights={path} to start a new run from its weights"
        )
    log.info("going on from %s", path)
    return path
