"""From configuration to the network, with the weights that are asked for."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from icnet.config import ModelConfig
from icnet.deploy.shipped import file_of
from icnet.deploy.trained_network import told_classes
from icnet.errors import UserError
from icnet.models import build_network, network_options, network_title, rebuild_network
from icnet.models.checkpoints import Checkpoint, load_for_finetuning, load_weights, read_checkpoint
from icnet.models.imagenet_weights import read_backbone
from icnet.models.network import NetworkDescription, SegmentationNetwork
from icnet.models.pruning import Widths, describe_cost, narrow, prune
from icnet.run import differences

log = logging.getLogger(__name__)


def description(model: ModelConfig, num_classes: int) -> NetworkDescription:
    """Describe the network that is asked for, with all of its options.

    Raises:
        UserError: If the network or an option is unknown.
    """
    given = dict(model.options)
    if model.backbone is not None:
        given["backbone"] = model.backbone
    return NetworkDescription(model.name, network_options(model.name, given), num_classes)


def model_title(model: ModelConfig, resume: str | None = None) -> str:
    """Return what reports call the network, such as ``icnet_resnet50``.

    Args:
        model: Which network.
        resume: The checkpoint that a run goes on from.
    """
    title = network_title(description(model, 1))
    return f"{title}_pruned" if is_pruned(model, resume) else title


def is_pruned(model: ModelConfig, resume: str | None = None) -> bool:
    """Tell whether a network is narrower than its class makes it; see ``model_title``."""
    if model.keep < 1 and not resume:
        return True
    return bool(_widths(resume or model.weights))


def _widths(source: str | None) -> Widths:
    """Return how narrow the network of a checkpoint is; a missing file is refused where its weights are loaded."""
    return read_checkpoint(file_of(source)).network.widths if source and file_of(source).is_file() else {}


def network(
    model: ModelConfig, classes: Sequence[str], *, channels_last: bool = True, resume: str | None = None
) -> SegmentationNetwork:
    """Build the network with the weights that are asked for.

    Args:
        model: Which network.
        classes: The names of the data's classes.
        channels_last: Whether its weights lie in that order: faster on CPUs and GPUs, while NPUs have their own.
        resume: The checkpoint that a run goes on from. If its network is pruned, so is this one, with fresh weights.

    Raises:
        UserError: If weights are missing, broken or of another architecture, or the network cannot be pruned.
    """
    described = description(model, len(classes))
    widths = _widths(resume)
    if widths:
        return _ordered(rebuild_network(replace(described, widths=widths)), channels_last)
    net = build_network(described.name, len(classes), **described.options)
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
        checkpoint = read_checkpoint(file_of(model.weights))
        check_network(checkpoint, described)
        narrow(net, checkpoint.network.widths)
        _finetune(net, checkpoint, tuple(classes))
    if model.keep < 1:
        full = build_network(described.name, len(classes), **described.options)
        prune(net, model.keep)
        log.info("model.keep=%s leaves %s", model.keep, describe_cost(net, full))
    return _ordered(net, channels_last)


def _ordered(net: SegmentationNetwork, channels_last: bool) -> SegmentationNetwork:
    return net.to(memory_format=torch.channels_last) if channels_last else net  # type: ignore[call-overload]


def _finetune(net: SegmentationNetwork, checkpoint: Checkpoint, classes: tuple[str, ...]) -> None:
    """Load a checkpoint's weights, those of the classifiers class by class: by name, or by number if it has no names.

    Raises:
        UserError: If anything but the classifiers does not fit.
    """
    told = told_classes(checkpoint)
    if told and told.names != classes:
        rows = [told.names.index(name) if name in told.names else None for name in classes]
        load_for_finetuning(net, checkpoint, rows)
        shared = [name for name in classes if name in told.names]
        new = [name for name in classes if name not in told.names]
        log.warning(
            "%s has %d classes and this run %d, other ones or in another order: the classifiers take over %s by name; "
            "%s; everything else was loaded",
            checkpoint.path, len(told), len(classes), ", ".join(shared) or "none",
            f"{', '.join(new)} start anew" if new else "none starts anew",
        )  # fmt: skip
        return
    fresh = load_for_finetuning(net, checkpoint)
    if fresh:
        log.warning(
            "%s has %d classes, which it does not name, and this run %d: everything was loaded but the classifiers "
            "(%s), which start anew",
            checkpoint.path, checkpoint.num_classes, len(classes), ", ".join(fresh),
        )  # fmt: skip
    elif told is None:
        log.warning(
            "%s does not name its %d classes: they are taken for those of the data, in their order (%s)",
            checkpoint.path, len(classes), ", ".join(classes),
        )  # fmt: skip
    else:
        log.info("weights from %s", checkpoint.path)


def check_network(checkpoint: Checkpoint, wanted: NetworkDescription) -> None:
    """Refuse a checkpoint of another network or other options; the class count may differ."""
    found = checkpoint.network
    if (found.name, found.options) != (wanted.name, wanted.options):
        theirs, ours = (network_title(replace(made, widths={})) for made in (found, wanted))
        if theirs == ours:
            theirs, ours = (differences.text({"name": made.name, **made.options}) for made in (found, wanted))
        raise UserError(
            f"{checkpoint.path} was made with {theirs} and this run uses {ours}; "
            f"choose {_overrides(found)} or another checkpoint"
        )


def _overrides(network: NetworkDescription) -> str:
    """Say how a network is asked for on the command line."""
    backbone = {name: value for name, value in network.options.items() if name == "backbone"}
    usual = network_options(network.name, backbone)
    others = [f" +model.options.{name}={value}" for name, value in network.options.items() if value != usual.get(name)]
    return f"model={network_title(replace(network, options=usual, widths={}))}{''.join(others)}"
