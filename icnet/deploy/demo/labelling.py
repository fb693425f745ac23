"""From the pictures of an input to their labels and how sure the network is of them."""

from dataclasses import dataclass

import numpy as np
import torch

from icnet.deploy.api import Model
from icnet.deploy.demo.smoothing import ExponentialMean, Flicker


@dataclass(frozen=True)
class Labels:
    """What the network says of a picture.

    Args:
        labels: (H, W) uint8 train ids.
        confidence: (H, W) uint8, the largest probability of each pixel, 255 for 1; None where it was not asked for.
        mean_confidence: Its mean, 0-1, unrounded; None likewise.
    """

    labels: np.ndarray
    confidence: np.ndarray | None = None
    mean_confidence: float | None = None


class Labeller:
    """Labels the pictures of one input in their order.

    Args:
        model: What segments.
        smooth: See ``ExponentialMean``; 0 = off.
        confidence: Whether to tell the largest probabilities too; the smoothed ones', as labels are.
    """

    def __init__(self, model: Model, smooth: float, *, confidence: bool) -> None:
        self.model, self.confidence = model, confidence
        self._mean = ExponentialMean(smooth) if smooth else None
        self.flicker = Flicker()
        """Of the labels as the network gives them."""
        self.smoothed_flicker = Flicker()
        """Of the labels that come out, where they are smoothed."""

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Labels:
        """Label the next picture, (H, W, 3) uint8 RGB."""
        if not self._mean and not self.confidence:
            labels = self.model(image)
            self.flicker.add(labels)
            return Labels(labels)
        if self._mean:
            probabilities = self.model.probabilities(image)
            self.flicker.add(_bytes(probabilities.argmax(0)))
            sure, found = self._mean(probabilities).max(0)
            labels = _bytes(found)
            self.smoothed_flicker.add(labels)
        else:
            sure, found = self.model.confidence(image)
            labels = _bytes(found)
            self.flicker.add(labels)
        if not self.confidence:
            return Labels(labels)
        return Labels(labels, _bytes((255 * sure).round()), sure.double().mean().item())


def _bytes(values: torch.Tensor) -> np.ndarray:
    return values.byte().cpu().numpy()
