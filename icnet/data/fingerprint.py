"""What tells a data set from another one, wherever it lies: its samples by name and size, its classes, its labels."""

import contextlib
import hashlib
from pathlib import Path

import numpy as np

from icnet.data.base import DataSet, SamplePaths
from icnet.data.labels import IGNORE_INDEX
from icnet.data.mask_decoder import MaskDecoder
from icnet.run.results import DataFingerprint, SplitFingerprint

READ = 16
"""How many label files of a split are read: uncompressed ones of other labels may be of the same size."""


def fingerprint(data: DataSet, *, train: str | None, val: str | None, mask_encoding: str = "auto") -> DataFingerprint:
    """Take the fingerprint of a data set; next to no file is opened, so that thousands take a part of a second.

    Args:
        data: The data set; what it draws itself has to be there already.
        train: The split that is trained on, or None.
        val: The split that is validated or evaluated on, or None.
        mask_encoding: How masks hold their classes; with ``auto``, some are looked at. See ``MaskDecoder``.

    Returns:
        The same for a copy in another folder, and another one if a sample comes, goes or changes its size.

    Raises:
        UserError: If the data set is not where it should be, or not as it should be.
    """
    names, table = data.classes.names, data.label_table
    splits = {split: data.list_samples(split) for split in (train, val) if split is not None}
    by_color = any(_holds_colors(data, samples, mask_encoding) for samples in splits.values())
    colors = dict(zip(names, data.classes.palette, strict=True)) if by_color else {}
    return DataFingerprint(
        classes=list(names),
        labels={name: _stored(table, train_id) for train_id, name in enumerate(names)},
        ignored=_stored(table, IGNORE_INDEX),
        colors={name: ",".join(map(str, color)) for name, color in colors.items()} or None,
        train=None if train is None else split_fingerprint(splits[train]),
        val=None if val is None else split_fingerprint(splits[val]),
    )


def _holds_colors(data: DataSet, samples: list[SamplePaths], mask_encoding: str) -> bool:
    decoder = MaskDecoder(data.classes, data.label_table, data.color_table, mask_encoding)
    decoder.look_at([sample.mask for sample in samples if sample.mask is not None])
    return decoder.by_color


def split_fingerprint(samples: list[SamplePaths]) -> SplitFingerprint:
    """Take the fingerprint of the samples of a split, in whatever order they are listed."""
    samples = sorted(samples, key=lambda sample: sample.name)
    found = [(sample.name, _size(sample.image), _size(sample.mask)) for sample in samples]
    masks = [sample.mask for sample in samples if sample.mask is not None]
    count = min(len(masks), READ)
    return SplitFingerprint(
        samples=len(found),
        bytes=sum(max(size, 0) for _, *sizes in found for size in sizes),
        names_sha256=_sha256("\n".join(name for name, _, _ in found)),
        sha256=_sha256("\n".join(f"{name}\0{image}\0{mask}" for name, image, mask in found)),
        labels_sha256=_content([masks[number * len(masks) // count] for number in range(count)]),
    )


def _content(paths: list[Path]) -> str:
    """Return the SHA-256 of what files hold, one after the other; one that cannot be read counts as empty."""
    digest = hashlib.sha256()
    for path in paths:
        with contextlib.suppress(OSError):
            digest.update(path.read_bytes())
        digest.update(b"\0")
    return digest.hexdigest()


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
