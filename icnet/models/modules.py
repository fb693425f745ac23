"""The building blocks of ICNet."""

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, for images scaled to 0-1
IMAGENET_STD = (0.229, 0.224, 0.225)


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
    """Resize bilinearly, with aligned corners unless told otherwise.

    The target is always given as a size, never as a factor: Ascend NPUs do not support the latter.

    Args:
        x: (N, C, H, W) floating point.
        size: (height, width) of the result.
        align_corners: Whether the centres of the outermost pixels stay in place, or the edges of the image.
    """
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def resize_and_convolve(
    x: Tensor, size: tuple[int, int], conv: nn.Conv2d, *, align_corners: bool = True
) -> Tensor:  # fmt: skip
    """Equal ``conv(resize(x, size))``, and on CPUs do a quarter of its work where ``conv`` has many channels in.

    Mixing channels commutes with a resize. So each tap of the kernel becomes a 1x1 convolution of the small features;
    the results are resized, moved to the tap's place and summed. On one core the fusion of 2048 channels in a 960x960
    training sample takes 0.10 s instead of 0.40 s, forward and backward. Other devices convolve fast and copy slowly.
    ``ResizedTaps`` is the same for an exported graph.

    Args:
        x: (N, C, h, w) floating point.
        size: (H, W) of the result.
        conv: A convolution of stride 1 whose padding keeps the size.
        align_corners: See ``resize``.
    """
    channels = conv.out_channels
    rows, columns = conv.kernel_size
    pays = _has_many_channels(conv) and x.shape[2] < size[0] and x.shape[3] < size[1]
    if x.device.type != "cpu" or torch.jit.is_tracing() or not pays:
        return conv(resize(x, size, align_corners=align_corners))
    taps = conv.weight.permute(2, 3, 0, 1).reshape(-1, conv.in_channels, 1, 1)
    moved = []
    products = resize(F.conv2d(x, taps), size, align_corners=align_corners)
    for tap, part in enumerate(products.split(channels, 1)):
        down = conv.dilation[0] * (tap // columns - rows // 2)
        right = conv.dilation[1] * (tap % columns - columns // 2)
        moved.append(F.pad(part, (-right, right, -down, down)))
    if conv.bias is not None:
        moved.append(conv.bias[:, None, None])
    return functools.reduce(Tensor.add_, moved)


def _has_many_channels(conv: nn.Conv2d) -> bool:
    """Tell whether it has more channels in than its taps have channels out."""
    rows, columns = conv.kernel_size
    return rows * columns * conv.out_channels < conv.in_channels


class ResizedTaps(nn.Module):
    """``resize_and_convolve`` for an exported graph, of nothing but convolutions, resizes and sums.

    What moves the taps' results are depthwise convolutions with a single 1 in their kernels: the taps in a row of the
    kernel are moved sideways and summed, the sums moved up or down. It saves 14.5 of the 115.4 GMAC of a ResNet-50
    ICNet at 1024x2048.

    Args:
        conv: See ``resize_and_convolve``.

    Shape:
        (N, C, h, w) to (N, out_channels of ``conv``, H, W).
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        rows, columns = conv.kernel_size
        self.taps = nn.ModuleList()
        for row in range(rows):
            for column in range(columns):
                tap = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False)
                tap.weight = nn.Parameter(conv.weight[:, :, row : row + 1, column : column + 1].detach().clone())
                if (row, column) == (rows // 2, columns // 2):
                    tap.bias = conv.bias  # a resize leaves a constant as it is
                self.taps.append(tap)
        down, right = conv.dilation
        self.down = nn.ModuleList(_mover(conv.out_channels, 0, down * (rows // 2 - row)) for row in range(rows))
        self.right = nn.ModuleList(
            _mover(conv.out_channels, 1, right * (columns // 2 - column)) for column in range(columns)
        )

    def forward(self, x: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
        """Convolve, resize, move and sum; see the class for shapes and ``resize`` for the rest."""
        taps, sums = iter(self.taps), []
        for down in self.down:
            parts = [right(resize(next(taps)(x), size, align_corners=align_corners)) for right in self.right]
            sums.append(down(functools.reduce(Tensor.add, parts)))
        return functools.reduce(Tensor.add, sums)


def _mover(channels: int, axis: int, by: int) -> nn.Module:
    """Return what moves (N, channels, H, W) down (axis 0) or right (axis 1) by so many pixels; zeros follow."""
    if by == 0:
        return nn.Identity()
    apart = abs(by)
    kernel, padding, dilation = ((3, 1), (apart, 0), (apart, 1)) if axis == 0 else ((1, 3), (0, apart), (1, apart))
    mover = nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, groups=channels, bias=False)
    with torch.no_grad():
        mover.weight.copy_(torch.tensor([float(by > 0), 0.0, float(by < 0)]).reshape(1, 1, *kernel))
    return mover


class ImageNormalizer(nn.Module):
    """Turn uint8 RGB images into the network's input, on whatever device they are.

    Args:
        mean: Per channel, of images scaled to 0-1.
        std: Per channel, likewise.

    Shape:
        (N, 3, H, W) uint8 or floating point 0-255 to the same shape in the dtype of the buffers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalise; see the class for shapes."""
        return (image.to(self.mean.dtype) - self.mean).div_(self.std)


class ConvBNReLU(nn.Module):
    """Convolution without bias, batch normalisation and, unless switched off, ReLU.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Odd; the padding keeps the size at stride 1.
        stride: Of the convolution.
        dilation: Of the convolution.
        relu: Whether a ReLU follows.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, dilation: int = 1,
        relu: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.relu(self.bn(self.conv(x)))


def cheap_convolutions(*channels: int) -> nn.Sequential:
    """Return 3x3 convolutions of stride 2 from images to so many channels each: sub1 of a cascade."""
    return nn.Sequential(
        *(ConvBNReLU(before, after, 3, stride=2) for before, after in zip((3, *channels), channels, strict=False))
    )


def classifier_head(in_channels: int, num_classes: int, *, bias: bool) -> nn.Sequential:
    """Return a 3x3 convolution to 128 channels, ``conv``, and a 1x1 convolution that classifies them, ``classifier``.

    Args:
        in_channels: Channels in.
        num_classes: Channels out.
        bias: Whether the classifier has one.
    """
    return nn.Sequential(
        OrderedDict(conv=ConvBNReLU(in_channels, 128, 3), classifier=nn.Conv2d(128, num_classes, 1, bias=bias))
    )


class SamePadding(nn.Module):
    """Pad with zeros as TensorFlow's ``SAME`` does, for a convolution of stride 2 that has no padding of its own.

    An even side gets one row less at its beginning than at its end, an odd one as many. The convolution then gives
    half the size, rounded up.

    Args:
        kernel_size: Of the convolution; odd.

    Shape:
        (N, C, H, W) to (N, C, H + kernel_size - 2 + H % 2, W + kernel_size - 2 + W % 2).
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.reach = kernel_size // 2
        self.symbolic_size = False  # an export with dynamic height and width sets it: padding computed inside the graph

    def forward(self, x: Tensor) -> Tensor:
        """Pad; see the class for shapes."""
        height, width = x.shape[2], x.shape[3]
        if torch.jit.is_tracing() and not self.symbolic_size:
            height, width = int(height), int(width)  # tensors while tracing
        return F.pad(x, (self.reach - 1 + width % 2, self.reach, self.reach - 1 + height % 2, self.reach))


class CascadeFeatureFusion(nn.Module):
    """Fuse coarse features into finer ones (the paper's CFF unit).

    Args:
        low_channels: Channels of the coarse features.
        high_channels: Channels of the fine features.
        out_channels: Channels of the result.
        make_aux_classifier: From a number of channels to what makes auxiliary logits of the coarse arm before the sum.
        aux_of_input: Whether they are made of that arm's input instead, resized to the fine features.
        relu_in_arms: Whether both arms end in a ReLU before they are summed.
        align_corners: See ``resize``.
    """

    def __init__(
        self, low_channels: int, high_channels: int, out_channels: int,
        make_aux_classifier: Callable[[int], nn.Module], *, aux_of_input: bool = False, relu_in_arms: bool = False,
        align_corners: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.low = ConvBNReLU(low_channels, out_channels, 3, dilation=2, relu=relu_in_arms)
        self.high = ConvBNReLU(high_channels, out_channels, 1, relu=relu_in_arms)
        self.aux_classifier = make_aux_classifier(low_channels if aux_of_input else out_channels)
        self.aux_of_input = aux_of_input
        self.relu_in_arms = relu_in_arms
        self.align_corners = align_corners
        self.resized_taps: ResizedTaps | None = None

    def prepare_export(self) -> None:
        """Write the coarse arm's convolution as ``ResizedTaps`` where that saves work."""
        if _has_many_channels(self.low.conv):
            self.resized_taps = ResizedTaps(self.low.conv)
            self.low.conv = nn.Identity()  # type: ignore[assignment]

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fuse.

        Args:
            low: (N, low_channels, h, w).
            high: (N, high_channels, H, W).

        Returns:
            (N, out_channels, H, W) fused features, and in training (N, num_classes, H, W) auxiliary logits.
        """
        size, aux = (high.shape[2], high.shape[3]), None
        if self.training and self.aux_of_input:
            low = resize(low, size, align_corners=self.align_corners)
            aux = self.aux_classifier(low)
            coarse = self.low.conv(low)
        elif self.resized_taps is not None:
            coarse = self.resized_taps(low, size, align_corners=self.align_corners)
        else:
            coarse = resize_and_convolve(low, size, self.low.conv, align_corners=self.align_corners)
        coarse = self.low.relu(self.low.bn(coarse))
        if self.training and not self.aux_of_input:
            aux = self.aux_classifier(coarse)
        fused = self.high(high)
        if self.relu_in_arms:
            return fused + coarse, aux  # nothing negative is left for a ReLU
        fused += coarse  # in place here and in the backbone: fresh memory costs more than the sum
        return F.relu(fused, inplace=True), aux
