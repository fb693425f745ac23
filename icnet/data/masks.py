"""Reading the files of label masks: what is stored for each pixel, not yet what it means."""

from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from icnet.data.containers import JPEG_SIGNATURE, PNG_HEADER_SIZE, PNG_SIGNATURE, Png, riff_chunks, scan_png
from icnet.data.images import decode, decode_fast, exif_orientation, read_file, upright, whole_png
from icnet.errors import UserError

GRAY = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
"""(256, 3) uint8: the colours of gray values."""

_FORMATS = ("PNG", "BMP", "TIFF", "WEBP")
# https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf, section 8
_TIFF_DEPTH, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_ADVICE = "save masks as PNG, one label id per pixel or the classes' colours"


class StoredMask(NamedTuple):
    """What a mask file holds."""

    values: np.ndarray
    """(H, W) uint8 or uint16 gray values or palette indices, or (H, W, 3) uint8 RGB."""

    palette: np.ndarray | None
    """(n, 3) uint8: in which colour a viewer shows each value; None for RGB and for 16 bits."""

    kind: str
    """In words, such as ``8-bit palette``."""

    def turned(self, exif: bytes) -> "StoredMask":
        """Return the mask as EXIF data says that it is to be shown."""
        return StoredMask(upright(self.values, exif_orientation(exif)), self.palette, self.kind)

    @property
    def is_gray(self) -> bool:
        """Whether a viewer shows larger values as lighter grays, as of gray files and of palettes that say the same."""
        if self.palette is None or not self.palette.any():
            return False
        shown = self.palette[: np.flatnonzero(self.palette.any(1))[-1] + 1].astype(int)  # black fills up palettes
        return bool((shown == shown[:, :1]).all() and len(shown) > 1 and (np.diff(shown[:, 0]) > 0).all())


def read_mask(path: Path) -> np.ndarray:
    """Read the label ids of a mask with one of them per pixel: gray values or palette indices.

    Returns:
        (H, W) uint8 or uint16 stored label ids.

    Raises:
        UserError: As for ``read_stored``, or it holds colours.
    """
    stored = read_stored(path)
    if stored.values.ndim == 3:
        raise UserError(f"label mask {path} is {stored.kind}; save it with one label id per pixel, gray or palette")
    return stored.values


def png_header(path: Path) -> Png | None:
    """Return what the first bytes of a mask say if it is a PNG file, which tells gray from colours."""
    try:
        with path.open("rb") as file:
            return scan_png(file.read(PNG_HEADER_SIZE))
    except OSError:  # reading all of it says what is wrong
        return None


def read_stored(path: Path) -> StoredMask:
    """Read a mask as it is stored, turned upright as its EXIF orientation says.

    Gray of 1, 2 or 4 bits gives values up to 1, 3 or 15, as stored, where decoders stretch them to 255.

    Raises:
        UserError: The file is missing or damaged, its format changes values (JPEG), or a pixel is neither one value
            nor an opaque colour of 8 bits per channel.
    """
    data = read_file(path)
    if data.startswith(PNG_SIGNATURE):
        png = whole_png(path, data)
        if png.depth == 8 and png.color_type in (0, 2):
            stored = StoredMask(_decode(path, data, png), None if png.color_type else GRAY, png.kind)
        elif png.depth == 16 and png.color_type == 0:
            stored = StoredMask(_decode(path, data, png), None, png.kind)
        elif png.depth == 16:
            raise _refused(path, png.kind)
        else:
            stored = _with_pillow(path, data, png.depth, png.kind)
        return stored.turned(png.exif)
    if data.startswith(JPEG_SIGNATURE):
        raise UserError(f"label mask {path} is a JPEG file, whose compression changes label ids and colours; {_ADVICE}")
    return _with_pillow(path, data)


def _decode(path: Path, data: bytes, png: Png) -> np.ndarray:
    """Decode 8-bit gray and RGB, and 16-bit gray."""
    fast = decode_fast(data, png)
    if fast is not None:
        return fast
    return decode(path, data, cv2.IMREAD_COLOR_RGB if png.color_type else cv2.IMREAD_UNCHANGED)


def _with_pillow(path: Path, data: bytes, depth: int = 8, kind: str = "") -> StoredMask:
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            image.load()
            if image.format == "TIFF":
                depth = _tiff_depth(path, image)
            if image.format == "WEBP" and b"VP8L" not in riff_chunks(data):
                raise UserError(f"label mask {path} is a lossy WebP file, whose compression changes colours; {_ADVICE}")
            stored = _stored(path, image, depth, kind or f"a {image.format} file of mode {image.mode}")
            return stored.turned(image.info.get("exif", b"")) if image.format == "WEBP" else stored  # TIFF: is turned
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise UserError(f"label mask {path} is not a PNG, BMP, TIFF or WebP file; {_ADVICE}") from None
    except Exception:  # damaged files make the plugins raise many kinds
        raise UserError(f"{path} cannot be decoded as an image; copy or download it again") from None


def _tiff_depth(path: Path, image: Any) -> int:
    depth, *_ = image.tag_v2.get(_TIFF_DEPTH, (1,))
    if image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        raise UserError(f"label mask {path} is a TIFF file with lossy compression, which changes label ids; {_ADVICE}")
    if image.mode in ("1", "L") and image.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise UserError(f"label mask {path} is a TIFF file whose gray values run from white to black; {_ADVICE}")
    return int(depth)


def _stored(path: Path, image: Image.Image, depth: int, kind: str) -> StoredMask:
    pixels = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        clear = pixels[..., -1] < 255
        if clear.any():
            y, x = np.unravel_index(int(clear.argmax()), clear.shape)
            raise UserError(
                f"label mask {path} is {kind} and transparent in {int(clear.sum())} pixels, the first at row {y}, "
                f"column {x}; save it without transparency"
            )
        pixels = pixels[..., 0] if image.mode == "LA" else pixels[..., :3]
    if image.mode == "1":  # read as booleans
        return StoredMask(pixels.astype(np.uint8), GRAY[::255], kind)
    if image.mode in ("L", "LA"):
        step = 255 // (2 ** min(depth, 8) - 1)  # by which fewer than 8 bits are stretched
        return StoredMask(np.ascontiguousarray(pixels // np.uint8(step)), GRAY[::step], kind)
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return StoredMask(np.ascontiguousarray(pixels), palette, kind)
    if image.mode in ("RGB", "RGBA"):
        return StoredMask(np.ascontiguousarray(pixels), None, kind)
    if image.mode.startswith("I") and pixels.min() >= 0 and pixels.max() < 65536:
        return StoredMask(pixels.astype(np.uint16), None, kind)
    raise _refused(path, kind)


def _refused(path: Path, kind: str) -> UserError:
    return UserError(f"label mask {path} is {kind}; {_ADVICE}")
