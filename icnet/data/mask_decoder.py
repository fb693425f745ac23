"""From mask files to train ids: by label id or by colour, the same way for a whole data set."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from icnet.data.labels import IGNORE_INDEX, ClassTable, Color
from icnet.data.masks import StoredMask, png_header, read_stored
from icnet.errors import UserError

ENCODINGS = ("auto", "ids", "colors")
"""What ``data.mask_encoding`` may be."""

LOOKED_AT = 16
"""How many masks of a set are looked at to tell how all of them are stored."""

_UNKNOWN = -1


class MaskDecoder:
    """Reads mask files as (H, W) uint8 train ids.

    A mask may hold label ids (gray values, palette indices) or colours (RGB, or those of a palette). With the encoding
    ``auto``, RGB files hold colours and gray ones ids. A palette file can be read both ways: where the colours of its
    pixels are those of other classes than its indices say, it is refused. The same goes for gray files if the colours
    of all classes are gray. A set is read in one of the two ways; the first files, evenly spread, tell in which.

    Args:
        classes: The classes that the train ids stand for.
        label_table: (256,) or (65536,) int16: stored label id to train id; 255 = ignored, -1 = may not occur.
        color_table: RGB colour and train id (255 = ignored), for each colour that may be stored; empty = label ids.
        encoding: One of ``ENCODINGS``.
        title: How messages call the data set.
    """

    def __init__(
        self,
        classes: ClassTable,
        label_table: np.ndarray,
        color_table: Sequence[tuple[Color, int]] = (),
        encoding: str = "auto",
        title: str = "data",
    ) -> None:
        self.classes = classes
        self.label_table = label_table
        self.title = title
        self._asked = encoding != "auto"
        self._encoding = encoding if self._asked and color_table else "ids"
        self._colors: dict[Color, int] = {}
        self._shared: dict[Color, list[int]] = {}  # colours of several classes
        for color, train_id in color_table:
            if self._colors.setdefault(color, train_id) != train_id:
                self._shared.setdefault(color, [self._colors[color]]).append(train_id)
        for color in self._shared:
            del self._colors[color]
        own = [color for color, train_id in color_table if train_id != IGNORE_INDEX]
        self._all_gray = bool(own) and all(len(set(color)) == 1 for color in own)
        if self._encoding == "colors":
            self._prepare_colors()

    @property
    def by_color(self) -> bool:
        """Whether masks are read by colour, as far as they were looked at."""
        return self._encoding == "colors"

    def look_at(self, paths: Sequence[Path]) -> None:
        """Tell from some masks of a set how all of them are stored, unless it is known.

        Raises:
            UserError: One of them cannot be read, or can be read in two ways, or they are stored in both.
        """
        if self._asked or not (self._colors or self._shared):
            return
        found: dict[str, str] = {}
        count = min(len(paths), LOOKED_AT)
        for path in (paths[number * len(paths) // count] for number in range(count)):
            encoding = self._evidence(path)
            if encoding:
                found.setdefault(encoding, str(path))
        if len(found) == 2:
            raise UserError(
                f"the masks of {self.title} are stored in two ways, by label id as {found['ids']} and by colour as "
                f"{found['colors']}; store all in one of them"
            )
        if "colors" in found:
            self._encoding = "colors"
            self._prepare_colors()

    def __call__(self, path: Path) -> np.ndarray:
        """Read a mask.

        Returns:
            (H, W) uint8 train ids; 255 = ignored.

        Raises:
            UserError: As for ``read_stored``; or it holds ids or colours that the data set does not have, is stored
                otherwise than the others, or can be read in two ways.
        """
        stored = read_stored(path)
        if stored.values.ndim == 3:
            if self._encoding == "colors":
                return self._by_color(path, stored.values)
            return self._by_id(path, self._single_channel(path, stored))
        if not self._asked:
            self._check_readings(path, stored)
        if self._encoding == "ids":
            return self._by_id(path, stored.values)
        if stored.palette is None:
            raise UserError(
                f"label mask {path} is {stored.kind}, but the masks of {self.title} hold colours; save it as they are"
            )
        found = _look_up(stored.values, self._palette_table(stored.palette))
        # Values behind the palette's end are damage, and black to viewers.
        return self._by_color(path, _paint(stored.values, stored.palette)) if found is None else found

    def _evidence(self, path: Path) -> str:
        """Return how a file is stored: ``ids``, ``colors``, or nothing if it is the same or says nothing."""
        png = png_header(path)
        if png is not None and "RGB" in png.kind:  # these two need no pixels
            return "colors"
        if png is not None and png.color_type == 0 and not self._all_gray:
            return "ids"
        stored = read_stored(path)
        if stored.values.ndim == 3:
            return "colors"
        if stored.palette is None or (stored.is_gray and not self._all_gray):
            return "ids"
        self._check_readings(path, stored)
        used = _used(stored.values)
        by_id, by_color = self._readings(stored.palette)
        as_id, as_color = by_id[used] != _UNKNOWN, by_color[used] != _UNKNOWN
        if as_id.all() == as_color.all():
            return ""
        if as_color.all():
            return "colors"
        return "ids" if as_color.any() or stored.is_gray else ""  # a palette may have colours of its own

    def _check_readings(self, path: Path, stored: StoredMask) -> None:
        """Refuse a file whose values are one class by their label id and another one by their colour."""
        if stored.palette is None or not self._colors or (stored.is_gray and not self._all_gray):
            return
        by_id, by_color = self._readings(stored.palette)
        differ = (by_id != _UNKNOWN) & (by_color != _UNKNOWN) & (by_id != by_color)
        if not differ.any():
            return
        values = [value for value in _used(stored.values).tolist() if differ[value]]
        if values:
            first = values[0]
            color = tuple(stored.palette[first].tolist())
            raise UserError(
                f"label mask {path} ({stored.kind}) can be read in two ways: its value {first} is "
                f"{self._name(by_id[first])} as a label id, but its colour {color} is {self._name(by_color[first])}; "
                "say which is meant with data.mask_encoding=ids or data.mask_encoding=colors"
            )

    def _readings(self, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (256,) train ids of the values 0-255 by label id and by colour; -1 = unknown."""
        return self.label_table[:256], self._palette_table(palette)

    def _palette_table(self, palette: np.ndarray) -> np.ndarray:
        table = np.full(256, _UNKNOWN, np.int16)
        table[: len(palette)] = [self._colors.get((r, g, b), _UNKNOWN) for r, g, b in palette.tolist()]
        return table

    def _by_id(self, path: Path, values: np.ndarray) -> np.ndarray:
        found = _look_up(values, self.label_table)
        if found is None:
            table = np.full(65536, _UNKNOWN, np.int16)
            table[: len(self.label_table)] = self.label_table
            unknown = [value for value in np.unique(values).tolist() if table[value] == _UNKNOWN]
            allowed = np.flatnonzero(table != _UNKNOWN).tolist()
            raise UserError(
                f"label mask {path} holds label ids {_spans(unknown)}, but {self.title} allows {_spans(allowed)}; "
                "correct the mask, or the key that says how masks are stored (data.label_kind or data.classes)"
            )
        return found

    def _by_color(self, path: Path, pixels: np.ndarray) -> np.ndarray:
        packed = _pack(pixels)
        found = _color_lookup(tuple(self._colors.items()))[packed]
        if found.min() == _UNKNOWN:
            wrong = found == _UNKNOWN
            y, x = np.unravel_index(int(wrong.argmax()), wrong.shape)
            count = int((packed == packed[y, x]).sum())
            others = len(np.unique(packed[wrong])) - 1
            gray = (pixels == pixels[..., :1]).all()
            hint = "; if its three equal channels are label ids, set data.mask_encoding=ids" if gray else ""
            more = f" (and {others} further unknown colour{'s' * (others > 1)})" if others else ""
            raise UserError(
                f"label mask {path} holds the colour {tuple(pixels[y, x].tolist())} in {count} pixels, the first at "
                f"row {y}, column {x}{more}, but no class of {self.title} has it; correct the mask, or add the colour "
                f"to its class or to ignore in the list of classes{hint}"
            )
        return found.astype(np.uint8)

    def _single_channel(self, path: Path, stored: StoredMask) -> np.ndarray:
        if not self._asked:
            known = "colours are not known" if not (self._colors or self._shared) else "other masks hold label ids"
            raise UserError(
                f"label mask {path} is {stored.kind}, and {known}; save it with one label id per pixel, as gray PNG"
            )
        first = np.ascontiguousarray(stored.values[..., 0])
        if not (stored.values == first[..., None]).all():
            raise UserError(
                f"label mask {path} is {stored.kind} with different channels, which are no label ids; "
                "set data.mask_encoding=colors, or save it with one label id per pixel, as 8-bit gray PNG"
            )
        return first

    def _prepare_colors(self) -> None:
        if self._shared:
            color, train_ids = next(iter(self._shared.items()))
            names = " and ".join(self._name(train_id) for train_id in train_ids)
            raise UserError(
                f"{names} of {self.title} have the same colour {color}, so masks cannot be read by colour; give each "
                "its own in the list of classes, or store label ids"
            )
        _color_lookup(tuple(self._colors.items()))  # before loader processes start, which share it then

    def _name(self, train_id: int) -> str:
        return "ignored" if train_id == IGNORE_INDEX else self.classes.names[train_id]


def _look_up(values: np.ndarray, table: np.ndarray) -> np.ndarray | None:
    """Return (H, W) uint8 train ids of stored values, or None if one of them is not in the table."""
    if values.dtype == np.uint8:  # cv2.LUT and a count are 6 times faster than np.unique or np.bincount
        table = table[:256]
        if cv2.countNonZero(cv2.LUT(values, (table == _UNKNOWN).astype(np.uint8))):
            return None
        return cv2.LUT(values, table.astype(np.uint8))
    if int(values.max()) >= len(table):
        return None
    found = table[values]
    return None if found.min() == _UNKNOWN else found.astype(np.uint8)


def _used(values: np.ndarray) -> np.ndarray:
    """Return the different values of an (H, W) uint8 array, sorted."""
    return np.flatnonzero(cv2.calcHist([values], [0], None, [256], [0, 256]))


def _paint(values: np.ndarray, palette: np.ndarray) -> np.ndarray:
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    return colors[values]


def _pack(pixels: np.ndarray) -> np.ndarray:
    """Return (H, W) uint32 numbers 0xRRGGBB of (H, W, 3) uint8 RGB."""
    four = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA)
    return four.view("<u4")[..., 0] & 0xFFFFFF


@lru_cache(maxsize=2)  # 32 MB each; outside of the object, which is pickled to loader processes
def _color_lookup(colors: tuple[tuple[Color, int], ...]) -> np.ndarray:
    """Return (2 ** 24,) int16: train id of each colour 0xRRGGBB, -1 = unknown."""
    table = np.full(2**24, _UNKNOWN, np.int16)
    for (r, g, b), train_id in colors:
        table[r << 16 | g << 8 | b] = train_id
    return table


def _spans(values: Sequence[int]) -> str:
    """Write sorted integers with their runs folded, such as ``0-10, 255``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
