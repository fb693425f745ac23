"""Drawn street scenes as a data set of their own: like Cityscapes, but it makes its files."""

from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

from icnet.data.cityscapes import Cityscapes
from icnet.data.street.writer import NAME, generate
from icnet.errors import UserError


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
        scenes = {split: wanted[split] for split in ("train", "val")}
        generate(self._place(), scenes, wanted["height"], wanted["width"], wanted["seed"])

    @override
    def folder(self) -> Path:
        self._place()
        return super().folder()

    def _place(self) -> Path:
        if not self.root:
            raise UserError("data.root is empty; give the folder where the street scenes are, or are to be, drawn")
        return Path(self.root)
