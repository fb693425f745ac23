"""What the plain networks of several tests share, written from ``torch.nn`` alone with the published files' names."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

COUNTS = {
    "resnet18": (False, (2, 2, 2, 2)), "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)), "resnet101": (True, (3, 4, 23, 3)),
}  # fmt: skip
"""Whether a ResNet has blocks of three convolutions, and how many blocks each layer has."""


def layout_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all names and shapes, sorted, one a line, such as ``conv.weight [32, 3, 3, 3]``."""
    lines = sorted(f"{name} {list(value.shape)}" for name, value in tensors.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class PlainBlock(nn.Module):
    """A residual block with torchvision's names; both 3x3 convolutions of a shallow one are dilated by themselves."""

    def __init__(self, inputs: int, width: int, deep: bool, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        outputs, (one, two) = 4 * width if deep else width, dilations
        self.deep = deep
        if deep:
            self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, one, one, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, one, one, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, two, two, bias=False), nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.deep:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def plain_layers(depth: str, inputs: int, dilations: Callable[[int, int], tuple[int, int]]) -> list[nn.Sequential]:
    """The four layers of a ResNet of output stride 8.

    Args:
        depth: A key of ``COUNTS``.
        inputs: Channels that the first layer gets.
        dilations: From a layer's number, 3 or 4, and a block's place in it to those of the block's 3x3 convolutions.
    """
    deep, counts = COUNTS[depth]
    layers = []
    for number, (count, stride) in enumerate(zip(counts, (1, 2, 1, 1), strict=True), start=1):
        width, blocks = 32 * 2**number, []
        for place in range(count):
            rates = dilations(number, place) if number > 2 else (1, 1)
            blocks.append(PlainBlock(inputs, width, deep, stride if place == 0 else 1, rates))
            inputs = 4 * width if deep else width
        layers.append(nn.Sequential(*blocks))
    return layers


def resnet_macs(depth: str, inputs: int, pixels: tuple[int, int, int]) -> int:
    """Multiply-adds of the four layers, counted convolution by convolution.

    Args:
        depth: A key of ``COUNTS``.
        inputs: Channels that the first layer gets.
        pixels: Of the outputs of layer 1, of layer 2 and of both others.
    """
    deep, counts = COUNTS[depth]
    total, before = 0, pixels[0]
    for number, (count, area) in enumerate(zip(counts, (*pixels, pixels[2]), strict=True), start=1):
        before = area if number > 2 else before  # only the second layer has a stride
        width = 32 * 2**number
        outputs = 4 * width if deep else width
        for place in range(count):
            if deep:
                total += before * inputs * width + area * width * (9 * width + outputs)
            else:
                total += area * 9 * width * (inputs + width)
            if place == 0 and (number == 2 or inputs != outputs):
                total += area * inputs * outputs
            inputs, before = outputs, area
    return total


def assert_trains_alike(
    net: nn.Module, plain: nn.Module, translate: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]], image: Tensor
) -> None:
    """Both give the same training outputs, gradients and running statistics, in float64."""
    outputs, wanted = net.train()(image), plain.train()(image)
    for name, logits in outputs.items():
        torch.testing.assert_close(logits, wanted[name], atol=1e-8, rtol=1e-8)
    sum(logits.square().mean() for logits in outputs.values()).backward()
    sum(wanted[name].square().mean() for name in outputs).backward()
    gradients = translate({name: parameter.grad for name, parameter in plain.named_parameters()})
    largest = max(gradient.abs().max() for gradient in gradients.values() if gradient is not None)
    for name, parameter in net.named_parameters():
        scale = max(gradients[name].abs().max(), 1e-6 * largest)  # where BatchNorm takes a bias out: 0 up to rounding
        torch.testing.assert_close(parameter.grad / scale, gradients[name] / scale, atol=1e-6, rtol=0, msg=name)
    theirs = translate(plain.state_dict())
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, theirs[name], msg=name)
