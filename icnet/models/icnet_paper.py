"""The ICNet of its author's release (https://github.com/hszhao/ICNet), as pytorch-semseg converted it."""

import functools
import logging
from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from icnet.models.backbone import Bottleneck, ResNet
from icnet.models.cascade import RESNET_STAGES, Cascade
from icnet.models.modules import CascadeFeatureFusion, ConvBNReLU, cheap_convolutions, resize
from icnet.models.pooling import FixedWindows, PyramidPooling

log = logging.getLogger(__name__)

# Of the pooling, as the release has them: made for images of 1025x2049.
WINDOWS = FixedWindows(
    size=(33, 65),
    kernels={1: (33, 65), 2: (17, 33), 3: (13, 25), 6: (8, 15)},
    strides={1: (33, 65), 2: (16, 32), 3: (10, 20), 6: (5, 10)},
)


class HalfResNet(ResNet):
    """A ResNet-50 of half the channels, whose middle features end with the first block of what others call layer 2.

    Its ``layer3`` begins with that layer's other blocks. All blocks of a dilated layer are dilated alike, and the only
    stride is on a block's first convolution.
    """

    def __init__(self) -> None:
        super().__init__("resnet50", stem=(32, 32, 64), width=32, dilate=lambda dilation, _: (dilation, dilation))
        first, *others = self.layer2
        self.layer2, self.layer3 = nn.Sequential(first), nn.Sequential(*others, *self.layer3)
        striding = cast("Bottleneck", first)
        striding.conv1.stride, striding.conv2.stride = (2, 2), (1, 1)


class ICNetPaper(Cascade):
    """The paper's network at half width, with its own pooling: sub4 begins with sub2's features at half their size.

    The release takes images of 1025x2049, BGR with a mean of (103.939, 116.779, 123.68) taken off. Here the images are
    RGB, and its weights turned around as they are read.

    Args:
        num_classes: Number of classes.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {"sub124": 1.0, "sub24": 0.4, "sub4": 0.16}  # the author's
    classifiers: ClassVar[tuple[str, ...]] = ("classifier.", "cff_24.aux_classifier.", "cff_12.aux_classifier.")
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sub1": ("sub1.",), "backbone": ("backbone.",), "head": ("conv_sub4.", "cff_24.", "cff_12.", "classifier.")
    }  # fmt: skip
    stages: ClassVar[tuple[str, ...]] = RESNET_STAGES
    mean: ClassVar[tuple[float, float, float]] = (123.68 / 255, 116.779 / 255, 103.939 / 255)
    std: ClassVar[tuple[float, float, float]] = (1 / 255,) * 3  # pixels stay 0-255
    quarter_branch = "features"

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.sub1 = cheap_convolutions(32, 32, 64)
        self.backbone = HalfResNet()
        self.pyramid_pooling = PyramidPooling(windows=WINDOWS)
        self.conv_sub4 = ConvBNReLU(self.backbone.out_channels, 256, 1)
        classifier = functools.partial(nn.Conv2d, out_channels=num_classes, kernel_size=1)
        self.cff_24 = CascadeFeatureFusion(256, self.backbone.mid_channels, 128, classifier, aux_of_input=True)
        self.cff_12 = CascadeFeatureFusion(128, 64, 128, classifier, aux_of_input=True)
        self.classifier = classifier(128)

    @override
    def shrink(self, x: Tensor, factor: int) -> Tensor:
        return resize(x, ((x.shape[2] - 1) // factor + 1, (x.shape[3] - 1) // factor + 1))

    @override
    def head_sub4(self, top: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing() and tuple(top.shape[2:]) != WINDOWS.size:
            _say_adaptive()
        return self.conv_sub4(self.pyramid_pooling(top))

    @override
    def classify(self, fused: Tensor) -> Tensor:
        # A 1x1 convolution commutes with a bilinear resize: classify first, resize 19 channels, not 128.
        logits = self.classifier(fused)
        return resize(logits, (2 * logits.shape[2] - 1, 2 * logits.shape[3] - 1))


@functools.cache  # once in a process
def _say_adaptive() -> None:
    log.warning(
        "icnet_paper has published pooling windows for images of 1025x2049 alone (height x width): others are pooled "
        "adaptively"
    )
