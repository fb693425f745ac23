"""From images to class scores: several scales, mirroring and sliding windows."""

from collections.abc import Callable, Iterator, Sequence
from math import inf
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from icnet.deploy.runtimes.segmenter import Segmenter, likeliest
from icnet.errors import UserError
from icnet.models.network import allowed_side, describe_sides
from icnet.models.sizes import fitted, resized, with_short_side


class Inference:
    """Segments images at several scales, mirrored, and window by window, and averages the class probabilities.

    With the defaults the logits come back untouched: same labels, one softmax less. Images with a side that the network
    does not take are enlarged for it and the scores shrunk back.

    Args:
        scales: Factors on the image's size; a factor that would leave a side too short is raised.
        flip: Whether every scale also sees the mirrored image.
        sliding_window: (height, width) of windows that overlap by at least a third of their size and are spread
            evenly from border to border; None for the whole image at once. A window larger than the image shrinks to
            it.
        short_side: Pixels that the image's shorter side is brought to first; None for its own. The scores come back
            at the image's size.
        prefix: What messages put before the arguments' names: the group of the configuration that they are from.

    Raises:
        UserError: If a scale or the side is no positive number, or a window is no size.
    """

    def __init__(
        self, scales: Sequence[float] = (1.0,), flip: bool = False, sliding_window: Sequence[int] | None = None,
        short_side: int | None = None, *, prefix: str = "eval.",
    ) -> None:  # fmt: skip
        if not _are_numbers(scales, Real):
            raise UserError(
                f"{prefix}scales={_shown(scales)} is out of range; give factors above 0, such as [0.75,1.0]"
            )
        if sliding_window is not None and not (_are_numbers(sliding_window, Integral) and len(sliding_window) == 2):
            raise UserError(f"{prefix}sliding_window={_shown(sliding_window)} is no window; give [height,width]")
        if short_side is not None and not _are_numbers([short_side], Integral):
            raise UserError(
                f"{prefix}short_side={_shown(short_side)} is out of range; give a number of pixels, or null"
            )
        self.prefix = prefix
        self.scales = tuple(scales)
        self.flip = flip
        self.short_side = short_side
        self.window = None if sliding_window is None else (sliding_window[0], sliding_window[1])

    @property
    def averages(self) -> bool:
        """Whether the scores are probabilities; logits otherwise."""
        return self.scales != (1.0,) or self.flip or self.window is not None

    def __call__(self, segment: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """Segment a batch.

        Args:
            segment: (N, 3, h, w) uint8 to (N, C, h, w) logits, such as a ``Segmenter``; it may say which sides it takes
                by ``min_side`` and ``divisor``.
            image: (N, 3, H, W) uint8 RGB.

        Returns:
            (N, C, H, W) scores whose largest one tells the class: probabilities, or with the defaults logits.

        Raises:
            UserError: If the windows are no size that ``segment`` takes.
        """
        size = (image.shape[2], image.shape[3])
        if self.window is not None and any(side != allowed_side(side, *_sides(segment)) for side in self.window):
            raise UserError(
                f"{self.prefix}sliding_window={list(self.window)} is no window; "
                f"give [height,width] of {describe_sides(*_sides(segment), ' each')}"
            )
        if self.short_side is not None:
            image = with_short_side(image, self.short_side)
        if not self.averages:
            return resized(segment(fitted(image, *_sides(segment))), size)
        return _mean(self._views(segment, image, size))

    def labels(self, segmenter: Segmenter, image: Tensor) -> Tensor:
        """Label a batch: the largest scores of a call, without these where the runtime needs none.

        Args:
            segmenter: What segments.
            image: (N, 3, H, W) uint8 RGB.

        Returns:
            (N, H, W) uint8 labels.

        Raises:
            UserError: As a call.
        """
        fits = tuple(image.shape[2:]) == fitted(image[:1], *_sides(segmenter)).shape[2:]
        if fits and not self.averages and self.short_side is None:
            return segmenter.labels(image)
        return likeliest(self(segmenter, image))

    def _views(self, segment: Callable[[Tensor], Tensor], image: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
        """Yield the class probabilities that every scale and direction gives for the image, at its size."""
        for scale in self.scales:
            scaled = fitted(image, *_sides(segment), scale)
            yield resized(self._windows(segment, scaled), size)
            if self.flip:
                yield resized(self._windows(segment, scaled.flip(3)).flip(3), size)

    def _windows(self, segment: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """Return the class probabilities of (N, 3, H, W), the mean of all windows that see a pixel."""
        height, width = image.shape[2], image.shape[3]
        if self.window is None or (height <= self.window[0] and width <= self.window[1]):
            return segment(image).float().softmax(1)
        windows = [(rows, cols) for rows in _spans(height, self.window[0]) for cols in _spans(width, self.window[1])]
        seen = torch.zeros(1, 1, height, width, device=image.device)
        for i, (rows, cols) in enumerate(windows):
            scores = segment(image[:, :, rows, cols]).float().softmax(1)
            if i == 0:
                total = scores.new_zeros(len(image), scores.shape[1], height, width)
            total[:, :, rows, cols] += scores
            seen[:, :, rows, cols] += 1
        return total / seen


def _are_numbers(values: Any, kind: Any) -> bool:
    """Tell whether it is a list or tuple of positive, finite numbers of a kind, at least one."""
    return (
        isinstance(values, (list, tuple))
        and bool(values)
        and all(isinstance(value, kind) and not isinstance(value, bool) and 0 < value < inf for value in values)
    )


def _shown(value: object) -> str:
    """Write a value in one line of a bearable length."""
    return " ".join(str(list(value) if isinstance(value, tuple) else value).split())[:80]


def _mean(parts: Iterator[Tensor]) -> Tensor:
    total, count = next(parts), 1
    for part in parts:  # one at a time: a full-size one takes 160 MB
        total, count = total + part, count + 1
    return total / count


def _spans(size: int, window: int) -> Iterator[slice]:
    """Place windows of one length evenly over a side, border to border, a third or more shared between neighbours."""
    window = min(window, size)
    step = max(window - (window + 2) // 3, 1)  # the overlap rounded up
    count = -(-(size - window) // step) + 1
    for i in range(count):
        start = round(i * (size - window) / max(count - 1, 1))
        yield slice(start, start + window)


def _sides(segment: object) -> tuple[int, int]:
    """Return the shortest side that ``segment`` takes, and what its sides are multiples of."""
    return int(getattr(segment, "min_side", 1)), int(getattr(segment, "divisor", 1))
