"""From paths of images and label masks to samples: reading, checking sizes, augmenting."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from icnet.data.base import SamplePaths
from icnet.data.images import IN_A_SET, read_image
from icnet.data.labels import IGNORE_INDEX, ClassTable, Color
from icnet.data.mask_decoder import MaskDecoder
from icnet.data.packed import Decoded, PackedSamples, SamplesInMemory
from icnet.errors import UserError


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Images with train-id masks.

    A sample's randomness is a function of (seed, epoch, index) alone, so neither the number of workers nor a resume
    changes a bit of it. Label ids are checked on the whole mask, before any crop, in training too (about 1 ms).

    Args:
        samples: Where the samples lie.
        classes: The classes that the train ids stand for.
        label_table: (256,) or (65536,) int16, stored label id to train id; 255 = ignored, -1 = may not occur.
        transform: Augmentation, called with ``image`` and ``mask`` and returning both in a dict, drawing from the
            generators that its ``set_random_state`` receives: ``TrainTransform`` or, where the device augments,
            ``WindowTransform``; None = whole images.
        seed: Seed of the augmentation.
        title: How messages and reports call this data set, such as "cityscapes (val)".
        color_table: Colour and train id, where masks may hold colours; empty if they hold label ids only.
        mask_encoding: How masks hold their classes, see ``icnet.data.mask_decoder``; with ``auto``, some are looked at.
        image_bits: How many bits the values of 16-bit images have; None = 16, see ``icnet.data.images.read_image``.

    Raises:
        UserError: Masks cannot be read, or it cannot be told in which way.
    """

    def __init__(
        self,
        samples: Sequence[SamplePaths],
        classes: ClassTable,
        label_table: np.ndarray,
        transform: Callable[..., dict[str, Any]] | None = None,
        seed: int = 0,
        title: str = "data",
        *,
        color_table: Sequence[tuple[Color, int]] = (),
        mask_encoding: str = "auto",
        image_bits: int | None = None,
    ) -> None:
        train_ids = label_table[(label_table >= 0) & (label_table != IGNORE_INDEX)]
        if label_table.shape not in ((256,), (65536,)) or (train_ids >= len(classes)).any():
            raise ValueError(
                f"the label table needs 256 or 65536 entries, each -1, {IGNORE_INDEX} or below {len(classes)}"
            )
        self.samples = samples
        self.classes = classes
        self.transform = transform
        self.seed = seed
        self.title = title
        self.image_bits = image_bits
        self.cache: PackedSamples | SamplesInMemory | None = None
        """Where samples come from instead of their files, once it is packed."""
        self.coding = repr((label_table.tolist(), list(color_table), mask_encoding, image_bits)).encode()
        """What decoded samples depend on beside their files."""
        self._decode_mask = MaskDecoder(classes, label_table, color_table, mask_encoding, title)
        self._decode_mask.look_at([sample.mask for sample in samples if sample.mask is not None])

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def read_labels(self, index: int) -> np.ndarray | None:
        """Read the labels of a sample without its image.

        Returns:
            (H, W) uint8 train ids (255 = ignored), or None if there are no labels.

        Raises:
            UserError: The file cannot be used; the message names it.
        """
        mask = self.samples[index].mask
        return None if mask is None else self._decode_mask(mask)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read a sample whole, before any augmentation.

        Returns:
            (H, W, 3) uint8 RGB image and (H, W) uint8 train ids, or None if there are no labels.

        Raises:
            UserError: A file cannot be used; the message names it.
        """
        sample = self.samples[index]
        image = read_image(sample.image, IN_A_SET, self.image_bits)
        mask = self.read_labels(index)
        if mask is not None and mask.shape != image.shape[:2]:
            (height, width), (mask_height, mask_width) = image.shape[:2], mask.shape
            turned = (mask_height, mask_width) == (width, height)
            raise UserError(
                f"{sample.image} is {width}x{height} (width x height) but its label mask {sample.mask} is "
                f"{mask_width}x{mask_height}; both need the same size"
                + (": one is turned by 90 degrees, as cameras do with EXIF orientation; save both upright" * turned)
            )
        return image, mask

    def decode(self, index: int) -> Decoded:
        """Return ``load``'s image and labels, all ignored where there are none."""
        image, labels = self.load(index)
        return image, np.full(image.shape[:2], IGNORE_INDEX, np.uint8) if labels is None else labels

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return one sample.

        Args:
            key: The index, or (index, epoch); the epoch only matters to the augmentation.

        Returns:
            ``image`` (3, H, W) uint8 RGB, ``mask`` (H, W) uint8 train ids (255 = ignored; everywhere if there are no
            labels), ``name`` and ``index``; a ``WindowTransform``'s ``window`` instead of image and mask.

        Raises:
            UserError: A file cannot be used; the message names it.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        image, mask = self.decode(index) if self.cache is None else self.cache[index]
        if self.transform is not None:
            self._seed_transform(index, epoch)
            augmented = self.transform(image=image, mask=mask)
            if "window" in augmented:
                return {**augmented, "name": self.samples[index].name, "index": index}
            image, mask = augmented["image"], augmented["mask"]
        if not mask.flags.writeable:
            mask = mask.copy()  # a mapped file; PyTorch wants to own what it is given
        return {
            "image": torch.from_numpy(_planes(image)),
            "mask": torch.from_numpy(np.ascontiguousarray(mask)),
            "name": self.samples[index].name,
            "index": index,
        }

    def _seed_transform(self, index: int, epoch: int) -> None:
        # Not Compose.set_random_seed: it starts every transform from the same number, so that flip, scale and blur
        # would be decided by one and the same draw.
        generator = np.random.default_rng((self.seed, epoch, index))
        shared = random.Random(int(generator.integers(2**63)))  # noqa: S311 (augmentation, not cryptography)
        self.transform.set_random_state(generator, shared)  # type: ignore[union-attr]


def _planes(image: np.ndarray) -> np.ndarray:
    """Return an (H, W, 3) uint8 image as (3, H, W), in a quarter of the time that PyTorch and NumPy need."""
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, list(planes))  # into these arrays, as they fit
    return planes
