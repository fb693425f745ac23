"""Cityscapes in its official layout.

::

    root/leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    root/gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_<label kind>.png
"""

import os
from pathlib import Path

import numpy as np
from typing_extensions import override

from icnet.data import street
from icnet.data.base import DataSet, SamplePaths, pair_up
from icnet.data.labels import CITYSCAPES_CLASSES, IGNORE_INDEX, LABEL_ID_TO_TRAIN_ID, train_id_table
from icnet.data.listing import tell_left_out
from icnet.data.patterns import Pattern
from icnet.errors import UserError

ROOT_VARIABLE = "CITYSCAPES_DATASET"  # the convention of cityscapesScripts
SPLITS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}

LABEL_TABLES: dict[str, np.ndarray] = {
    "labelIds": LABEL_ID_TO_TRAIN_ID,
    # Train id -1 (license plate) is stored as 255 too.
    "labelTrainIds": train_id_table(
        [(train_id, train_id) for train_id in range(len(CITYSCAPES_CLASSES))] + [(IGNORE_INDEX, IGNORE_INDEX)]
    ),
}
"""(256,) int16 stored id to train id, by kind of label file."""

IMAGES = Pattern("images", "leftImg8bit/{split}/**/{stem}_leftImg8bit")
MASKS = {kind: Pattern("labels", f"gtFine/{{split}}/**/{{stem}}_gtFine_{kind}") for kind in LABEL_TABLES}


class Cityscapes(DataSet):
    """Cityscapes; its samples are named such as ``frankfurt_000000_000294``, those of test may lack labels.

    Args:
        root: The folder that holds leftImg8bit/ and gtFine/; None for what the environment variable
            CITYSCAPES_DATASET says. Drawn street scenes in it give the data set their title.
        label_kind: labelIds or labelTrainIds.
    """

    holds = "leftImg8bit/ and gtFine/"
    options = ("label_kind",)
    label_folders = ("gtFine", "gtCoarse")
    splits = tuple(SPLITS)
    classes = CITYSCAPES_CLASSES

    def __init__(self, root: str | Path | None = None, label_kind: str = "labelIds") -> None:
        super().__init__(root or os.environ.get(ROOT_VARIABLE))
        self.label_kind = label_kind
        self._origin = "data.root" if root else f"the environment variable {ROOT_VARIABLE}"
        if self.root and street.is_synthetic(Path(self.root)):
            self.title = street.NAME
            self.synthetic = True

    @property
    @override
    def label_table(self) -> np.ndarray:
        return LABEL_TABLES[self.label_kind]

    @override
    def folder(self) -> Path:
        fix = (
            f"set data.root or {ROOT_VARIABLE} to the folder that holds {self.holds}, "
            "or try data=street, which needs no files"
        )
        if not self.root:
            raise UserError(f"neither data.root nor the environment variable {ROOT_VARIABLE} is set; {fix}")
        folder = Path(self.root).expanduser()
        if not folder.is_dir():
            raise UserError(f"{self._origin} is {self.root}, which is not a folder; {fix}")
        if not (folder / "leftImg8bit").is_dir():
            raise UserError(f"{self._origin} is {self.root}, which holds no leftImg8bit folder; {fix}")
        return folder

    @override
    def list_samples(self, split: str) -> list[SamplePaths]:
        folder = self.folder()
        self.check_split(split)
        return [sample for part in SPLITS[split] for sample in self._list_part(folder, part)]

    def _list_part(self, folder: Path, split: str) -> list[SamplePaths]:
        found = IMAGES.find(folder, split)
        if not found.stems:
            raise UserError(
                f"data.root={folder} holds no leftImg8bit/{split}/<city>/*_leftImg8bit.png; set data.root or "
                f"{ROOT_VARIABLE} to the folder that holds {self.holds}, or try data=street, which needs no files"
            )
        tell_left_out(found.folder, found.others, "<city>/*_leftImg8bit.png")
        masks = MASKS[self.label_kind].find(folder, split).by_stem("label")
        hint = f"each leftImg8bit file needs its gtFine {self.label_kind} file: unpack both official archives into "
        hint += str(folder)
        if self.label_kind == "labelTrainIds":
            hint += ", make the files with csCreateTrainIdLabelImgs, or use data.label_kind=labelIds"
        return pair_up(found.by_stem("image"), masks, hint=hint, unlabelled=split == "test")
