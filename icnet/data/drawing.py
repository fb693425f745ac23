"""Pictures of label maps: overlays, legends, comparisons; each an (H, W, 3) uint8 RGB array."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np

from icnet.data import lettering
from icnet.data.labels import IGNORE_INDEX, ClassTable
from icnet.run import files

log = logging.getLogger(__name__)

PAPER = (250, 250, 250)
INK = (30, 30, 30)
FRAME = (150, 150, 150)
CORRECT, WRONG, IGNORED = (69, 117, 180), (215, 48, 39), (220, 220, 220)  # blue and red: safe for the colour-blind

_ROW, _SWATCH, _PAD = 26, 30, 8  # pixels


def overlay(image: np.ndarray, mask: np.ndarray, classes: ClassTable, alpha: float = 0.5) -> np.ndarray:
    """Tint an image with the colours of its classes.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) integer train ids; pixels outside the table (such as ignore) keep the image.
        classes: The classes.
        alpha: Opacity of the colours, 0-1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    tinted = cv2.addWeighted(classes.colorize(mask), alpha, image, 1 - alpha, 0)
    known = classes.knows(mask)
    return tinted if known.all() else np.where(known[..., None], tinted, image)


def shown_names(classes: ClassTable) -> list[str]:
    """Return what pictures call the classes: their names, or the number of a class whose letters no font here has.

    ``write_key`` says what the numbers stand for.
    """
    return [name if lettering.drawable(name) else str(i) for i, name in enumerate(classes.names)]


def write_key(picture: Path, classes: ClassTable, names: Sequence[str]) -> None:
    """Write the key of a picture that shows numbers beside it, and say so in the log; remove an older one otherwise.

    Args:
        picture: Its file; the key's has the suffix ``.txt``.
        classes: Their names.
        names: What the picture shows in their place.

    Raises:
        OSError: If the key cannot be written.
    """
    key = picture.with_suffix(".txt")
    numbered = {shown: name for shown, name in zip(names, classes.names, strict=True) if shown != name}
    if not numbered:
        key.unlink(missing_ok=True)
        return
    files.write_text(key, "".join(f"{shown} {name}\n" for shown, name in numbered.items()))
    log.warning(
        "%s shows numbers for %d class names: no font here has the letters of %s; %s says which is which, and a font "
        "with them, such as one of Noto's, shows the names", picture, len(numbered), next(iter(numbered.values())), key,
    )  # fmt: skip


def legend(classes: ClassTable, present: Collection[int] | None = None, width: int = 640) -> np.ndarray:
    """Draw the names and colours of classes in as many columns as fit.

    Args:
        classes: The classes; see ``shown_names`` for what stands for a name that cannot be drawn.
        present: The train ids to list; None for all. Ids outside the table are left out.
        width: Of the picture in pixels; a name that needs more widens it.

    Returns:
        (rows, width, 3) uint8 RGB on a light background.
    """
    listed = [i for i in range(len(classes)) if present is None or i in present]
    names = shown_names(classes)
    column = _SWATCH + 3 * _PAD + max((lettering.width(names[i]) for i in listed), default=0)
    columns = max(1, (width - _PAD) // column)
    rows = max(1, -(-len(listed) // columns))
    picture = np.full((rows * _ROW + _PAD, max(width, column + _PAD), 3), PAPER, np.uint8)
    for place, i in enumerate(listed):
        # Down the columns first: lists are read downwards.
        x, y = _PAD + place // rows * column, _PAD // 2 + place % rows * _ROW
        corners = ((x, y + 4), (x + _SWATCH, y + _ROW - 4))
        cv2.rectangle(picture, *corners, classes.palette[i], cv2.FILLED)
        cv2.rectangle(picture, *corners, FRAME, 1)
        lettering.write(picture, names[i], (x + _SWATCH + _PAD, y + _ROW - 8), INK)
    return picture


def error_map(preds: np.ndarray, target: np.ndarray, ignore_index: int = IGNORE_INDEX) -> np.ndarray:
    """Show where a prediction is right (blue), wrong (red) and not counted (grey).

    Args:
        preds: (H, W) integer train ids.
        target: (H, W) integer train ids.
        ignore_index: The target value that is not counted.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    colours = np.array([WRONG, CORRECT, IGNORED], np.uint8)
    return colours[np.where(target == ignore_index, 2, (preds == target).astype(np.intp))]


def side_by_side(pictures: Sequence[np.ndarray], titles: Sequence[str] = (), gap: int = 4) -> np.ndarray:
    """Put pictures in a row, all as high as the first.

    Args:
        pictures: (H, W, 3) uint8 RGB each, of any size.
        titles: One line of text above each; empty for none.
        gap: Light pixels between neighbours.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height = pictures[0].shape[0]
    row: list[np.ndarray] = []
    for i, picture in enumerate(pictures):
        if picture.shape[0] != height:
            width = max(1, round(picture.shape[1] * height / picture.shape[0]))
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        if titles:
            head = np.full((_ROW, picture.shape[1], 3), PAPER, np.uint8)
            lettering.write(head, titles[i], (_PAD // 2, _ROW - 8), INK)
            picture = np.vstack([head, picture])
        if i:
            row.append(np.full((picture.shape[0], gap, 3), PAPER, np.uint8))
        row.append(picture)
    return np.hstack(row)


def comparison(image: np.ndarray, target: np.ndarray, preds: np.ndarray, classes: ClassTable) -> np.ndarray:
    """Put image, label, prediction and error side by side.

    Args:
        image: (H, W, 3) uint8 RGB.
        target: (H, W) integer train ids.
        preds: (H, W) integer train ids.
        classes: Names and colours.

    Returns:
        (about H, about 4 W, 3) uint8 RGB.
    """
    panels = [image, classes.colorize(target), classes.colorize(preds), error_map(preds, target)]
    return side_by_side(panels, ("image", "label", "prediction", "error (red)"))


def save(path: Path, picture: np.ndarray) -> None:
    """Write a picture in the format that the file's name says, whole or not at all.

    Args:
        path: The file; its folder is made if missing.
        picture: (H, W, 3) uint8 RGB or (H, W) uint8.

    Raises:
        OSError: If it cannot be written.
    """
    try:
        encoded, content = cv2.imencode(
            path.suffix, np.ascontiguousarray(picture[..., ::-1] if picture.ndim == 3 else picture)
        )
    except cv2.error:  # no format of this name
        encoded = False
    if not encoded:
        raise OSError(f"{path} could not be written")
    with files.atomic_file(path, sync=False, tidy=False) as file:
        file.write(content.data)
