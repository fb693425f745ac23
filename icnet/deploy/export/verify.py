"""Proving that an exported file gives the same numbers as the network itself."""

import contextlib
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from icnet.data import DATASETS
from icnet.data.images import read_image
from icnet.data.listing import is_image, walk
from icnet.data.street import draw_scene
from icnet.deploy.runtimes import open_segmenter
from icnet.deploy.runtimes.exported_segmenter import ExportedSegmenter
from icnet.deploy.runtimes.heads import confidence
from icnet.errors import UserError
from icnet.models.modules import ImageNormalizer
from icnet.models.network import SegmentationNetwork


@dataclass(frozen=True)
class Tolerance:
    """How far an exported file may be from the network.

    Args:
        difference: Largest allowed difference of a logit or a probability.
        share: The same as a share of the largest logit, where that is more.
        labels: Share of the labels that have to be the same, 0-1.
    """

    difference: float = 1e-3
    share: float = 0.0
    labels: float = 0.0


FLOAT32 = Tolerance(share=5e-5)  # a few hundred roundings of the largest logit: some networks' are in the thousands

TOLERANCES = {"fp32": FLOAT32, "fp16": Tolerance(share=0.02, labels=0.98), "int8": FLOAT32}
"""By the key of ``PRECISIONS``; in int8 it is the graph in float32 that is compared."""


@dataclass(frozen=True)
class Agreement:
    """How well an exported file and the network agree.

    Args:
        max_difference: Largest absolute difference of two logits; for label maps the most that the logit of the
            exported graph's label falls short of the network's best (0 if all labels agree), and of two probabilities.
        label_agreement: Share of pixels with the same label, 0-1.
        samples: Number of images compared.
    """

    max_difference: float
    label_agreement: float
    samples: int


def open_exported(path: Path) -> ExportedSegmenter:
    """Open a file that a target wrote, on the CPU.

    Raises:
        UserError: If its runtime is missing, or it cannot be opened.
    """
    opened = open_segmenter(path, torch.device("cpu"))
    assert isinstance(opened, ExportedSegmenter)  # noqa: S101 (what a target writes is one)
    return opened


def verify(
    exported: ExportedSegmenter,
    net: SegmentationNetwork,
    normalizer: ImageNormalizer,
    pictures: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int]],
    tolerance: Tolerance = TOLERANCES["fp32"],
) -> Agreement:
    """Compare an exported file with the network in float32, on random noise and on real images.

    Args:
        exported: The file, opened on the CPU.
        net: The network in evaluation mode, as it was before anything was folded.
        normalizer: What turns uint8 images into its input.
        pictures: (h, w, 3) uint8 RGB of any size; resized.
        sizes: The (height, width) to compare at; the first is used for every picture, the others for the first one.
        tolerance: How far it may be from the network.

    Returns:
        The agreement.

    Raises:
        UserError: If a logit or probability differs by more than the tolerance, or a label where its logit is that far
            below the best, or too many labels differ.
    """
    worst, largest, same, pixels, samples = torch.zeros(()), 0.0, 0, 0, 0
    for image in _samples(pictures, sizes, exported.batch or 2):  # open: more than the one traced
        with torch.inference_mode():
            x = normalizer(image)
            expected: Tensor = net(x)
            first, *rest = exported.outputs(image if exported.normalizes else x)
        if exported.head == "logits":
            gap, actual = (expected - first).abs(), first.argmax(1)
        else:
            # A rounding error may swap two classes that score alike, and only those.
            actual = first.long()
            gap = expected.amax(1) - expected.gather(1, actual.unsqueeze(1)).squeeze(1)
        for probability in rest:
            worst = torch.maximum(worst, (probability - confidence(expected)).abs().max())
        worst = torch.maximum(worst, gap.max())  # keeps NaN, unlike Python's max
        largest = max(largest, expected.abs().max().item())
        same += int((expected.argmax(1) == actual).sum())
        pixels += actual.numel()
        samples += len(image)
    allowed = max(tolerance.difference, tolerance.share * largest)
    if not worst.item() <= allowed:  # also refuses NaN
        raise UserError(
            f"the exported graph differs from the network by {worst.item():.2g} on a logit in {exported.runtime}, more "
            f"than {allowed:.2g}, and was not kept; try another export.opset, or check the checkpoint's weights"
        )
    if same < tolerance.labels * pixels:
        raise UserError(
            f"the exported graph gives {100 * same / pixels:.2f} % of the network's labels in {exported.runtime}, less "
            f"than {100 * tolerance.labels:g} %, and was not kept; give export.precision=fp32"
        )
    return Agreement(worst.item(), same / pixels, samples)


def sample_images(given: str | None, root: str | None, count: int = 2) -> list[np.ndarray]:
    """Find real images to verify an export on.

    Args:
        given: A file, folder or glob chosen by the user.
        root: The folder of the data set that the checkpoint was trained on.
        count: How many to return at most.

    Returns:
        (h, w, 3) uint8 RGB each: from ``given``, or else from ``root`` if it exists, or else synthetic street scenes.

    Raises:
        UserError: If ``given`` yields nothing, or something unreadable.
    """
    if given is not None:
        place = Path(given).expanduser()
        paths = sorted(_pictures(place) if place.is_dir() else map(Path, glob.glob(str(place), recursive=True)))
        if not paths:
            raise UserError(f"export.images={given} matches no image; give a file, a folder or a quoted glob of images")
        return [read_image(path) for path in paths[:count]]
    found: list[np.ndarray] = []
    if root is not None and Path(root).is_dir():
        for path in _pictures(Path(root)):
            with contextlib.suppress(UserError):  # nobody named this file: the next will do
                found.append(read_image(path))
            if len(found) == count:
                break
    return found or [draw_scene(seed, 512, 1024)[0] for seed in range(count)]


def _samples(pictures: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], batch: int) -> Iterator[Tensor]:
    """Yield (batch, 3, H, W) uint8: noise and every picture at the first size, noise and one picture at the others."""
    for i, (height, width) in enumerate(sizes):
        generator = torch.Generator().manual_seed(i)
        noise = torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
        yield noise
        for picture in pictures if i == 0 else pictures[:1]:
            resized = cv2.resize(picture, (width, height))
            # The rest of a batch stays noise: an export that mixes up its images would show.
            yield torch.cat([torch.from_numpy(resized).permute(2, 0, 1)[None], noise[1:]]).contiguous()


def _pictures(folder: Path) -> Iterator[Path]:
    """Yield the image files below a folder, not the ground truth of the data sets' layouts."""
    labels = {pattern for data_set in DATASETS.values() for pattern in data_set.label_folders}
    for file in walk(folder):
        *folders, _ = file.split("/")
        if is_image(file) and not any(fnmatch(name, pattern) for name in folders for pattern in labels):
            yield folder / file
