"""Cityscapes in its official layout.

::

    root/leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    root/gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_<label kind>.png
"""

import os
from pathlib import Path

import numpy as np

from icnet.data.dataset import SamplePaths, check_root, check_split, pair_up
from icnet.data.labels import CITYSCAPES_CLASSES, IGNORE_INDEX, LABEL_ID_TO_TRAIN_ID, train_id_table
from icnet.errors import UserError

ROOT_VARIABLE = "CITYSCAPES_DATASET"  # the convention of cityscapesScripts
HOLDS = "leftImg8bit/ and gtFine/"
SPLITS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}

LABEL_TABLES: dict[str, np.ndarray] = {
    "labelIds": LABEL_ID_TO_TRAIN_ID,
    # Train id -1 (license plate) is stored as 255 too.
    "labelTrainIds": train_id_table(
        [(train_id, train_id) for train_id in range(len(CITYSCAPES_CLASSES))] + [(IGNORE_INDEX, IGNORE_INDEX)]
    ),
}
"""(256,) int16 stored id to train id, by kind of label file."""


def resolve_root(root: str | None) -> Path:
    """Find the data set: ``data.root`` or else the environment variable CITYSCAPES_DATASET.

    Raises:
        UserError: Neither is set, or the folder is not there or not in the official layout.
    """
    origin = "data.root" if root else f"the environment variable {ROOT_VARIABLE}"
    given = root or os.environ.get(ROOT_VARIABLE)
    fix = f"set data.root or {ROOT_VARIABLE} to the folder that holds {HOLDS}, or try data=street, which needs no files"
    if not given:
        raise UserError(f"neither data.root nor the environment variable {ROOT_VARIABLE} is set; {fix}")
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise UserError(f"{origin} is {given}, which is not a folder; {fix}")
    if not (folder / "leftImg8bit").is_dir():
        raise UserError(f"{origin} is {given}, which holds no leftImg8bit folder; {fix}")
    return folder


def list_samples(root: Path, split: str, label_kind: str = "labelIds") -> list[SamplePaths]:
    """List the images of a split with their label files.

    Args:
        root: The folder that holds leftImg8bit/ and gtFine/.
        split: train, val, trainval or test; the images of test may lack labels.
        label_kind: labelIds or labelTrainIds.

    Returns:
        Samples sorted by path, named such as ``frankfurt_000000_000294``.

    Raises:
        UserError: The split is unknown or empty, or images and labels do not match.
    """
    check_split(split, tuple(SPLITS))
    check_root(root, HOLDS)
    return [sample for part in SPLITS[split] for sample in _list_part(root, part, label_kind)]


def _list_part(root: Path, split: str, label_kind: str) -> list[SamplePaths]:
    images = _by_name(root / "leftImg8bit" / split, "_leftImg8bit.png")
    if not images:
        raise UserError(
            f"data.root={root} holds no leftImg8bit/{split}/<city>/*_leftImg8bit.png; set data.root or {ROOT_VARIABLE} "
            f"to the folder that holds {HOLDS}, or try data=street, which needs no files"
        )
    masks = _by_name(root / "gtFine" / split, f"_gtFine_{label_kind}.png")
    hint = f"each leftImg8bit file needs its gtFine {label_kind} file: unpack both official archives into {root}"
    if label_kind == "labelTrainIds":
        hint += ", make the files with csCreateTrainIdLabelImgs, or use data.label_kind=labelIds"
    return pair_up(images, masks, hint=hint, unlabelled=split == "test")


def _by_name(folder: Path, suffix: str) -> dict[str, Path]:
    return {path.name.removesuffix(suffix): path for path in folder.glob(f"*/*{suffix}")}
