"""Weights that come with the project, for who has no network yet: ``ckpt=camvid``, ``icnet.load("camvid")``."""

from dataclasses import dataclass
from pathlib import Path

from icnet.errors import UserError

FOLDER = Path(__file__).parents[2] / "weights"
"""Beside the package, as in a clone; a wheel has no weights."""
DEFAULT = "camvid"


@dataclass(frozen=True)
class Shipped:
    """A file of weights and how it is meant to be used.

    Args:
        file: Its name in ``FOLDER``.
        short_side: Pixels of an image's shorter side at which things look as in its training.
        about: What it is, for the log.
    """

    file: str
    short_side: int
    about: str

    @property
    def path(self) -> Path:
        """The file.

        Raises:
            UserError: If it is not there.
        """
        path = FOLDER / self.file
        if not path.is_file():
            raise UserError(f"there is no {path}, which comes with a clone of the project; give a checkpoint's path")
        return path


SHIPPED: dict[str, Shipped] = {
    "camvid": Shipped(
        "icnet_lite0_camvid.safetensors", 360,
        "a small network for street scenes in 11 classes, for non-commercial use (weights/README.md)",
    )
}  # fmt: skip
"""The weights by the name that stands for them."""


def file_of(given: str) -> Path:
    """Return the file that is meant by a path or a name in ``SHIPPED``.

    Raises:
        UserError: If the name's file is not there.
    """
    return SHIPPED[given].path if given in SHIPPED else Path(given).expanduser()


def usual_side(path: Path) -> int | None:
    """Return the shorter side that images are best brought to for a file; None if it is none of ``SHIPPED``."""
    sides = {(FOLDER / shipped.file).resolve(): shipped.short_side for shipped in SHIPPED.values()}
    return sides.get(path.resolve())
