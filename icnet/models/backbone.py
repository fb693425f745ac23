"""Dilated residual networks with output stride 8, for 18 to 152 layers; by default with a deep stem (resnet-v1s)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from typing_extensions import override

from icnet.models.modules import ConvBNReLU


class Backbone(nn.Module, ABC):
    """The shared trunk of the half- and quarter-resolution branches of an image cascade, in two parts.

    Attributes:
        mid_channels: Channels of ``forward_mid``.
        out_channels: Channels of ``forward``.

    Shape:
        (N, 3, H, W) to (N, out_channels, H / 8, W / 8), rounded up.
    """

    mid_channels: int
    out_channels: int

    @abstractmethod
    def forward_mid(self, x: Tensor) -> Tensor:
        """Run the first part alone: (N, 3, H, W) to (N, mid_channels, H / 8, W / 8), rounded up."""

    @abstractmethod
    def forward_deep(self, middle: Tensor) -> Tensor:
        """Run the rest, which keeps the size: (N, mid_channels, h, w) to (N, out_channels, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """Run everything; see the class for shapes."""
        return self.forward_deep(self.forward_mid(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (depths 18 and 34).

    Args:
        in_channels: Channels in.
        channels: Channels of the convolutions.
        stride: Of the first convolution and the shortcut.
        dilation: Of the second convolution.
        first_dilation: Of the first convolution; half the layer's in its first block.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, first_dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, first_dilation, first_dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 around a shortcut (depths 50, 101 and 152).

    Args:
        in_channels: Channels in.
        channels: Channels of the 3x3; the output has four times as many.
        stride: Of the 3x3 and the shortcut.
        dilation: Unused; the block has one 3x3, whose dilation is ``first_dilation``.
        first_dilation: Of the 3x3; half the layer's in its first block.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, first_dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, first_dilation, first_dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, self.expansion * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, self.expansion * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 4 channels, ceil(H / stride), ceil(W / stride))."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += self.downsample(x)
        return self.relu(y)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )  # fmt: skip


BLOCKS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


def contracted(dilation: int, is_first: bool) -> tuple[int, int]:
    """Dilate as the reference does: a layer's first 3x3 by half of what all others are dilated by."""
    return (max(dilation // 2, 1) if is_first else dilation), dilation


class ResNet(Backbone):
    """A stem and four layers, of which the first two make the middle features.

    Args:
        depth: A key of ``BLOCKS``.
        stem: Channels of the stem's convolutions, the first of stride 2: several are 3x3, one alone is 7x7.
        width: Channels of the first layer's 3x3.
        ceil_mode: Whether the pooling behind the stem rounds sizes up.
        dilate: From a layer's dilation (2 or 4) and whether a block is its first to the block's ``first_dilation`` and
            ``dilation``.
    """

    def __init__(
        self, depth: str, *, stem: Sequence[int] = (64, 64, 128), width: int = 64, ceil_mode: bool = False,
        dilate: Callable[[int, bool], tuple[int, int]] = contracted,
    ) -> None:  # fmt: skip
        super().__init__()
        block, counts = BLOCKS[depth]
        kernel_size = 3 if len(stem) > 1 else 7
        self.stem = nn.Sequential(
            *(
                ConvBNReLU(before, channels, kernel_size, stride=1 if number else 2)
                for number, (before, channels) in enumerate(zip((3, *stem), stem, strict=False))
            )
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=ceil_mode)
        channels = stem[-1]
        layers = []
        for number, (count, stride, dilation) in enumerate(zip(counts, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
            inner, blocks = width * 2**number, []
            for place in range(count):
                first_dilation, other = dilate(dilation, place == 0) if dilation > 1 else (1, 1)
                blocks.append(block(channels, inner, 1 if place else stride, other, first_dilation))
                channels = block.expansion * inner
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.mid_channels = 2 * width * block.expansion
        self.out_channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @override
    def forward_mid(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(self.maxpool(self.stem(x))))

    @override
    def forward_deep(self, middle: Tensor) -> Tensor:
        return self.layer4(self.layer3(middle))
