"""How many pixels of each class label masks hold, and the class weights that follow from it."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

EXACT = 2**24  # OpenCV returns its counts as float32, which is exact up to here

ENET_CONSTANT = 1.02  # the paper's c, which bounds the weights to 1.42-50.5


def count_pixels(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Count a mask's pixels by class.

    Args:
        mask: (H, W) uint8 train ids.
        num_classes: C.

    Returns:
        (C + 1,) int64: pixels of each class, and in the last place those that are ignored.
    """
    counts = np.zeros(256, np.int64)
    rows = max(1, EXACT // max(1, mask.shape[1]))
    for top in range(0, mask.shape[0], rows):  # 5 times as fast as np.bincount, and other threads go on meanwhile
        strip = np.ascontiguousarray(mask[top : top + rows])
        counts += cv2.calcHist([strip], [0], None, [256], [0, 256])[:, 0].astype(np.int64)
    return np.append(counts[:num_classes], counts[num_classes:].sum())


def median_frequency(pixels: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Median frequency balancing.

    ``weight_c = median(freq) / freq_c``, where ``freq_c`` is the number of pixels of class c divided by the number of
    all pixels, ignored ones included, of the images where c occurs. Eigen and Fergus, "Predicting Depth, Surface
    Normals and Semantic Labels with a Common Multi-Scale Convolutional Architecture", ICCV 2015, section 5.3; SegNet
    (Badrinarayanan et al., TPAMI 2017) weighs CamVid's classes by it.

    Args:
        pixels: (N, C) integer, pixels of each class in each image.
        ignored: (N,) integer, the other pixels of each image.

    Returns:
        (C,) float64; 0 for a class that never occurs, which the median leaves out.
    """
    area = pixels.sum(1) + ignored
    occurs = pixels > 0
    frequency = pixels.sum(0) / np.maximum((occurs * area[:, None]).sum(0), 1)
    present = frequency > 0
    weights = np.zeros(pixels.shape[1])
    if present.any():
        weights[present] = np.median(frequency[present]) / frequency[present]
    return weights


def median_frequency_root(pixels: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Square root of ``median_frequency``, which takes the same: between the large differences of these and none."""
    return np.sqrt(median_frequency(pixels, ignored))


def enet(pixels: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """ENet's class weights.

    ``weight_c = 1 / ln(1.02 + p_c)``, where ``p_c`` is the share of class c in all labelled pixels. Paszke et al.,
    "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", arXiv:1606.02147, section 5.2.

    Args:
        pixels: (N, C) integer, pixels of each class in each image.
        ignored: Not used: ignored pixels are in no class.

    Returns:
        (C,) float64; 0 for a class that never occurs.
    """
    total = pixels.sum(0)
    weights = 1 / np.log(ENET_CONSTANT + total / max(total.sum(), 1))
    return np.where(total > 0, weights, 0.0)


class Weighting(NamedTuple):
    """A rule that makes class weights of the labels."""

    weigh: Callable[[np.ndarray, np.ndarray], np.ndarray]
    formula: str
    source: str


WEIGHTINGS: dict[str, Weighting] = {
    "median": Weighting(
        median_frequency,
        "median(freq) / freq_c; freq_c = pixels of c / all pixels of the images where c occurs",
        "median frequency balancing: Eigen and Fergus, ICCV 2015, as in SegNet (Badrinarayanan et al., TPAMI 2017)",
    ),
    "median_sqrt": Weighting(
        median_frequency_root,
        "sqrt(median(freq) / freq_c), freq_c as above",
        "a compromise of our own, without a paper",
    ),
    "enet": Weighting(
        enet, "1 / ln(1.02 + p_c); p_c = share of c in the labelled pixels", "ENet: Paszke et al., arXiv:1606.02147"
    ),
}
"""What ``loss.class_weights`` may be beside a list."""
