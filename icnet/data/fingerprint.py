"""What tells a data set from another one, wherever it lies: its samples by name and size, its classes, its labels."""

import hashlib
from pathlib import Path

import numpy as np

from icnet.data.base import DataSet, SamplePaths
from icnet.data.labels import IGNORE_INDEX
from icnet.run.results import DataFingerprint, SplitFingerprint


def fingerprint(data: DataSet, *, train: str | None, val: str | None) -> DataFingerprint:
    """Take the fingerprint of a data set; no file is opened, so that thousands of samples take a part of a second.

    Args:
        data: The data set; what it draws itself has to be there already.
        train: The split that is trained on, or None.
        val: The split that is validated or evaluated on, or None.

    Returns:
        The same for a copy in another folder, and another one if a sample comes, goes or changes its size.

    Raises:
        UserError: If the data set is not where it should be, or not as it should be.
    """
    names, table = data.classes.names, data.label_table
    return DataFingerprint(
        classes=list(names),
        labels={name: _stored(table, train_id) for train_id, name in enumerate(names)},
        ignored=_stored(table, IGNORE_INDEX),
        colors={
            name: [list(color) for color, stands_for in data.color_table if stands_for == train_id]
            for train_id, name in enumerate(names)
        },
        train=None if train is None else split_fingerprint(data.list_samples(train)),
        val=None if val is None else split_fingerprint(data.list_samples(val)),
    )


def split_fingerprint(samples: list[SamplePaths]) -> SplitFingerprint:
    """Take the fingerprint of the samples of a split, in whatever order they are listed."""
    found = sorted((sample.name, _size(sample.image), _size(sample.mask)) for sample in samples)
    return SplitFingerprint(
        samples=len(found),
        bytes=sum(max(size, 0) for _, *sizes in found for size in sizes),
        names_sha256=_sha256("\n".join(name for name, _, _ in found)),
        sha256=_sha256("\n".join(f"{name}\0{image}\0{mask}" for name, image, mask in found)),
    )


def _size(path: Path | None) -> int:
    """Return a file's size in bytes; -1 where there is none: reading it will say what is wrong."""
    try:
        return -1 if path is None else path.stat().st_size
    except OSError:
        return -1


def _stored(table: np.ndarray, train_id: int) -> str:
    """Return the stored label ids that mean a train id, such as ``7`` or ``0,1,255``."""
    return ",".join(map(str, np.flatnonzero(table == train_id).tolist()))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
