"""A person's own data: images, masks and a list of classes, wherever they lie.

::

    root/images/<split>/NAME.jpg       of any suffix in icnet.data.listing; or where data.images says
    root/masks/<split>/NAME.png        see icnet.data.masks; or where data.masks says
    root/classes.yaml                  see icnet.data.classes_file; or where data.classes says
"""

from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from typing_extensions import override

from icnet.data.base import DataSet, SamplePaths, pair_up
from icnet.data.classes_file import ListedClasses, read_classes
from icnet.data.labels import ClassTable, Color
from icnet.data.listing import IMAGE_SUFFIXES, MASK_SUFFIXES, say_once, tell_left_out
from icnet.data.name_list import NameLists, choose
from icnet.data.patterns import SPLIT, STEM, Found, Pattern
from icnet.errors import UserError

IMAGES = f"images/{SPLIT}/{STEM}"
MASKS = f"masks/{SPLIT}/{STEM}"
CLASSES = "classes.yaml"
READY_CLASSES = Path(__file__).parents[2] / "conf" / "classes"
"""Lists of classes of well-known data sets; ``data.classes`` may be the name of one."""

SKIP = "skip"


class Folder(DataSet):
    """A person's own data; its samples are named after what image and mask share.

    Args:
        root: The folder that everything lies in.
        classes: The YAML file, or the name of one in ``conf/classes``; None = ``classes.yaml`` in ``root``.
        images: Where the images lie, see ``icnet.data.patterns``; None = ``images/{split}/{stem}``.
        masks: Where the masks lie; None = ``masks/{split}/{stem}``.
        lists: Where the list of a split lies, see ``icnet.data.name_list``; None = all of its images count.
        unlabelled: What to do about images without mask: refuse or skip.

    Raises:
        UserError: If a pattern is none, or nothing tells the splits apart.
    """

    options = ("classes", "images", "masks", "lists", "unlabelled")
    private_options = ("classes", "images", "masks", "lists")
    label_folders = ("masks", "labels", "annotations", "SegmentationClass", "LabeledApproved_full", "semantic")

    def __init__(
        self,
        root: str | Path | None = None,
        classes: str | Path | None = None,
        images: str | None = None,
        masks: str | None = None,
        lists: str | None = None,
        unlabelled: str = "refuse",
    ) -> None:
        super().__init__(root)
        self._file = classes
        self.title = str(classes) if classes and _ready_classes(classes) else ""
        self._images = Pattern("data.images", images or IMAGES)
        self._masks = Pattern("data.masks", masks or MASKS, MASK_SUFFIXES)
        self._lists = NameLists(lists) if lists else None
        self._unlabelled = unlabelled
        if not self._lists and not self._images.has_split:
            raise UserError(
                f"data.images={self._images.text} has no {SPLIT}, and data.lists is not given; put {SPLIT} into the "
                f"pattern, or name each split's images in a text file, such as data.lists={SPLIT}.txt"
            )
        texts = [self._images.text, self._masks.text, *([lists] if lists else []), *([] if classes else [CLASSES])]
        self.holds = f"{', '.join(texts[:-1])} and {texts[-1]}"

    @property
    @override
    def classes(self) -> ClassTable:
        return self._classes_and_table[0]

    @property
    @override
    def label_table(self) -> np.ndarray:
        return self._classes_and_table[1]

    @cached_property
    def _classes_and_table(self) -> ListedClasses:
        return read_classes(self._classes_file())

    def _classes_file(self) -> Path:
        if not self._file:
            return self.folder() / CLASSES
        ready = _ready_classes(self._file)
        file = Path(self._file).expanduser()
        if not ready and not file.suffix and not file.is_file():
            known = ", ".join(sorted(path.stem for path in READY_CLASSES.glob("[!.]*.yaml")))
            raise UserError(
                f"data.classes={file} is neither a file nor one of {known}; give a YAML file or one of them"
            )
        return ready or file

    @property
    @override
    def color_table(self) -> list[tuple[Color, int]]:
        return self._classes_and_table[2]

    @property
    @override
    def splits(self) -> list[str]:
        place = self._place()
        return self._lists.splits(place) if self._lists else self._images.splits(place)

    def _place(self) -> Path:
        """Return the folder that the patterns are relative to; any one if none of them is."""
        patterns = (self._images.text, self._masks.text, *([self._lists.text] if self._lists else []))
        absolute = all(Path(text).expanduser().is_absolute() for text in patterns)
        return Path("/") if absolute else self.folder()

    @override
    def list_samples(self, split: str) -> list[SamplePaths]:
        place = self._place()
        images, masks = self._find(place, split)
        if not images:
            self._refuse_split(place, split)
        if not masks:
            raise UserError(f"{self._masks.nothing_found(place, split, 'mask')}; correct data.masks")
        if self._lists:
            stems = choose(self._lists.file(place, split), images, masks)
            images = {stem: images[stem] for stem in stems}
            masks = {stem: masks[stem] for stem in stems if stem in masks}
        self._refuse_strangers(images, masks)
        if self._unlabelled == SKIP:
            images = _labelled(images, masks)
        names = sample_names(images.keys() | masks.keys())
        return pair_up(
            {names[stem]: path for stem, path in images.items()},
            {names[stem]: path for stem, path in masks.items()},
            hint=f"data.images={self._images.text} and data.masks={self._masks.text} have to find the same {STEM}; "
            f"data.unlabelled={SKIP} leaves out images without label",
        )

    def _find(self, place: Path, split: str) -> tuple[dict[str, Path], dict[str, Path]]:
        """Return images and masks by stem, and say in the log what else lies among the images."""
        images, masks = self._images.find(place, split), self._masks.find(place, split)
        both = images.stems.keys() & masks.stems.keys()
        if both and self._images.literal == self._masks.literal:
            raise UserError(
                f"{min(both)} is an image by data.images={self._images.text} and a mask by "
                f"data.masks={self._masks.text}; give patterns that tell them apart"
            )
        if self._masks.literal > self._images.literal:
            images = images.without(both)
        else:
            masks = masks.without(both)
        left = [file for file in images.others if not self._belongs(place, images.folder / file, masks)]
        tell_left_out(images.folder, left, f"data.images={self._images.text}")
        return images.by_stem("image"), masks.by_stem("mask")

    def _belongs(self, place: Path, file: Path, masks: Found) -> bool:
        """Tell whether a file is a part of the data set, though no image."""
        listed = self._lists is not None and self._lists.split_of(place, file) is not None
        return listed or file in masks.stems or file == (Path(self._file) if self._file else place / CLASSES)

    def _refuse_split(self, place: Path, split: str) -> None:
        """Raise the error of a split without images."""
        splits = self.splits
        if splits:
            self.check_split(split)
        raise UserError(
            f"{self._images.nothing_found(place, split, 'image')}; set data.root to the folder that holds "
            f"{self.holds}, or correct data.images; images are {', '.join(IMAGE_SUFFIXES)} files"
        )

    def _refuse_strangers(self, images: Mapping[str, Path], masks: Mapping[str, Path]) -> None:
        """Refuse images and masks of which none belong together: the patterns are wrong then, not the files."""
        if masks and not images.keys() & masks.keys():
            (image, picture), (mask, label) = min(images.items()), min(masks.items())
            raise UserError(
                f"no image has a label: {picture} is {image} by data.images={self._images.text}, and {label} is "
                f"{mask} by data.masks={self._masks.text}; correct the patterns so that both find the same {STEM}"
            )


def _ready_classes(name: str | Path) -> Path | None:
    """Return the list in ``conf/classes`` that a bare name means; None if it is a file's, or none's."""
    ready = READY_CLASSES / f"{name}.yaml"
    return ready if ready.parent == READY_CLASSES and ready.is_file() and not Path(name).is_file() else None


def _labelled(images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, Path]:
    """Return the images that have a mask, and say in the log how many have none."""
    without = sorted(images[stem] for stem in images.keys() - masks.keys())
    if without:
        say_once(
            f"{len(without)} of {len(images)} images have no label and are left out (data.unlabelled={SKIP}), "
            f"the first is {without[0]}"
        )
    return {stem: path for stem, path in images.items() if stem in masks}


def sample_names(stems: Collection[str]) -> dict[str, str]:
    """Return a name for each stem that can be a file's: folders become ``street_1``, and no two are the same."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for stem in sorted(stems):
        name = plain = stem.replace("/", "_")
        number = 2
        while name in taken:
            name, number = f"{plain}_{number}", number + 1
        taken.add(name)
        names[stem] = name
    return names
