"""The training augmentation: mirror, scale, pad, crop, blur and, if wanted, colour changes.

The recipe of the reference (flip; short side drawn uniformly; zero padding at the right and bottom; crop; blur of
radius U(0, 1)), with one difference: mirroring comes after the crop, where it has fewer pixels to move, so the padding
of a mirrored sample is at its left.
"""

import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from icnet.data.labels import IGNORE_INDEX

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the internet for a newer version otherwise
import albumentations as A  # noqa: E402, N812 (the variable must be set before; A is the name its own pages use)
from typing_extensions import override

# Largest error of a sample position in source pixels: about one grey level at the hardest edge (255 / 256).
POSITION_ERROR = 256  # 1 / 256 pixel


class RandomScaleCrop(A.DualTransform):
    """Resize so that the short side has a random length, pad at the right and bottom, crop at a random place.

    Only the part of the source that the crop shows is resampled. The image equals ``cv2.resize`` (bilinear) of the
    whole followed by padding and cropping within 2 grey levels; the mask is exactly the nearest neighbour by pixel
    centres: column x of an image resized from W to w columns shows source column floor((2x + 1) W / 2w), rows alike
    (OpenCV's INTER_NEAREST_EXACT, but for its rounding of W / w).

    Args:
        crop_size: (H, W) of the result.
        scale_range: Smallest and largest length of the short side in pixels; every integer from one to the other is
            equally likely.
        p: Probability of applying it.
    """

    def __init__(self, crop_size: Sequence[int], scale_range: Sequence[int], p: float = 1.0) -> None:
        super().__init__(p=p)
        self.crop_size = (int(crop_size[0]), int(crop_size[1]))
        self.scale_range = (int(scale_range[0]), int(scale_range[1]))

    @override
    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the size of the whole resized image and the corner of the crop in it, as (rows, columns)."""
        height, width = params["shape"][:2]
        short = self.py_random.randint(*self.scale_range)
        size = (height * short // min(height, width), width * short // min(height, width))
        size = (max(size[0], 1), max(size[1], 1))
        corner = tuple(
            self.py_random.randint(0, max(whole - crop, 0)) for whole, crop in zip(size, self.crop_size, strict=True)
        )
        return {"size": size, "corner": corner}

    @override
    def apply(self, img: np.ndarray, size: tuple[int, int], corner: tuple[int, int], **params: object) -> np.ndarray:
        """Return the crop of an (H, W, 3) uint8 image, black where it reaches beyond the image."""
        shown = self._shown(size)
        (top, bottom, skip_y), (left, right, skip_x) = (
            _bilinear_window(corner[axis], shown[axis], img.shape[axis], size[axis]) for axis in (0, 1)
        )
        fx, fy = size[1] / img.shape[1], size[0] / img.shape[0]
        window = cv2.resize(img[top:bottom, left:right], None, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR)
        return self._pad(window[skip_y : skip_y + shown[0], skip_x : skip_x + shown[1]], 0)

    @override
    def apply_to_mask(
        self, mask: np.ndarray, size: tuple[int, int], corner: tuple[int, int], **params: object
    ) -> np.ndarray:
        """Return the crop of an (H, W) uint8 mask, 255 where it reaches beyond the mask."""
        shown = self._shown(size)
        rows, columns = (
            (2 * np.arange(corner[axis], corner[axis] + shown[axis]) + 1) * mask.shape[axis] // (2 * size[axis])
            for axis in (0, 1)
        )
        return self._pad(np.take(mask[rows], columns, axis=1), IGNORE_INDEX)

    def _shown(self, size: tuple[int, int]) -> tuple[int, int]:
        return min(size[0], self.crop_size[0]), min(size[1], self.crop_size[1])

    def _pad(self, crop: np.ndarray, value: int) -> np.ndarray:
        missing = self.crop_size[0] - crop.shape[0], self.crop_size[1] - crop.shape[1]
        if not any(missing):
            return crop
        fill = (value, value, value)
        return cv2.copyMakeBorder(crop, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=fill)


def _bilinear_window(start: int, count: int, source: int, target: int) -> tuple[int, int, int]:
    """Find the source pixels from which one axis of a crop is resized.

    ``cv2.resize`` of a window samples as ``cv2.resize`` of the whole does if the window starts where a border of a
    target pixel meets one of a source pixel. That is so at 0, and nearly so at many places; this takes the last one
    before the crop. (``cv2.warpAffine`` could start anywhere, but rounds positions to 1/32 pixel: 8 grey levels.)

    Args:
        start: First target pixel of the crop.
        count: Target pixels of the crop.
        source: Source pixels of the whole axis.
        target: Target pixels of the whole axis.

    Returns:
        First source pixel, one past the last, and how many target pixels of the resized window precede the crop.
    """
    # Enlarging, the first target pixels look left of the window; only at the image's border that is what cv2 would do.
    context = min(max(0, -(-(target - source) // (2 * source))), start)
    origins = np.arange(start - context, -1, -1)
    first = (2 * origins * source + target) // (2 * target)  # the nearest border of a source pixel
    meets = np.abs(origins * source - first * target) * POSITION_ERROR <= target
    chosen = int(np.argmax(meets))  # the first that does; 0 always does
    last = min(source, -(-(start + count) * source // target) + 1)
    return int(first[chosen]), last, start - int(origins[chosen])


def train_transform(
    crop_size: Sequence[int],
    scale_range: Sequence[int] = (512, 2048),
    flip: float = 0.5,
    blur: float = 0.5,
    color_jitter: float = 0.0,
) -> A.Compose:
    """Build the training augmentation.

    Args:
        crop_size: (H, W) of a sample.
        scale_range: Smallest and largest short side in pixels.
        flip: Probability of mirroring left and right.
        blur: Probability of a Gaussian blur with a standard deviation from U(0, 1) pixels.
        color_jitter: Strength of changes of brightness, contrast and saturation, factors from 1 - s to 1 + s; 0 = off.

    Returns:
        A transform of ``image`` (H, W, 3) uint8 and ``mask`` (H, W) uint8.
    """
    steps: list[A.BasicTransform] = [
        RandomScaleCrop(crop_size, scale_range),
        A.HorizontalFlip(p=flip),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.0, 1.0), p=blur),  # blur_limit 0: the kernel follows sigma
    ]
    if color_jitter:
        steps.append(
            A.ColorJitter(brightness=color_jitter, contrast=color_jitter, saturation=color_jitter, hue=0.0, p=1.0)
        )
    return A.Compose(steps)
