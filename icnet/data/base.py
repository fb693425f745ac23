"""What a data set is to everybody else: one object that knows its classes, its labels and its files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from icnet.data.labels import ClassTable, Color
from icnet.errors import UserError


class SamplePaths(NamedTuple):
    """Where one sample lies; ``mask`` is None for images without labels."""

    name: str
    image: Path
    mask: Path | None


class DataSet(ABC):
    """A data set; ``icnet.data.DATASETS`` holds one class for each name that ``data`` may have.

    It is built in every process and often, so ``__init__`` only keeps what it is given; files are looked at when
    classes or samples are asked for.

    Args:
        root: ``data.root``, the folder of the data set, as the user gave it.
        Further arguments: one for each name in ``options``.
    """

    holds: ClassVar[str] = "the data set"
    """What the folder has to hold, for messages: ``images/ and labels/``."""

    options: ClassVar[tuple[str, ...]] = ()
    """Names of further arguments: keys of ``data.options``, or of the three that the configuration knows itself."""

    private_options: ClassVar[tuple[str, ...]] = ()
    """Those of them that are paths and the like; exported files do not tell them."""

    label_folders: ClassVar[tuple[str, ...]] = ()
    """Names of folders below ``root`` whose pictures are labels and no images; ``*`` stands for anything."""

    title: str = ""
    """How logs and reports call it; empty for its name in ``DATASETS``."""

    synthetic: bool = False
    """Whether its pictures are drawn, so that numbers on them are no results; reports mark those."""

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = root

    @property
    @abstractmethod
    def classes(self) -> ClassTable:
        """The classes, in the order of their train ids."""

    @property
    @abstractmethod
    def label_table(self) -> np.ndarray:
        """(256,) or (65536,) int16: stored label id to train id, see ``icnet.data.labels.train_id_table``."""

    @property
    def color_table(self) -> Sequence[tuple[Color, int]]:
        """RGB colour and train id (255 = ignored) of each colour that masks may hold instead of label ids."""
        return [(color, train_id) for train_id, color in enumerate(self.classes.palette)]

    @property
    def splits(self) -> Sequence[str]:
        """The names of its splits."""
        return ("train", "val")

    @abstractmethod
    def list_samples(self, split: str) -> list[SamplePaths]:
        """List the images of a split with their label files.

        Raises:
            UserError: The folder or split is missing or empty, or images and labels do not match.
        """

    def prepare(self) -> None:  # noqa: B027 (most have nothing to do)
        """Make what has to be there, before any process of a group looks for it.

        Called once where one process starts the others. A group that torchrun or SLURM started calls it in each of its
        processes at once, so files have to be written whole or not at all, as ``icnet.run.files`` does.
        """

    def folder(self) -> Path:
        """Return ``root`` as an existing folder.

        Raises:
            UserError: No folder was given, or it does not exist.
        """
        if not self.root:
            raise UserError(f"data.root is not given; set it to the folder that holds {self.holds}, or try data=street")
        folder = Path(self.root).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"data.root={self.root} is not a folder; give the folder that holds {self.holds}, or try data=street"
            )
        return folder

    def check_split(self, split: str) -> None:
        """Refuse names of splits that the data set does not have.

        Raises:
            UserError: ``split`` is not in ``splits``.
        """
        if split not in self.splits:
            raise UserError(
                f"split {split} is unknown; set data.train_split and data.val_split to one of {', '.join(self.splits)}"
            )


def pair_up(
    images: Mapping[str, Path], masks: Mapping[str, Path], *, hint: str, unlabelled: bool = False
) -> list[SamplePaths]:
    """Match images to label masks by name.

    Args:
        images: Name to image file.
        masks: Name to mask file, under the same names.
        hint: What to do about unmatched files; ends the message.
        unlabelled: Whether images may lack a mask.

    Returns:
        One entry per image, sorted by path.

    Raises:
        UserError: There are images without mask, or masks without image.
    """
    for some, others, what, lacks in ((images, masks, "image", "label"), (masks, images, "label", "image")):
        alone = sorted(some[name] for name in some.keys() - others.keys())
        if alone and not (unlabelled and some is images):
            raise UserError(f"{len(alone)} {what} file(s) have no {lacks}, the first is {alone[0]}; {hint}")
    return [SamplePaths(name, path, masks.get(name)) for name, path in sorted(images.items(), key=lambda item: item[1])]
