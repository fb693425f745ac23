"""From paths of images and label masks to samples: reading, checking, converting label ids, augmenting."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from icnet.data.base import SamplePaths
from icnet.data.images import IN_A_SET, read_image
from icnet.data.labels import IGNORE_INDEX, ClassTable
from icnet.data.masks import read_mask
from icnet.errors import UserError


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Images with train-id masks.

    A sample's randomness is a function of (seed, epoch, index) alone, so neither the number of workers nor a resume
    changes a bit of it. Label ids are checked on the whole mask, before any crop, in training too (about 1 ms).

    Args:
        samples: Where the samples lie.
        classes: The classes that the train ids stand for.
        label_table: (256,) int16, stored label id to train id; 255 = ignored, -1 = may not occur.
        transform: Augmentation, called with ``image`` and ``mask`` and returning both in a dict, drawing from the
            generators that its ``set_random_state`` receives (an ``albumentations.Compose`` does); None = whole images.
        seed: Seed of the augmentation.
        title: How messages and reports call this data set, such as "cityscapes (val)".
    """

    def __init__(
        self,
        samples: Sequence[SamplePaths],
        classes: ClassTable,
        label_table: np.ndarray,
        transform: Callable[..., dict[str, Any]] | None = None,
        seed: int = 0,
        title: str = "data",
    ) -> None:
        train_ids = label_table[(label_table >= 0) & (label_table != IGNORE_INDEX)]
        if label_table.shape != (256,) or (train_ids >= len(classes)).any():
            raise ValueError(f"the label table needs 256 entries, each -1, {IGNORE_INDEX} or below {len(classes)}")
        self.samples = samples
        self.classes = classes
        self.transform = transform
        self.seed = seed
        self.title = title
        self._forbidden = (label_table < 0).astype(np.uint8)
        self._to_train_id = np.where(label_table < 0, IGNORE_INDEX, label_table).astype(np.uint8)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read a sample as it is stored.

        Returns:
            (H, W, 3) uint8 RGB image and (H, W) uint8 stored label ids, or None if there are no labels.

        Raises:
            UserError: A file is missing or damaged, or not a mask.
        """
        sample = self.samples[index]
        return read_image(sample.image, IN_A_SET), None if sample.mask is None else read_mask(sample.mask)

    def read_labels(self, index: int) -> np.ndarray | None:
        """Read the labels of a sample without its image.

        Returns:
            (H, W) uint8 train ids (255 = ignored), or None if there are no labels.

        Raises:
            UserError: The file is missing or damaged, no mask, or holds a label id that may not occur.
        """
        sample = self.samples[index]
        return None if sample.mask is None else self._convert(sample, read_mask(sample.mask))

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return one sample.

        Args:
            key: The index, or (index, epoch); the epoch only matters to the augmentation.

        Returns:
            ``image`` (3, H, W) uint8 RGB, ``mask`` (H, W) uint8 train ids (255 = ignored; everywhere if there are no
            labels), ``name`` and ``index``.

        Raises:
            UserError: A file cannot be used; the message names it.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        image, label_ids = self.load(index)
        if label_ids is None:
            mask = np.full(image.shape[:2], IGNORE_INDEX, np.uint8)
        else:
            mask = self._train_ids(self.samples[index], image, label_ids)
        if self.transform is not None:
            self._seed_transform(index, epoch)
            augmented = self.transform(image=image, mask=mask)
            image, mask = augmented["image"], augmented["mask"]
        return {
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            "mask": torch.from_numpy(np.ascontiguousarray(mask)),
            "name": self.samples[index].name,
            "index": index,
        }

    def _train_ids(self, sample: SamplePaths, image: np.ndarray, label_ids: np.ndarray) -> np.ndarray:
        if label_ids.shape != image.shape[:2]:
            raise UserError(
                f"{sample.image} is {image.shape[1]}x{image.shape[0]} (width x height) but its label mask "
                f"{sample.mask} is {label_ids.shape[1]}x{label_ids.shape[0]}; both need the same size"
            )
        return self._convert(sample, label_ids)

    def _convert(self, sample: SamplePaths, label_ids: np.ndarray) -> np.ndarray:
        if cv2.countNonZero(cv2.LUT(label_ids, self._forbidden)):  # 6 times faster than np.unique or np.bincount
            found = [value for value in np.unique(label_ids).tolist() if self._forbidden[value]]
            allowed = np.flatnonzero(self._forbidden == 0).tolist()
            raise UserError(
                f"label mask {sample.mask} holds label ids {_spans(found)}, but {self.title} allows {_spans(allowed)}; "
                "correct the mask, or the key that says how masks are stored (data.label_kind or data.classes)"
            )
        return cv2.LUT(label_ids, self._to_train_id)

    def _seed_transform(self, index: int, epoch: int) -> None:
        # Not Compose.set_random_seed: it starts every transform from the same number, so that flip, scale and blur
        # would be decided by one and the same draw.
        generator = np.random.default_rng((self.seed, epoch, index))
        shared = random.Random(int(generator.integers(2**63)))  # noqa: S311 (augmentation, not cryptography)
        self.transform.set_random_state(generator, shared)  # type: ignore[union-attr]


def _spans(values: Sequence[int]) -> str:
    """Write sorted integers with their runs folded, such as ``0-10, 255``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
