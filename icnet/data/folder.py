"""A person's own data: a folder of images, a folder of index masks and a list of classes.

::

    root/images/<split>/NAME.png (or .jpg, .jpeg)
    root/masks/<split>/NAME.png        one label id per pixel, 8-bit gray or palette
    root/classes.yaml                  see icnet.data.classes_file; or any file, with data.classes
"""

from functools import cached_property
from pathlib import Path

import numpy as np
from typing_extensions import override

from icnet.data.base import DataSet, SamplePaths, pair_up
from icnet.data.classes_file import ListedClasses, read_classes
from icnet.data.labels import ClassTable, Color
from icnet.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class Folder(DataSet):
    """A person's own data; its samples are named after their files.

    Args:
        root: The folder that holds images/ and masks/.
        classes: The YAML file; None = ``classes.yaml`` in ``root``.
    """

    holds = "images/<split>/, masks/<split>/ and classes.yaml"
    options = ("classes",)
    private_options = ("classes",)
    label_folders = ("masks",)

    def __init__(self, root: str | Path | None = None, classes: str | Path | None = None) -> None:
        super().__init__(root)
        self._file = classes

    @property
    @override
    def classes(self) -> ClassTable:
        return self._classes_and_table[0]

    @property
    @override
    def label_table(self) -> np.ndarray:
        return self._classes_and_table[1]

    @property
    @override
    def color_table(self) -> list[tuple[Color, int]]:
        return self._classes_and_table[2]

    @property
    @override
    def splits(self) -> list[str]:
        return sorted(path.name for path in self.folder().glob("images/*") if path.is_dir())

    @cached_property
    def _classes_and_table(self) -> ListedClasses:
        return read_classes(Path(self._file).expanduser() if self._file else self.folder() / "classes.yaml")

    @override
    def list_samples(self, split: str) -> list[SamplePaths]:
        folder = self.folder()
        if not self.splits:
            raise UserError(
                f"data.root={self.root} holds no images/<split> folder; give the folder that holds {self.holds}"
            )
        self.check_split(split)
        images: dict[str, Path] = {}
        for path in sorted((folder / "images" / split).iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                if path.stem in images:
                    raise UserError(
                        f"{images[path.stem]} and {path.name} share one mask name; rename or remove one of them"
                    )
                images[path.stem] = path
        if not images:
            raise UserError(f"{folder / 'images' / split} holds no image; put {', '.join(IMAGE_SUFFIXES)} files there")
        masks = {path.stem: path for path in (folder / "masks" / split).glob("*.png")}
        return pair_up(images, masks, hint=f"images/{split}/NAME.jpg (or .png) needs masks/{split}/NAME.png")
