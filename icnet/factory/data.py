"""From configuration to data."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from icnet.config import DataConfig
from icnet.data import DataSet, find_data_set
from icnet.data.datamodule import SegmentationDataModule
from icnet.data.dataset import SegmentationDataset
from icnet.data.device_augmentation import WindowTransform
from icnet.data.fingerprint import fingerprint
from icnet.data.packed import PackedSamples, SamplesInMemory
from icnet.data.transforms import TrainTransform
from icnet.errors import UserError
from icnet.run.results import DataFingerprint

CONFIGURED = ("label_kind", "classes", "images", "masks", "lists", "unlabelled", "street")
"""Options of data sets that have a key of their own; those of others are in ``data.options``."""

PACKED = "data/packed"
"""Folder of packed samples, unless ``data.cache_folder`` names another."""


def data_set(data: DataConfig) -> DataSet:
    """Return the data set that is asked for; nothing of it is read yet.

    Raises:
        UserError: If there is none of that name, or it does not have an option that is given.
    """
    kind = find_data_set(data.name)
    known = [option for option in kind.options if option not in CONFIGURED]
    strange = next((option for option in data.options if option not in known), None)
    if strange is not None:
        fix = f"known are {', '.join(known)}" if known else "it has none"
        raise UserError(f"data.options.{strange} is no option of data={data.name}; {fix}")
    given = asdict(data)
    defaults = {field.name: field.default for field in fields(DataConfig)}
    for option in CONFIGURED:
        if option not in kind.options and option != "street" and given[option] != defaults[option]:
            raise UserError(
                f"data.{option}={given[option]} means nothing to data={data.name}; leave it out, or choose other data"
            )
    own = {option: given[option] for option in CONFIGURED if option in kind.options}
    return kind(data.root, **own, **given["options"])


def data_title(data: DataConfig) -> str:
    """Return how tables and logs call the data set; synthetic data is marked, also where it is read as Cityscapes."""
    return data_set(data).title or data.name


def prepare_data(data: DataConfig) -> None:
    """Make what has to be made of the data, before any process looks for it.

    Called where processes are started from, once; in a group that torchrun or SLURM started, by each of its processes.
    """
    data_set(data).prepare()


def data_fingerprint(data: DataConfig, *, training: bool = True) -> DataFingerprint:
    """Return what tells the data from others; they have to be prepared.

    Args:
        data: Which data.
        training: Whether the training split counts; an evaluation has none.

    Raises:
        UserError: If the data set is not where it should be, or not as it should be.
    """
    train = data.train_split if training else None
    return fingerprint(data_set(data), train=train, val=data.val_split, mask_encoding=data.mask_encoding)


def recorded_fingerprint(data: DataConfig) -> DataFingerprint | None:
    """Return what tells a training's data from others in the process that records it; None in the others."""
    return data_fingerprint(data) if getattr(rank_zero_only, "rank", 0) == 0 else None


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
    source = data_set(data)
    # Before the samples: a bad list of classes is said first.
    classes, table, colors = source.classes, source.label_table, source.color_table

    def dataset(
        split: str, transform: Callable[..., dict[str, Any]] | None, first: int | None = None
    ) -> SegmentationDataset:
        title = f"{source.title or data.name}, {split}"
        made = SegmentationDataset(
            source.list_samples(split)[:first],
            classes,
            table,
            transform,
            seed=seed,
            title=title,
            color_table=colors,
            mask_encoding=data.mask_encoding,
            image_bits=data.image_bits,
        )
        made.cache = _cache(data, source.root, split, made)
        return made

    height, width = data.crop_size
    smallest, largest = data.scale_range
    augmentation = TrainTransform((height, width), (smallest, largest), data.flip, data.blur, data.color_jitter)
    transform = WindowTransform(augmentation) if data.augment_on == "device" else augmentation
    return SegmentationDataModule(
        dataset(data.train_split, transform, data.train_samples) if batch_size else None,
        dataset(data.val_split, None),
        batch_size=batch_size or 1,
        eval_batch_size=data.eval_batch_size,
        workers=data.workers,
        pin_memory=data.pin_memory,
        persistent_workers=data.persistent_workers,
        prefetch_factor=data.prefetch_factor,
        seed=seed,
    )


def _cache(
    data: DataConfig, root: str | Path | None, split: str, dataset: SegmentationDataset
) -> PackedSamples | SamplesInMemory | None:
    """Build what keeps decoded samples; ``root`` is where they lie, whoever told the data set."""
    if data.cache == "memory":
        return SamplesInMemory(dataset.samples, dataset.decode, dataset.title)
    if data.cache == "packed":
        # Other files and other labels must not replace these: another run may be reading them.
        given = str(Path(root).expanduser()) if root else ""
        places = repr(
            (str(Path(given).resolve()), data.images, data.masks, data.label_kind, asdict(data.street), data.options)
        )
        key = hashlib.sha256(places.encode("utf-8", "surrogateescape") + dataset.coding).hexdigest()[:8]
        folder = Path(data.cache_folder or PACKED).expanduser() / f"{data.name}_{key}" / split
        return PackedSamples(folder, dataset.samples, dataset.decode, dataset.coding, dataset.title, given)
    return None
