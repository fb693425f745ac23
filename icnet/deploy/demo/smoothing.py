"""Labels of videos over time: how many of them flicker, and an exponential mean that calms them."""

import numpy as np
import torch
from torch import Tensor


class Flicker:
    """Counts the labels that change from each frame of a video to the next."""

    def __init__(self) -> None:
        self._changed = self._compared = 0  # pixels
        self._last: np.ndarray | None = None

    def add(self, labels: np.ndarray) -> None:
        """Compare a frame's labels, (H, W) integers, with those of the frame before."""
        if self._last is not None:
            self._changed += int(np.count_nonzero(labels != self._last))
            self._compared += labels.size
        self._last = labels

    @property
    def share(self) -> float | None:
        """The share of pixels whose label differs from that of the frame before, 0-1; None before a second frame."""
        return self._changed / self._compared if self._compared else None


class ExponentialMean:
    """The mean of a video's class probabilities over time, in which older frames count less and less.

    ``mean(t) = smooth * mean(t - 1) + (1 - smooth) * probabilities(t)``, and ``mean(0) = probabilities(0)``: its values
    are probabilities again.

    Args:
        smooth: The share of what was before, from 0 (nothing) to below 1.
    """

    def __init__(self, smooth: float) -> None:
        self.smooth = smooth
        self._mean: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, probabilities: Tensor) -> Tensor:
        """Add a frame.

        Args:
            probabilities: (C, H, W) floating point.

        Returns:
            The mean up to this frame, of the same shape; it changes with the next frame.
        """
        if self._mean is None:
            self._mean = probabilities.clone()
        else:
            self._mean.lerp_(probabilities, 1 - self.smooth)
        return self._mean
