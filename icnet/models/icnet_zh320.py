"""ICNet as zh320 publishes it (https://github.com/zh320/realtime-semantic-segmentation-pytorch)."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from icnet.models.backbone import ResNet
from icnet.models.cascade import RESNET_STAGES, Cascade
from icnet.models.modules import CascadeFeatureFusion, ConvBNReLU, cheap_convolutions, classifier_head, resize
from icnet.models.network import Option
from icnet.models.pooling import PyramidBranches
from icnet.models.published import from_torchvision

BINS = (1, 2, 4, 6)


def _dilate(dilation: int, is_first: bool) -> tuple[int, int]:
    return (dilation if is_first else 1), 1  # the convolution whose stride the dilation takes the place of, alone


class ICNetZH320(Cascade):
    """zh320's ICNet: torchvision's ResNet, pooling that is concatenated, and heads of two convolutions.

    The auxiliary ones work on what goes into a fusion's coarse arm.

    Args:
        num_classes: Number of classes.
        backbone: ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101``, with a stem of one 7x7 convolution.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "backbone": Option("resnet18", ("resnet18", "resnet34", "resnet50", "resnet101"))
    }
    classifiers: ClassVar[tuple[str, ...]] = (
        "head.classifier.", "cff_24.aux_classifier.classifier.", "cff_12.aux_classifier.classifier."
    )  # fmt: skip
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sub1": ("sub1.",), "backbone": ("backbone.",),
        "head": ("pyramid.", "bottleneck.", "cff_24.", "cff_12.", "head."),
    }  # fmt: skip
    stages: ClassVar[tuple[str, ...]] = (*RESNET_STAGES, "head")

    def __init__(self, num_classes: int, backbone: str = "resnet18") -> None:
        super().__init__(num_classes)
        self.sub1 = cheap_convolutions(32, 64, 128)
        self.backbone = ResNet(backbone, stem=(64,), dilate=_dilate)
        channels = self.backbone.out_channels
        self.pyramid = PyramidBranches(BINS, [nn.Conv2d(channels, channels // 4, 1, bias=False) for _ in BINS])
        self.bottleneck = ConvBNReLU(2 * channels, 256, 1)
        head = partial(classifier_head, num_classes=num_classes, bias=False)
        self.cff_24 = CascadeFeatureFusion(256, self.backbone.mid_channels, 128, head, aux_of_input=True)
        self.cff_12 = CascadeFeatureFusion(128, 128, 128, head, aux_of_input=True)
        self.head = head(128)

    @override
    def head_sub4(self, top: Tensor) -> Tensor:
        return self.bottleneck(torch.cat([top, *self.pyramid(top)], 1))

    @override
    def classify(self, fused: Tensor) -> Tensor:
        return self.head(resize(fused, (2 * fused.shape[2], 2 * fused.shape[3])))

    @classmethod
    @override
    def translate_imagenet(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_torchvision(state_dict)
