"""ICNet as mmsegmentation publishes it (https://github.com/open-mmlab/mmsegmentation/tree/main/configs/icnet)."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from icnet.models.backbone import ResNet, contracted
from icnet.models.cascade import RESNET_STAGES, Cascade
from icnet.models.modules import CascadeFeatureFusion, ConvBNReLU, cheap_convolutions, classifier_head
from icnet.models.network import Option
from icnet.models.pooling import PyramidBranches
from icnet.models.published import from_mmseg_imagenet

BINS = (1, 2, 3, 6)
POOLED_CHANNELS = 512
BRANCH_CHANNELS = 256  # of sub2 and sub4


def _dilate(dilation: int, is_first: bool) -> tuple[int, int]:
    return contracted(dilation, is_first)[0], 1  # a basic block's second 3x3 is not dilated


class ICNetMMSeg(Cascade):
    """mmsegmentation's ICNet: sub4 begins with sub2's features at half their size, and concatenates what it pools.

    Its logits ``sub124`` are of 1/8 of the size, and corners are not aligned.

    Args:
        num_classes: Number of classes.
        backbone: ``resnet18``, ``resnet50`` or ``resnet101``, dilated, with a deep stem (v1c).
    """

    options: ClassVar[Mapping[str, Option]] = {"backbone": Option("resnet50", ("resnet18", "resnet50", "resnet101"))}
    classifiers: ClassVar[tuple[str, ...]] = (
        "head.classifier.", "cff_24.aux_classifier.classifier.", "cff_12.aux_classifier.classifier."
    )  # fmt: skip
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sub1": ("sub1.",), "backbone": ("backbone.",),
        "head": ("pyramid.", "bottleneck.", "conv_sub2.", "conv_sub4.", "cff_24.", "cff_12.", "head."),
    }  # fmt: skip
    stages: ClassVar[tuple[str, ...]] = RESNET_STAGES
    align_corners: ClassVar[bool] = False
    quarter_branch = "features"

    def __init__(self, num_classes: int, backbone: str = "resnet50") -> None:
        super().__init__(num_classes)
        self.sub1 = cheap_convolutions(32, 32, 64)
        self.backbone = ResNet(backbone, stem=(32, 32, 64), ceil_mode=True, dilate=_dilate)
        channels = self.backbone.out_channels
        self.pyramid = PyramidBranches(
            BINS, [ConvBNReLU(channels, POOLED_CHANNELS, 1) for _ in BINS], align_corners=False
        )
        self.bottleneck = ConvBNReLU(channels + len(BINS) * POOLED_CHANNELS, POOLED_CHANNELS, 3)
        self.conv_sub2 = ConvBNReLU(self.backbone.mid_channels, BRANCH_CHANNELS, 1)
        self.conv_sub4 = ConvBNReLU(POOLED_CHANNELS, BRANCH_CHANNELS, 1)
        head = partial(classifier_head, num_classes=num_classes, bias=True)
        fusion = partial(CascadeFeatureFusion, make_aux_classifier=head, relu_in_arms=True, align_corners=False)
        self.cff_24 = fusion(BRANCH_CHANNELS, BRANCH_CHANNELS, 128)
        self.cff_12 = fusion(128, 64, 128)
        self.head = head(128)

    @override
    def shrink(self, x: Tensor, factor: int) -> Tensor:
        # A bilinear resize by the factor 1/2, without aligned corners: each result lies amid four pixels.
        return F.avg_pool2d(x, factor)

    @override
    def head_sub2(self, middle: Tensor) -> Tensor:
        return self.conv_sub2(middle)

    @override
    def head_sub4(self, top: Tensor) -> Tensor:
        return self.conv_sub4(self.bottleneck(torch.cat([*self.pyramid(top), top], 1)))

    @override
    def classify(self, fused: Tensor) -> Tensor:
        return self.head(fused)

    @classmethod
    @override
    def translate_imagenet(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_mmseg_imagenet(state_dict)
