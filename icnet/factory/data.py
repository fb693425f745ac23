"""From configuration to data."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from icnet.config import DataConfig
from icnet.data import camvid, cityscapes, folder, street
from icnet.data.datamodule import SegmentationDataModule
from icnet.data.dataset import SamplePaths, SegmentationDataset
from icnet.data.labels import CAMVID_CLASSES, CITYSCAPES_CLASSES, ClassTable
from icnet.data.transforms import train_transform
from icnet.errors import UserError


def data_title(data: DataConfig) -> str:
    """Return how tables and logs call the data set; synthetic data is marked, also where it is read as Cityscapes."""
    root = data.root or os.environ.get(cityscapes.ROOT_VARIABLE)
    drawn = data.name == "cityscapes" and root is not None and street.is_synthetic(Path(root))
    return street.NAME if data.name == "street" or drawn else data.name


def prepare_data(data: DataConfig) -> None:
    """Draw the street scenes if they are asked for and not there; several processes may do so at a time."""
    if data.name == "street":
        scenes = {"train": data.street.train, "val": data.street.val}
        street.generate(_street_root(data), scenes, data.street.height, data.street.width, data.street.seed)


def _street_root(data: DataConfig) -> Path:
    if not data.root:
        raise UserError("data.root is empty; give the folder where the street scenes are, or are to be, drawn")
    return Path(data.root)


def _classes_and_table(data: DataConfig) -> tuple[ClassTable, np.ndarray]:
    if data.name == "camvid":
        return CAMVID_CLASSES, camvid.LABEL_TABLE
    if data.name == "folder":
        return folder.load_classes(data.root, data.classes)
    kind = "labelIds" if data.name == "street" else data.label_kind
    return CITYSCAPES_CLASSES, cityscapes.LABEL_TABLES[kind]


def _samples(data: DataConfig, split: str) -> list[SamplePaths]:
    if data.name == "camvid":
        return camvid.list_samples(data.root, split)
    if data.name == "folder":
        return folder.list_samples(data.root, split)
    if data.name == "street":
        return cityscapes.list_samples(_street_root(data), split)
    return cityscapes.list_samples(cityscapes.resolve_root(data.root), split, data.label_kind)


def batches_per_epoch(samples: int, batch_size: int, limit: float | int | None) -> int:
    """Return how many whole batches of training an epoch has.

    Args:
        samples: In the training set.
        batch_size: Over all devices.
        limit: As Lightning takes ``limit_train_batches``: a share if float, a count if int; None for all.
    """
    batches = samples // batch_size
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def data_module(data: DataConfig, seed: int, *, batch_size: int | None = None) -> SegmentationDataModule:
    """Build the data module.

    Args:
        data: Which data and how.
        seed: Of order and augmentation.
        batch_size: Training samples per device; None leaves the training split out.

    Raises:
        UserError: If the data set is not where it should be, or not as it should be.
    """
    classes, table = _classes_and_table(data)

    def dataset(
        split: str, transform: Callable[..., dict[str, Any]] | None, first: int | None = None
    ) -> SegmentationDataset:
        title = f"{data_title(data)}, {split}"
        return SegmentationDataset(_samples(data, split)[:first], classes, table, transform, seed=seed, title=title)

    height, width = data.crop_size
    smallest, largest = data.scale_range
    augmentation = train_transform((height, width), (smallest, largest), data.flip, data.blur, data.color_jitter)
    return SegmentationDataModule(
        dataset(data.train_split, augmentation, data.train_samples) if batch_size else None,
        dataset(data.val_split, None),
        batch_size=batch_size or 1,
        eval_batch_size=data.eval_batch_size,
        workers=data.workers,
        pin_memory=data.pin_memory,
        persistent_workers=data.persistent_workers,
        prefetch_factor=data.prefetch_factor,
        seed=seed,
    )
