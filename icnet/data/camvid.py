"""CamVid in the layout of the SegNet tutorial: ``root/<split>/*.png`` beside ``root/<split>annot/*.png``."""

from pathlib import Path

import numpy as np

from icnet.data.dataset import SamplePaths, check_root, check_split, pair_up
from icnet.data.labels import CAMVID_CLASSES, IGNORE_INDEX, train_id_table
from icnet.errors import UserError

HOLDS = "train/, trainannot/, val/ and valannot/"
SPLITS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}

VOID = len(CAMVID_CLASSES)  # 11
LABEL_TABLE: np.ndarray = train_id_table([(class_id, class_id) for class_id in range(VOID)] + [(VOID, IGNORE_INDEX)])
"""(256,) int16 stored id to train id."""


def list_samples(root: str | Path | None, split: str) -> list[SamplePaths]:
    """List the images of a split with their label files.

    Args:
        root: The folder that holds the folders of the splits.
        split: train, val, trainval or test.

    Returns:
        Samples sorted by path, named after their files.

    Raises:
        UserError: The folder or split is missing or empty, or images and labels do not match.
    """
    folder = check_root(root, HOLDS)
    check_split(split, tuple(SPLITS))
    samples = []
    for part in SPLITS[split]:
        images = {path.stem: path for path in (folder / part).glob("*.png")}
        if not images:
            raise UserError(f"data.root={root} holds no {part}/*.png; give the folder that holds {HOLDS}")
        masks = {path.stem: path for path in (folder / f"{part}annot").glob("*.png")}
        samples += pair_up(images, masks, hint=f"{part}/ and {part}annot/ need the same file names")
    return samples
