"""Dilated residual networks with a deep stem and output stride 8 (resnet-v1s), for 18 to 152 layers."""

from torch import Tensor, nn
from typing_extensions import override

from icnet.models.modules import ConvBNReLU


class Backbone(nn.Module):
    """The shared trunk of the half- and quarter-resolution branches of an image cascade.

    Attributes:
        mid_channels: Channels of ``forward_mid``.
        out_channels: Channels of ``forward``.

    Shape:
        (N, 3, H, W) to (N, out_channels, H / 8, W / 8), rounded up.
    """

    mid_channels: int
    out_channels: int

    def forward_mid(self, x: Tensor) -> Tensor:
        """Run the first part alone: (N, 3, H, W) to (N, mid_channels, H / 8, W / 8), rounded up."""
        raise NotImplementedError


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


class ResNet(Backbone):
    """A stem and four layers, of which the first two make the middle features.

    Args:
        depth: A key of ``BLOCKS``.
    """

    def __init__(self, depth: str) -> None:
        super().__init__()
        block, counts = BLOCKS[depth]
        self.stem = nn.Sequential(ConvBNReLU(3, 64, 3, stride=2), ConvBNReLU(64, 64, 3), ConvBNReLU(64, 128, 3))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._layer(block, 128, 64, counts[0], stride=1, dilation=1)
        self.layer2 = self._layer(block, 64 * block.expansion, 128, counts[1], stride=2, dilation=1)
        self.layer3 = self._layer(block, 128 * block.expansion, 256, counts[2], stride=1, dilation=2)
        self.layer4 = self._layer(block, 256 * block.expansion, 512, counts[3], stride=1, dilation=4)
        self.mid_channels = 128 * block.expansion
        self.out_channels = 512 * block.expansion
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _layer(
        block: type[BasicBlock] | type[Bottleneck], in_channels: int, channels: int, count: int, *, stride: int,
        dilation: int,
    ) -> nn.Sequential:  # fmt: skip
        first = block(in_channels, channels, stride, dilation, first_dilation=max(dilation // 2, 1))
        rest = (block(block.expansion * channels, channels, 1, dilation, dilation) for _ in range(count - 1))
        return nn.Sequential(first, *rest)

    @override
    def forward_mid(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(self.maxpool(self.stem(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Run everything; see ``Backbone`` for shapes."""
        return self.layer4(self.layer3(self.forward_mid(x)))
