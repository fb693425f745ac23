"""The image cascade of ICNet on EfficientNet-Lite0: not the paper's network, but small and friendly to quantisation."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from icnet.models.backbone import Backbone
from icnet.models.icnet import ENLARGE, ImageCascade
from icnet.models.modules import SamePadding
from icnet.models.network import Option
from icnet.models.published import from_efficientnet

# Kernel, stride, expansion, channels and count of the blocks of each stage, as EfficientNet-Lite0 has them
# (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)  # fmt: skip
STEM_CHANNELS = 32
MID_BLOCKS = 5  # up to the last features of stride 8
OUTPUT_STRIDE = 8


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # those that the published weights were trained with


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise one, a 1x1 to fewer; around it a shortcut if the shape stays.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Of the depthwise convolution.
        expansion: How many times ``in_channels`` it has; with 1 the first convolution is left out.
        stride: Of the depthwise convolution.
        dilation: Of the depthwise convolution; 1 where its stride is not.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, expansion: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        inner = expansion * in_channels
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion > 1:
            layers["expand_conv"] = nn.Conv2d(in_channels, inner, 1, bias=False)
            layers["bn0"] = _norm(inner)
            layers["relu0"] = nn.ReLU6(inplace=True)
        if stride > 1:
            layers["pad"] = SamePadding(kernel_size)
        padding = 0 if stride > 1 else dilation * (kernel_size // 2)
        layers["depthwise_conv"] = nn.Conv2d(
            inner, inner, kernel_size, stride, padding, dilation, groups=inner, bias=False
        )
        layers["bn1"] = _norm(inner)
        layers["relu1"] = nn.ReLU6(inplace=True)
        layers["project_conv"] = nn.Conv2d(inner, out_channels, 1, bias=False)
        layers["bn2"] = _norm(out_channels)
        self.layers = nn.Sequential(layers)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        y = self.layers(x)
        if self.shortcut:
            y += x
        return y


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 up to its last block, with output stride 8.

    Instead of a stride behind 1/8, all convolutions that follow it are dilated by as much: at the positions that the
    stride would have kept, the features are those that its ImageNet weights were trained for.
    """

    mid_channels = 40
    out_channels = 320

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                pad=SamePadding(3), conv=nn.Conv2d(3, STEM_CHANNELS, 3, 2, bias=False), bn=_norm(STEM_CHANNELS),
                relu=nn.ReLU6(inplace=True),
            )
        )  # fmt: skip
        blocks, channels, reached, dilation = [], STEM_CHANNELS, 2, 1
        for kernel_size, stride, expansion, out_channels, count in STAGES:
            kept = stride if reached * stride <= OUTPUT_STRIDE else 1
            for number in range(count):
                step = 1 if number else kept
                blocks.append(InvertedResidual(channels, out_channels, kernel_size, expansion, step, dilation))
                if number == 0:  # what is behind the first block sees the stride that was left out
                    reached, dilation = reached * kept, dilation * stride // kept
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))

    @override
    def forward_mid(self, x: Tensor) -> Tensor:
        return self.blocks[:MID_BLOCKS](self.stem(x))

    @override
    def forward_deep(self, middle: Tensor) -> Tensor:
        return self.blocks[MID_BLOCKS:](middle)


class ICNetLite0(ImageCascade):
    """The image cascade on EfficientNet-Lite0; sub2 leaves it behind the fifth block.

    Args:
        num_classes: Number of classes.
        enlarge: How many times larger images are made first, 1 or 2.
    """

    options: ClassVar[Mapping[str, Option]] = {"enlarge": ENLARGE}
    stages: ClassVar[tuple[str, ...]] = ("sub1", "backbone.stem", *(f"backbone.blocks.{n}" for n in range(16)))
    mean: ClassVar[tuple[float, float, float]] = (127 / 255,) * 3  # (pixel - 127) / 128
    std: ClassVar[tuple[float, float, float]] = (128 / 255,) * 3

    def __init__(self, num_classes: int, enlarge: int = 1) -> None:
        super().__init__(num_classes, EfficientNetLite0, enlarge=enlarge)

    @classmethod
    @override
    def translate_imagenet(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_efficientnet(state_dict)
