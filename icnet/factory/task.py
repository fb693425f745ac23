"""From configuration to network, loss, optimizer, and the task that holds them; where training goes on from."""

import itertools
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from icnet import __version__
from icnet.config import OUTPUT_WEIGHTS, RENAMED, LossConfig, ModelConfig, OptimConfig, SchedulerConfig, TrainConfig
from icnet.data.labels import IGNORE_INDEX, ClassTable
from icnet.errors import UserError
from icnet.factory.data import batches_per_epoch, data_title
from icnet.models import build_network, network_class, network_options
from icnet.models.checkpoints import Checkpoint, load_for_finetuning, load_weights, read_backbone, read_checkpoint
from icnet.models.network import NetworkDescription, SegmentationNetwork
from icnet.run.differences import flat, text
from icnet.training.losses import CascadeLoss
from icnet.training.optim import adamw, npu_fused_sgd, parameter_groups, poly, sgd, warmup_cosine
from icnet.training.segmentation_task import SegmentationTask

log = logging.getLogger(__name__)

DESCRIBED = ("data", "loss", "optim", "scheduler", "amp")  # the groups that a checkpoint tells about, beside its model
NO_RESULT_DEPENDS_ON = (
    "output_dir", "resume", "skip_finished", "logger.", "trainer.progress_bar", "trainer.log_every_n_steps",
    "trainer.max_restarts", "trainer.rdzv_endpoint", "data.root", "data.workers", "data.pin_memory",
    "data.persistent_workers", "data.prefetch_factor", "data.eval_batch_size", "callbacks.pictures",
    "callbacks.extremes", "callbacks.device_stats", "callbacks.checkpoint_every_n_steps", "callbacks.throughput",
)  # fmt: skip
"""How keys begin that may change between a finished run and the one that asks for its result."""


OLD_OUTPUT_WEIGHTS = {"loss.sub124_weight": 1.0, "loss.sub24_weight": 0.4, "loss.sub4_weight": 0.4}
"""What version 0.1 had as defaults; today they are null, for the network's own."""


def resolve_network(config: TrainConfig) -> TrainConfig:
    """Check everything that depends on which network it is, before anything is made.

    Returns:
        The configuration without a backbone for a network that has none.

    Raises:
        UserError: If the network, one of its options, outputs or weights is unknown, or the crop does not suit it.
    """
    kind = network_class(config.model.name)
    description(config.model, 1)
    output_weights(config.loss, kind)
    for side in config.data.crop_size:
        if side < kind.min_side:
            raise UserError(f"data.crop_size={side} is out of range; give a number from {kind.min_side}")
        if side != kind.allowed_side(side):
            raise UserError(
                f"data.crop_size={side} does not suit {config.model.name}; give multiples of {kind.divisor}, "
                f"such as {kind.allowed_side(side)}"
            )
    return config if "backbone" in kind.options else replace(config, model=replace(config.model, backbone=None))


def description(model: ModelConfig, num_classes: int) -> NetworkDescription:
    """Describe the network that is asked for, with all of its options.

    Raises:
        UserError: If the network or an option is unknown.
    """
    given = dict(model.options)
    default = next(key.default for key in fields(ModelConfig) if key.name == "backbone")
    has_backbone = "backbone" in network_class(model.name).options
    if model.backbone is not None and (has_backbone or model.backbone != default):
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
        load_weights(backbone, read_backbone(model.backbone_weights), model.backbone_weights)
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
            theirs, ours = (text({"name": made.name, **made.options}) for made in (found, wanted))
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


def optimizer_factory(optim: OptimConfig, scheduler: SchedulerConfig) -> Callable[[SegmentationTask], Any]:
    """Return what builds the optimizer and its schedule once the length of the run is known."""

    def configure(task: SegmentationTask) -> dict[str, Any]:
        groups = parameter_groups(
            task.net.backbone_parameters(), task.net.head_parameters(), optim.lr, optim.head_lr_mult
        )
        if optim.name == "adamw":
            first, second = optim.betas
            optimizer = adamw(groups, (first, second), optim.weight_decay)
        elif optim.name == "npu_fused_sgd":
            optimizer = npu_fused_sgd(groups, optim.momentum, optim.weight_decay, nesterov=optim.nesterov)
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
    """Find and check the checkpoint to go on from.

    Args:
        config: Of this run. ``resume`` is a path; None to start anew; ``here`` for ``last.ckpt`` in this run's folder,
            if there is one of the same configuration; ``auto`` for that one whatever was changed since, or else the
            newest below outputs/ that was made with the same model, data, loss, optimizer and seed.
        num_classes: Of this run's data.

    Raises:
        UserError: If the file is missing, broken, or of another network or optimizer than this run's; or if a new run
            would overwrite an older one.
    """
    own = Path(config.output_dir) / "checkpoints" / "last.ckpt"
    if config.resume is None:
        if own.exists():
            raise UserError(
                f"{config.output_dir} already holds a run; go on with it by resume=auto, or start a new one in another "
                "folder with hydra.run.dir=PATH"
            )
        return None
    if config.resume == "here" and not own.exists():
        return None
    if config.resume in {"auto", "here"}:
        path = own if own.exists() else _newest_like(config)
        if path is None:
            log.info("resume=auto: no last.ckpt of this configuration here or below outputs/: the run starts anew")
            return None
    else:
        path = Path(config.resume)
    checkpoint = read_checkpoint(path)
    if not checkpoint.resumable:
        raise UserError(f"resume={path} holds weights but no run's state; use model.weights={path} to start from them")
    _check_network(checkpoint, description(config.model, num_classes))
    if checkpoint.num_classes != num_classes:
        raise UserError(
            f"resume={path} has {checkpoint.num_classes} classes and the data {num_classes}; "
            f"use model.weights={path} to start a new run from its weights"
        )
    optimizer = checkpoint.meta.get("optim", {}).get("name", config.optim.name)
    if optimizer != config.optim.name:
        raise UserError(
            f"resume={path} was made with optim={optimizer} and this run uses optim={config.optim.name}; "
            f"choose the same, or use model.weights={path} to start a new run from its weights"
        )
    log.info("going on from %s", path)
    changed = changes(checkpoint.meta, config)
    if changed and config.resume == "here":
        raise _another_run(config, changed)
    if changed:
        log.warning(
            "not what the run was begun with: %s; the optimizer and its schedule go on as the checkpoint has them",
            ", ".join(changed),
        )
    return path


def finished_results(config: TrainConfig) -> dict[str, Any] | None:
    """Return the results of this very run if its folder holds them and ``skip_finished`` is set.

    Raises:
        UserError: If the folder holds the results of a run with another configuration.
    """
    path = Path(config.output_dir) / "results.json"
    if not config.skip_finished or not path.exists():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        before = flat(results["config"])
    except (ValueError, KeyError):
        return None  # cut off while it was written, or made by hand: no result
    now = flat(json.loads(json.dumps(asdict(config))))  # lists and numbers as they come back from a file
    for key, default in OLD_OUTPUT_WEIGHTS.items():  # version 0.1 wrote them out
        for made in (before, now):
            if made.get(key) == default:
                made[key] = None
    changed = [
        f"{key} was {text(before[key])}, is {text(now[key])}"
        for key in before.keys() & now.keys()
        if before[key] != now[key] and not key.startswith(NO_RESULT_DEPENDS_ON)
    ]
    if changed:
        raise _another_run(config, sorted(changed))
    return results if results["status"] == "done" else None


@rank_zero_only
def archive_finished(config: TrainConfig) -> None:
    """Move what a finished run left into ``earlier_1`` and so on, where ``resume=here`` would find nothing to do.

    Only if ``skip_finished`` is off: then the run is wanted once more.
    """
    run = Path(config.output_dir)
    if config.skip_finished or config.resume != "here" or not _is_done(run / "results.json"):
        return
    aside = next(path for number in itertools.count(1) if not (path := run / f"earlier_{number}").exists())
    aside.mkdir()
    for path in run.iterdir():
        # The logs go on: this process has its own open already.
        if path.name not in {".hydra", "error.txt"} and not path.name.startswith(("earlier_", "train_")):
            path.rename(aside / path.name)


def _is_done(results: Path) -> bool:
    try:
        return bool(json.loads(results.read_text(encoding="utf-8"))["status"] == "done")
    except (OSError, ValueError, KeyError):
        return False


def _another_run(config: TrainConfig, changed: list[str]) -> UserError:
    return UserError(
        f"{config.output_dir} holds a run of another configuration ({changed[0]}{', ...' if changed[1:] else ''}); "
        "choose another folder with hydra.run.dir=PATH, or hydra.sweep.dir=PATH for a sweep"
    )


def _newest_like(config: TrainConfig) -> Path | None:
    found = sorted(Path("outputs").glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    for path in reversed(found):
        try:
            checkpoint = read_checkpoint(path)
            made = checkpoint.network
        except UserError:
            continue  # somebody else's, or broken: not this run's, then
        if made == description(config.model, made.num_classes) and not changes(checkpoint.meta, config):
            return path
    return None


def changes(meta: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Name the keys in which a configuration differs from the one that a checkpoint was made with.

    Args:
        meta: The checkpoint's description.
        config: The other one.

    Returns:
        Texts such as ``optim.lr was 0.1, is 0.2``; keys that no weight depends on are left out.
    """
    before, after = _compared(meta), _compared(_described(config))
    before["seed"], after["seed"] = meta.get("seed"), config.seed
    differ = [key for key in before if _matters(key) and before[key] != after.get(key)]
    return [f"{key} was {before[key]}, is {after.get(key)}" for key in differ]


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


def _matters(key: str) -> bool:
    loading = ("root", "workers", "pin_memory", "persistent_workers", "prefetch_factor", "eval_batch_size", "val_split")
    return key not in {f"data.{name}" for name in loading}
