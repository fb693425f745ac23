"""The training augmentation: mirror, scale, pad, crop, blur and, if wanted, colour changes.

The recipe of the reference (flip; short side drawn uniformly; zero padding at the right and bottom; crop; blur of
radius U(0, 1)), with one difference: mirroring comes after the crop, where it has fewer pixels to move, so the padding
of a mirrored sample is at its left.
"""

import os
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
        shown = self.shown(size)
        (top, bottom, skip_y), (left, right, skip_x) = (
            bilinear_window(corner[axis], shown[axis], img.shape[axis], size[axis]) for axis in (0, 1)
        )
        fx, fy = size[1] / img.shape[1], size[0] / img.shape[0]
        if size != img.shape[:2] and (round((bottom - top) * fy), round((right - left) * fx)) == (
            bottom - top, right - left,
        ):  # fmt: skip
            # OpenCV would copy it, whatever the factors: take one whole axis, whose length does change.
            if size[1] != img.shape[1]:
                left, right, skip_x = 0, img.shape[1], corner[1]
            else:
                top, bottom, skip_y = 0, img.shape[0], corner[0]
        window = cv2.resize(img[top:bottom, left:right], None, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR)
        return self._pad(window[skip_y : skip_y + shown[0], skip_x : skip_x + shown[1]], 0)

    @override
    def apply_to_mask(
        self, mask: np.ndarray, size: tuple[int, int], corner: tuple[int, int], **params: object
    ) -> np.ndarray:
        """Return the crop of an (H, W) uint8 mask, 255 where it reaches beyond the mask."""
        shown = self.shown(size)
        (top, rows), (left, columns) = (
            _relative(nearest_positions(corner[axis], shown[axis], mask.shape[axis], size[axis])) for axis in (0, 1)
        )
        window = mask[top : top + rows[-1] + 1, left : left + columns[-1] + 1]
        shrinks = len(rows) < len(window)
        window = window.take(rows, 0) if shrinks else window
        # Rows are copied whole and columns pixel by pixel, so columns are taken as rows of what is transposed.
        window = cv2.transpose(cv2.transpose(window).take(columns, 0))
        return self._pad(window if shrinks else window.take(rows, 0), IGNORE_INDEX)

    def shown(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return how many rows and columns of the crop show the image; the rest is padding."""
        return min(size[0], self.crop_size[0]), min(size[1], self.crop_size[1])

    def _pad(self, crop: np.ndarray, value: int) -> np.ndarray:
        missing = self.crop_size[0] - crop.shape[0], self.crop_size[1] - crop.shape[1]
        if not any(missing):
            return crop
        fill = (value, value, value)
        return cv2.copyMakeBorder(crop, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=fill)


def nearest_positions(start: int, count: int, source: int, target: int) -> np.ndarray:
    """Return the source pixel of each pixel of a crop on one axis, by pixel centres: floor((2x + 1) source / 2 target).

    Args:
        start: First target pixel of the crop.
        count: Target pixels of the crop.
        source: Source pixels of the whole axis.
        target: Target pixels of the whole axis.

    Returns:
        (count,) int64.
    """
    return (2 * np.arange(start, start + count) + 1) * source // (2 * target)


def _relative(positions: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the first of ascending positions, and all of them counted from there."""
    first = int(positions[0])
    return first, positions - first


def bilinear_window(start: int, count: int, source: int, target: int) -> tuple[int, int, int]:
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


class Drawn(NamedTuple):
    """What was drawn for a sample."""

    size: tuple[int, int]
    """(H, W) of the whole resized image."""
    corner: tuple[int, int]
    """First row and column of the crop in it."""
    flip: bool
    """Whether the crop is mirrored left and right."""
    kernel: np.ndarray | None
    """(K,) float64 weights of the blur, the same for rows and columns; None = no blur."""
    jitter: Mapping[str, Any] | None
    """Factors of ``brightness``, ``contrast`` and ``saturation``, and their ``order``; None = no colour changes."""


class TrainTransform:
    """The training augmentation, drawn by albumentations' transforms and applied without what surrounds them.

    What is drawn and what comes out are, to the bit, those of an ``albumentations.Compose`` of ``steps``, without the
    time of its checks and copies.

    Args:
        crop_size: (H, W) of a sample.
        scale_range: Smallest and largest short side in pixels.
        flip: Probability of mirroring left and right.
        blur: Probability of a Gaussian blur with a standard deviation from U(0, 1) pixels.
        color_jitter: Strength of changes of brightness, contrast and saturation, factors from 1 - s to 1 + s; 0 = off.
    """

    def __init__(
        self,
        crop_size: Sequence[int],
        scale_range: Sequence[int] = (512, 2048),
        flip: float = 0.5,
        blur: float = 0.5,
        color_jitter: float = 0.0,
    ) -> None:
        self.crop = RandomScaleCrop(crop_size, scale_range)
        self.flip = A.HorizontalFlip(p=flip)
        self.blur = A.GaussianBlur(blur_limit=0, sigma_limit=(0.0, 1.0), p=blur)  # limit 0: the kernel follows sigma
        jitter = (color_jitter, color_jitter, color_jitter, 0.0)
        self.jitter = A.ColorJitter(*jitter, p=1.0) if color_jitter else None
        self.set_random_state(np.random.default_rng(), random.Random())  # noqa: S311 (augmentation, not cryptography)

    @property
    def steps(self) -> list[A.BasicTransform]:
        """The transforms in their order."""
        return [self.crop, self.flip, self.blur, *([self.jitter] if self.jitter else [])]

    def set_random_state(self, generator: np.random.Generator, shared: random.Random) -> None:
        """Draw from these generators from now on."""
        self._shared = shared
        for step in self.steps:
            step.set_random_state(generator, shared)

    def draw(self, shape: Sequence[int]) -> Drawn:
        """Draw what is done to an image of (H, W) pixels."""
        self._shared.random()  # as Compose does, to decide whether anything is done at all
        placed = self.crop.get_params_dependent_on_data({"shape": shape}, {})
        flip = self.flip.should_apply()
        kernel = self.blur.get_params_dependent_on_data({}, {})["kernel"] if self.blur.should_apply() else None
        jitter = self.jitter.get_params() if self.jitter else None
        return Drawn(placed["size"], placed["corner"], flip, kernel, jitter)

    def __call__(self, *, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Draw and apply.

        Args:
            image: (H, W, 3) uint8.
            mask: (H, W) uint8.

        Returns:
            ``image`` and ``mask`` of the crop's size.
        """
        drawn = self.draw(image.shape[:2])
        image = self.crop.apply(image, drawn.size, drawn.corner)
        mask = self.crop.apply_to_mask(mask, drawn.size, drawn.corner)
        if drawn.flip:
            image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
        if drawn.kernel is not None and len(drawn.kernel) > 1:  # one weight changes nothing and takes as long as seven
            image = cv2.sepFilter2D(image, -1, drawn.kernel, drawn.kernel)
        if self.jitter and drawn.jitter:
            image = self.jitter.apply(image, **drawn.jitter)
        return {"image": image, "mask": mask}
