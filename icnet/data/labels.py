"""Class tables: which classes a data set has, in which colours, and how stored label ids become train ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

Color = tuple[int, int, int]
"""RGB, 0-255."""

IGNORE_INDEX = 255
"""The mask value that no loss and no metric counts, in every data set of this project."""


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set, in train-id order.

    Args:
        names: One name per class; the position is the train id.
        palette: One RGB colour (0-255) per class.
        categories: One coarse category name per class (``category mIoU`` groups by it); empty if there are none.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse tables whose columns differ in length."""
        if len(self.palette) != len(self.names) or (self.categories and len(self.categories) != len(self.names)):
            raise ValueError(
                f"a class table needs one colour (and one or no category) per name: got {len(self.names)} names, "
                f"{len(self.palette)} colours, {len(self.categories)} categories"
            )

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.names)

    def colorize(self, mask: np.ndarray) -> np.ndarray:
        """Paint train ids with the palette; everything outside the table (such as ignore) becomes black.

        Args:
            mask: (H, W) integer train ids.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        if mask.dtype == np.uint8 and mask.size and len(self) <= 256:  # as networks give it: 50 times as fast
            table = np.zeros((256, 1, 3), np.uint8)
            table[: len(self), 0] = self.palette
            return np.asarray(cv2.applyColorMap(mask, table))
        lut = np.zeros((len(self) + 1, 3), np.uint8)
        lut[: len(self)] = self.palette
        return lut[np.where(self.knows(mask), mask.astype(np.intp), len(self))]

    def knows(self, mask: np.ndarray) -> np.ndarray:
        """Tell which pixels hold a train id of the table, as booleans of the mask's shape."""
        return (mask >= 0) & (mask < len(self))


class Label(NamedTuple):
    """One row of the Cityscapes label table."""

    name: str
    label_id: int
    train_id: int  # 255 = not evaluated
    category: str
    color: tuple[int, int, int]


# The 35 labels of Cityscapes as published with cityscapesScripts (helpers/labels.py); a test holds them to the package.
CITYSCAPES_LABELS: tuple[Label, ...] = (
    Label("unlabeled", 0, 255, "void", (0, 0, 0)),
    Label("ego vehicle", 1, 255, "void", (0, 0, 0)),
    Label("rectification border", 2, 255, "void", (0, 0, 0)),
    Label("out of roi", 3, 255, "void", (0, 0, 0)),
    Label("static", 4, 255, "void", (0, 0, 0)),
    Label("dynamic", 5, 255, "void", (111, 74, 0)),
    Label("ground", 6, 255, "void", (81, 0, 81)),
    Label("road", 7, 0, "flat", (128, 64, 128)),
    Label("sidewalk", 8, 1, "flat", (244, 35, 232)),
    Label("parking", 9, 255, "flat", (250, 170, 160)),
    Label("rail track", 10, 255, "flat", (230, 150, 140)),
    Label("building", 11, 2, "construction", (70, 70, 70)),
    Label("wall", 12, 3, "construction", (102, 102, 156)),
    Label("fence", 13, 4, "construction", (190, 153, 153)),
    Label("guard rail", 14, 255, "construction", (180, 165, 180)),
    Label("bridge", 15, 255, "construction", (150, 100, 100)),
    Label("tunnel", 16, 255, "construction", (150, 120, 90)),
    Label("pole", 17, 5, "object", (153, 153, 153)),
    Label("polegroup", 18, 255, "object", (153, 153, 153)),
    Label("traffic light", 19, 6, "object", (250, 170, 30)),
    Label("traffic sign", 20, 7, "object", (220, 220, 0)),
    Label("vegetation", 21, 8, "nature", (107, 142, 35)),
    Label("terrain", 22, 9, "nature", (152, 251, 152)),
    Label("sky", 23, 10, "sky", (70, 130, 180)),
    Label("person", 24, 11, "human", (220, 20, 60)),
    Label("rider", 25, 12, "human", (255, 0, 0)),
    Label("car", 26, 13, "vehicle", (0, 0, 142)),
    Label("truck", 27, 14, "vehicle", (0, 0, 70)),
    Label("bus", 28, 15, "vehicle", (0, 60, 100)),
    Label("caravan", 29, 255, "vehicle", (0, 0, 90)),
    Label("trailer", 30, 255, "vehicle", (0, 0, 110)),
    Label("train", 31, 16, "vehicle", (0, 80, 100)),
    Label("motorcycle", 32, 17, "vehicle", (0, 0, 230)),
    Label("bicycle", 33, 18, "vehicle", (119, 11, 32)),
    Label("license plate", -1, 255, "vehicle", (0, 0, 142)),
)

_EVALUATED = sorted((row for row in CITYSCAPES_LABELS if row.train_id != IGNORE_INDEX), key=lambda row: row.train_id)

CITYSCAPES_CLASSES = ClassTable(
    names=tuple(row.name for row in _EVALUATED),
    palette=tuple(row.color for row in _EVALUATED),
    categories=tuple(row.category for row in _EVALUATED),
)

# The SegNet tutorial's 11 classes and colours; stored masks hold 0-10 and 11 for void.
CAMVID_CLASSES = ClassTable(
    names=(
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip


def train_id_table(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Build the look-up table from stored label ids to train ids.

    Args:
        pairs: (stored id 0-65535, train id or 255) for every id a mask may hold.

    Returns:
        (256,) int16: train ids, 255 for ignored labels, -1 for ids that no mask may hold; (65536,) if there are larger
        ids, which masks of 16 bits hold.
    """
    table = np.full(256 if max((stored for stored, _ in pairs), default=0) < 256 else 65536, -1, np.int16)
    for stored, train_id in pairs:
        table[stored] = train_id
    return table


LABEL_ID_TO_TRAIN_ID = train_id_table([(row.label_id, row.train_id) for row in CITYSCAPES_LABELS if row.label_id >= 0])
"""For ``labelIds`` masks (0-33)."""

TRAIN_ID_TO_LABEL_ID = np.array([row.label_id for row in _EVALUATED], np.uint8)
"""(19,) uint8: what the Cityscapes server expects for each train id."""
