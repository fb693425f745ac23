"""Text in pictures, in any script that a font on this machine has the letters of."""

import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

SIZE = 15  # pixels from line to line, about that of OpenCV's letters below
_PLAIN, _PLAIN_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5  # printable ASCII; OpenCV draws every other letter as ??


def is_plain(text: str) -> bool:
    """Tell whether text is printable ASCII, which needs no font."""
    return text.isascii() and text.isprintable()


def needs_shaping(text: str) -> bool:
    """Tell whether letters change with their neighbours or run from right to left, as in Arabic, Hebrew and Hindi.

    Letter by letter they would be wrong, so that whoever draws them has to have a library for it.
    """
    return any(
        unicodedata.bidirectional(letter) in {"R", "AL"} or unicodedata.category(letter).startswith("M")
        for letter in text
    )


@cache
def find_font(text: str) -> Path | None:
    """Return a font file that has a letter for every character of a text; None if this machine has none.

    matplotlib's own DejaVu Sans (Latin, Greek, Cyrillic, Arabic) comes first, then what the system has, by name.
    """
    wanted = {ord(letter) for letter in text if not letter.isspace()}
    return next((font for font in font_files() if wanted <= _letters(font)), None)


def font_files() -> Iterator[Path]:
    """Yield the font files of this machine in the order in which they are tried."""
    import matplotlib as mpl
    from matplotlib import font_manager

    yield Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    yield from sorted(map(Path, font_manager.findSystemFonts()), key=lambda path: (_rank(path), path.name))


def drawable(text: str) -> bool:
    """Tell whether ``write`` draws a text as it is written."""
    if is_plain(text):
        return True
    return text.isprintable() and _pillow_font(text) is not None


def width(text: str) -> int:
    """Return how many pixels a text takes in a line of ``write``."""
    if is_plain(text):
        return int(cv2.getTextSize(text, _PLAIN, _PLAIN_SCALE, 1)[0][0])
    font = _pillow_font(text)
    return 0 if font is None else int(np.ceil(font.getlength(text)))


def write(picture: np.ndarray, text: str, place: tuple[int, int], ink: tuple[int, int, int]) -> None:
    """Write a line of text into a picture, in place.

    Args:
        picture: (H, W, 3) uint8 RGB.
        text: What ``drawable`` says yes to; of other texts nothing is drawn.
        place: Where the line's base begins, x and y.
        ink: RGB.
    """
    if is_plain(text):
        cv2.putText(picture, text, place, _PLAIN, _PLAIN_SCALE, ink, 1, cv2.LINE_AA)
        return
    font = _pillow_font(text)
    if font is not None:
        canvas = Image.fromarray(picture)
        ImageDraw.Draw(canvas).text(place, text, ink, font, anchor="ls")
        picture[:] = np.asarray(canvas)


@cache
def _pillow_font(text: str) -> ImageFont.FreeTypeFont | None:
    """Return the font that Pillow draws a text with; None if it has none, or cannot shape the text's letters."""
    path = None if needs_shaping(text) and not features.check("raqm") else find_font(text)
    return None if path is None else ImageFont.truetype(path, SIZE)


@cache
def _letters(font: Path) -> frozenset[int]:
    """Return the code points that a font has a glyph for, if it can be drawn with at all."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(font, SIZE)  # refuses bitmap fonts without this size, such as most of coloured emoji
        return frozenset(FT2Font(str(font)).get_charmap())
    except Exception:  # what is no font, or one of a kind that a reader does not know
        return frozenset()


def _rank(font: Path) -> int:
    """Prefer upright sans serif fonts of normal weight, which are read best in small."""
    name = font.name.lower()
    return sum(word in name for word in ("bold", "italic", "oblique", "mono", "serif", "light", "black", "thin")) + (
        "sans" not in name
    )
