"""Bringing images to sides that a network takes, and its scores back: the same in training, evaluation and the API."""

import torch
from torch import Tensor
from torch.nn import functional

from icnet.models.network import allowed_side


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly with pixel centres aligned, as everything that resizes images does.

    The target is a size, not a factor, for the sake of NPUs.

    Args:
        x: (N, C, H, W) floating point.
        size: (height, width) of the result.

    Returns:
        (N, C, height, width); ``x`` itself where nothing changes.
    """
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def with_short_side(image: Tensor, side: int) -> Tensor:
    """Resize images so that the shorter side has a length; every pixel counts where they shrink.

    Args:
        image: (N, 3, H, W) uint8.
        side: The length in pixels.

    Returns:
        (N, 3, h, w) uint8, rounded; ``image`` itself where nothing changes.
    """
    sides = (image.shape[2], image.shape[3])
    size = tuple(max(1, round(one * side / min(sides))) for one in sides)
    if size == sides:
        return image
    made = functional.interpolate(
        image.float(), size, mode="bilinear", align_corners=False, antialias=side < min(sides)
    )  # fmt: skip
    return made.round().clamp(0, 255).to(torch.uint8)


def fitted(image: Tensor, min_side: int, divisor: int, scale: float = 1.0) -> Tensor:
    """Resize images by a factor, and by more where a network could not take a side; the shape stays about the same.

    Args:
        image: (N, 3, H, W) uint8.
        min_side: The shortest side that the network takes.
        divisor: What its sides are multiples of.
        scale: The factor.

    Returns:
        (N, 3, h, w) uint8, rounded; ``image`` itself where nothing changes.
    """
    height, width = image.shape[2], image.shape[3]
    factor = max(scale, min_side / min(height, width))
    size = tuple(allowed_side(round(side * factor), min_side, divisor) for side in (height, width))
    if size == (height, width):
        return image
    return resized(image.float(), (size[0], size[1])).round().clamp(0, 255).to(torch.uint8)
