"""Drawn street scenes as a data set of their own: like Cityscapes, but it makes its files."""

from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

from icnet.data.cityscapes import Cityscapes
from icnet.data.street.writer import NAME, VERSION, describes, generate, holds_scenes
from icnet.errors import UserError

DEFAULT_ROOT = Path("data/street")
"""Where scenes are drawn unless ``data.root`` says else: those with other numbers in folders beside it."""

DEFAULT_SCENES = {"train": 96, "val": 24, "height": 256, "width": 512, "seed": 1}
"""The numbers of the scenes in ``DEFAULT_ROOT`` itself, those of conf/data/street.yaml; a test compares them."""


class Street(Cityscapes):
    """The scenes of ``data=street``; numbers on them are no results.

    Args:
        root: The folder where they are, or are to be, drawn.
        street: Numbers of scenes ``train`` and ``val``, their ``height`` and ``width`` in pixels, and a ``seed``.
    """

    options = ("street",)
    title = NAME
    synthetic = True

    def __init__(self, root: str | Path | None, street: Mapping[str, int]) -> None:
        super().__init__(root)
        self.root = root  # whatever the environment says of Cityscapes
        self.street = street

    @override
    def prepare(self) -> None:
        wanted = self.street
        generate(self._place(), self._scenes(), wanted["height"], wanted["width"], wanted["seed"])

    @override
    def folder(self) -> Path:
        return Cityscapes(self._place()).folder()

    def _scenes(self) -> dict[str, int]:
        return {split: self.street[split] for split in ("train", "val")}

    def _place(self) -> Path:
        """Return the folder of these scenes; every other set of numbers has another one."""
        if not self.root:
            raise UserError("data.root is empty; give the folder where the street scenes are, or are to be, drawn")
        root, numbers = Path(self.root), self.street
        if root != DEFAULT_ROOT or describes(
            root, self._scenes(), numbers["height"], numbers["width"], numbers["seed"]
        ):
            return root
        if dict(numbers) == DEFAULT_SCENES and not holds_scenes(root):
            return root
        size = f"{numbers['height']}x{numbers['width']}"
        version = f"_v{VERSION}" if VERSION > 1 else ""
        own = f"{numbers['train']}_{numbers['val']}_{size}_seed{numbers['seed']}{version}"
        return root.with_name(f"{root.name}_{own}")
