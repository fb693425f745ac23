"""The training augmentation on the device (``data.augment_on=device``): workers cut, the device computes.

A worker draws what it would draw otherwise, cuts out of the source what the crop will show, and works out which pixel
goes where: short tables for the crop's rows and columns, in which padding and mirroring are contained. What costs time,
for every pixel of the batch, is left to the device: resampling, blur, colours.

Masks equal those of ``TrainTransform``. Images do so in nearly all values and within 2 grey levels in all, as OpenCV
rounds in other places on some CPUs; colour changes multiply such a difference by their factors.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from icnet.data.labels import IGNORE_INDEX
from icnet.data.transforms import TrainTransform, bilinear_window, nearest_positions

PADDING = -1  # in tables: this row or column of the crop lies beyond the image
WEIGHT_STEPS = 2048  # OpenCV's bilinear weights are multiples of 1 / 2048
GRAY = (0.299, 0.587, 0.114)  # of red, green and blue, as in OpenCV's RGB2GRAY (Rec. 601)


class Axis(NamedTuple):
    """Where the crop's rows, or its columns, come from."""

    table: np.ndarray
    """(3, crop) int64 source rows in the window: the two that a row of the image lies between, and that of the mask."""
    weights: np.ndarray
    """(crop,) float32 share of the second of the two."""


class Window(NamedTuple):
    """A sample before its augmentation: the part of the source that will be seen, and what was drawn."""

    image: np.ndarray
    """(h, w, 3) uint8 RGB; may be part of a mapped file."""
    mask: np.ndarray
    """(h, w) uint8 train ids."""
    rows: Axis
    columns: Axis
    kernel: np.ndarray | None
    """(K,) weights of the blur, K odd; None = no blur."""
    colors: np.ndarray | None
    """(3, 4) float32, see ``Windows.colors``; None = no colour changes."""


class Windows(NamedTuple):
    """The windows of a batch, end to end: crops at different scales show windows of different sizes.

    Padding them to a common size would make the batch as large as its largest window times N, about twice the bytes to
    copy, page-lock and send; a list would take N transfers and N times the operations.
    """

    pixels: Tensor
    """(P, 3) uint8 RGB of all windows, row by row."""
    labels: Tensor
    """(P,) uint8 train ids."""
    rows: Tensor
    """(N, 3, H) int64 numbers of the first pixels of rows; see ``Axis``."""
    row_weights: Tensor
    """(N, H) float32."""
    columns: Tensor
    """(N, 3, W) int64 to be added."""
    column_weights: Tensor
    """(N, W) float32."""
    kernels: Tensor | None
    """(N, K) float32 weights of the blur; None if no sample is blurred."""
    colors: Tensor | None
    """(N, 3, 4) float32 of three changes: factors of the pixel, of its gray value and of the image's mean gray value,
    and what is added before the fraction is cut off; None if colours stay."""


class WindowTransform:
    """Hands over windows instead of crops.

    Args:
        augmentation: Draws what is done to a sample.
    """

    def __init__(self, augmentation: TrainTransform) -> None:
        self.augmentation = augmentation

    def set_random_state(self, generator: np.random.Generator, shared: random.Random) -> None:
        """Draw from these generators from now on."""
        self.augmentation.set_random_state(generator, shared)

    def __call__(self, *, image: np.ndarray, mask: np.ndarray) -> dict[str, Window]:
        """Draw and cut.

        Args:
            image: (H, W, 3) uint8.
            mask: (H, W) uint8.

        Returns:
            ``window``: a ``Window``, whose arrays are views.
        """
        drawn = self.augmentation.draw(image.shape[:2])
        crop = self.augmentation.crop
        (top, bottom, rows), (left, right, columns) = (
            _axis(drawn.corner[axis], shown, image.shape[axis], drawn.size[axis], crop.crop_size[axis])
            for axis, shown in enumerate(crop.shown(drawn.size))
        )
        if drawn.flip:
            columns = Axis(columns.table[:, ::-1], columns.weights[::-1])
        part = slice(top, bottom), slice(left, right)
        colors = None if drawn.jitter is None else _color_changes(drawn.jitter)
        return {"window": Window(image[part], mask[part], rows, columns, drawn.kernel, colors)}


def _axis(start: int, count: int, source: int, target: int, crop: int) -> tuple[int, int, Axis]:
    """Return the first source pixel of a window, one past the last, and where the crop's pixels lie in between.

    The positions are those at which ``cv2.resize`` samples for ``RandomScaleCrop``, down to its float32.

    Args:
        start: First target pixel of the crop.
        count: Target pixels that it shows.
        source: Source pixels of the whole axis.
        target: Target pixels of the whole axis.
        crop: Target pixels of the crop, padding included.
    """
    first, _, skipped = bilinear_window(start, count, source, target)
    position = ((np.arange(skipped, skipped + count) + 0.5) * (source / target) - 0.5).astype(np.float32).clip(0)
    lower = np.floor(position)
    weights = np.zeros(crop, np.float32)
    weights[:count] = np.rint((position - lower) * WEIGHT_STEPS) / WEIGHT_STEPS
    found = np.empty((3, count), np.int64)
    found[0] = (lower.astype(np.int64) + first).clip(max=source - 1)
    found[1] = (found[0] + 1).clip(max=source - 1)
    found[2] = nearest_positions(start, count, source, target)
    begin, end = int(found[:, 0].min()), int(found[:, -1].max()) + 1
    table = np.full((3, crop), PADDING)
    table[:, :count] = found - begin
    return begin, end, Axis(table, weights)


def _color_changes(jitter: Mapping[str, Any]) -> np.ndarray:
    """Return albumentations' ColorJitter as three linear changes; see ``Windows.colors``.

    Brightness and contrast are its tables of 256 values, which cut fractions off; saturation is OpenCV's addWeighted,
    which rounds. Hue, the fourth in its order, stays.
    """
    brightness, contrast, saturation = (jitter[name] for name in ("brightness", "contrast", "saturation"))
    changes = (
        (brightness, 0, 0, 0),
        (contrast, 0, 1 - contrast, 0),
        (saturation, 1 - saturation, 0, 0.5),
    )
    return np.array([changes[kind] for kind in jitter["order"] if kind < len(changes)], np.float32)


def collate_windows(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the windows of a batch end to end; the only copy of their pixels that a worker makes.

    Returns:
        ``windows``: ``Windows``; ``name`` list of str; ``index`` (N,) int64.
    """
    windows: list[Window] = [sample["window"] for sample in samples]
    starts = np.cumsum([0, *(window.mask.size for window in windows)])
    pixels, labels = np.empty((starts[-1], 3), np.uint8), np.empty(starts[-1], np.uint8)
    rows = np.stack([window.rows.table for window in windows])
    for number, (window, start) in enumerate(zip(windows, starts[:-1], strict=True)):
        part = slice(start, start + window.mask.size)
        pixels[part].reshape(window.image.shape)[...] = window.image
        labels[part].reshape(window.mask.shape)[...] = window.mask
        table = rows[number]
        rows[number] = np.where(table == PADDING, PADDING, start + table * window.mask.shape[1])
    colors = [window.colors for window in windows if window.colors is not None]
    gathered = Windows(
        pixels=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels),
        rows=torch.from_numpy(rows),
        row_weights=torch.from_numpy(np.stack([window.rows.weights for window in windows])),
        columns=torch.from_numpy(np.stack([window.columns.table for window in windows])),
        column_weights=torch.from_numpy(np.stack([window.columns.weights for window in windows])),
        kernels=_kernels([window.kernel for window in windows]),
        colors=torch.from_numpy(np.stack(colors)) if colors else None,
    )
    return {"windows": gathered, **default_collate([{key: s[key] for key in ("name", "index")} for s in samples])}


def _kernels(kernels: Sequence[np.ndarray | None]) -> Tensor | None:
    """Return (N, K) weights, those of narrower kernels and of samples without blur filled up with zeros."""
    radius = max(0 if kernel is None else len(kernel) // 2 for kernel in kernels)
    if not radius:
        return None
    filled = np.zeros((len(kernels), 2 * radius + 1), np.float32)
    filled[:, radius] = 1
    for row, kernel in zip(filled, kernels, strict=True):
        if kernel is not None:
            row[radius - len(kernel) // 2 : radius + len(kernel) // 2 + 1] = kernel
    return torch.from_numpy(filled)


def finish(batch: dict[str, Any]) -> dict[str, Any]:
    """Turn a batch of windows into the batch that a training step takes; another batch stays as it is.

    Nothing here waits for the device: shapes depend on shapes alone.

    Args:
        batch: As ``collate_windows`` returns it, on the device.

    Returns:
        ``image`` (N, 3, H, W) uint8 with channels last in memory, ``mask`` (N, H, W) uint8, and the rest.
    """
    if "windows" not in batch:
        return batch
    windows: Windows = batch["windows"]
    image, mask = _resample(windows)
    if windows.kernels is not None:
        image = _blur(image, windows.kernels)
    if windows.colors is not None:
        image = _change_colors(image, windows.colors)
    rest = {key: value for key, value in batch.items() if key != "windows"}
    return {"image": image.to(torch.uint8).permute(0, 3, 1, 2), "mask": mask, **rest}


def _resample(windows: Windows) -> tuple[Tensor, Tensor]:
    """Return (N, H, W, 3) float32 whole numbers and (N, H, W) uint8.

    Bilinear as OpenCV does it for 8 bits: sums along a row are cut off to 1/128 of a grey level, their products with
    the rows' weights to 1/4, and what these come to is rounded.
    """
    above, below, row = windows.rows.clamp(min=0).unbind(1)
    left, right, column = windows.columns.clamp(min=0).unbind(1)
    row_weights = windows.row_weights[:, :, None, None]
    column_weights = windows.column_weights[:, None, :, None]

    def take(source: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        places = rows[:, :, None] + columns[:, None]
        return source.index_select(0, places.flatten()).unflatten(0, places.shape)

    def along_rows(rows: Tensor, weights: Tensor) -> Tensor:
        """Return quarters of grey levels."""
        first, second = (take(windows.pixels, rows, columns).float() for columns in (left, right))
        return first.lerp_(second, column_weights).mul_(128).floor_().mul_(weights / 32).floor_()

    image = along_rows(above, 1 - row_weights).add_(along_rows(below, row_weights)).add_(2).div_(4).floor_()
    mask = take(windows.labels, row, column)
    outside = (windows.rows[:, 2, :, None] == PADDING) | (windows.columns[:, 2, None] == PADDING)
    return image.masked_fill_(outside[..., None], 0), mask.masked_fill_(outside, IGNORE_INDEX)


def _blur(image: Tensor, kernels: Tensor) -> Tensor:
    """Blur (N, H, W, 3) by (N, K) kernels along rows and columns; beyond its border the image is mirrored."""
    radius = kernels.shape[1] // 2
    for axis in (1, 2):
        size = image.shape[axis]
        period = max(2 * (size - 1), 1)  # BORDER_REFLECT_101: 2 1 0 1 2 ... n-1 n-2
        position = torch.arange(-radius, size + radius, device=image.device).abs() % period
        wider = image.index_select(axis, torch.minimum(position, (period - position).clamp(max=size - 1)))
        image = torch.zeros_like(image)
        for number, weights in enumerate(kernels.unbind(1)):
            image.addcmul_(wider.narrow(axis, number, size), weights[:, None, None, None])
    return _rounded(image)


def _change_colors(image: Tensor, colors: Tensor) -> Tensor:
    """Apply (N, 3, 4) changes to (N, H, W, 3), each to what the one before left."""
    for change in colors.unbind(1):
        own, gray_share, mean_share, rounding = change[:, :, None, None, None].unbind(1)
        red, green, blue = image.split(1, -1)
        gray = _rounded(GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue)
        mean = gray.mean((1, 2), keepdim=True)
        image = (own * image + (gray_share * gray + (mean_share * mean + rounding))).clamp(0, 255).floor()
    return image


def _rounded(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)
