"""Reading image files: whole, upright, as 8-bit RGB, or not at all."""

import struct
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from icnet.data.containers import (
    EXIF_PREFIX,
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    Jpeg,
    Png,
    damaged_png_chunk,
    riff_chunks,
    scan_jpeg,
    scan_png,
)
from icnet.errors import UserError

try:
    from kornia_rs.io import decode_image_png_u8 as decode_png
except ImportError:  # optional: OpenCV decodes the same pixels
    decode_png = None

IN_A_SET = "restore the file or remove it from the set"  # what to do about a file that is missing

EVIDENT_BITS = 15
"""A 16-bit file whose largest value needs so many bits uses its whole range; sensors have 10, 12 or 14."""

ORIENTATION = 0x0112  # EXIF 2.32, 4.6.4: tag Orientation
_JPEG_END = b"\xff\xd9"
# Any bytes without markers, but with the restarts that some files want between their blocks.
_NOISE = b"".join(bytes(range(1, 128)) * 8 + bytes((0xFF, 0xD0 + number % 8)) for number in range(16))


def read_file(path: Path, remedy: str = IN_A_SET) -> bytes:
    """Return what a file holds.

    Raises:
        UserError: It cannot be read; ``remedy`` ends the message.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from None


def read_image(
    path: Path, remedy: str = "give the path of an image that is there", bits: int | None = None
) -> np.ndarray:
    """Read an image of any format that OpenCV knows.

    It is turned upright as its EXIF orientation says, whatever the format. Gray becomes RGB; an alpha channel is
    dropped, whatever it hides; colour profiles are not applied; of several pages the first is read.

    Args:
        path: The file.
        remedy: What to do if it is missing, for the error.
        bits: How many bits the values of 16-bit files have, 8-16; None takes 16, and refuses files that do not
            evidently use them.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: The file is missing, truncated or not an image, or its values are not of that many bits.
    """
    data = read_file(path, remedy)
    if data.startswith(PNG_SIGNATURE):
        png = whole_png(path, data)
        exif = png.exif
        fast = decode_fast(data, png) if png.color_type == 2 else None
        pixels = decode(path, data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH) if fast is None else fast
    elif data.startswith(JPEG_SIGNATURE):
        jpeg = scan_jpeg(data)
        exif = jpeg.exif
        pixels = _decode_jpeg(path, data, jpeg)
    else:
        exif = _exif_of_webp(data)
        pixels = _decode_color(path, data)
    return upright(_to_8_bits(path, pixels, bits), exif_orientation(exif))


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image or mask as it is read, from its header alone.

    Raises:
        UserError: The file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.format == "PNG":  # Pillow would decode the image to find EXIF behind it
                exif = _exif_of_png_file(path)
            else:
                exif = image.info.get("exif", b"") if image.format != "TIFF" else b""  # TIFF: Pillow has turned it
    except FileNotFoundError:
        raise UserError(f"{path} cannot be read (No such file or directory); {IN_A_SET}") from None
    except Exception:  # the kinds that its plugins raise are not listed anywhere
        height, width = read_image(path, IN_A_SET, bits=16).shape[:2]
        return height, width
    return (width, height) if exif_orientation(exif) >= 5 else (height, width)


def verify_image(path: Path, *, thorough: bool = True) -> None:
    """Look for damage in a file of an image or a mask, as thoroughly as its format allows.

    Every chunk of a PNG has its CRC-32, and its pixels their Adler-32. JPEG knows no checksum: a scan that ends early
    is found, changed bytes in the middle and missing scans of a progressive file, which add detail, are not. Of other
    formats all that the decoder complains of is found.

    Args:
        path: The file.
        thorough: Whether PNG files are decoded too, though their checksums, which take a hundredth of the time, find
            whatever was changed after they were written.

    Raises:
        UserError: The file is missing or damaged.
    """
    data = read_file(path)
    if data.startswith(JPEG_SIGNATURE):
        _decode_jpeg(path, data, scan_jpeg(data), thorough=True)
        return
    if data.startswith(PNG_SIGNATURE):
        whole_png(path, data)
        chunk = damaged_png_chunk(data)
        if chunk:
            raise UserError(f"{path} is damaged: the CRC of its chunk {chunk} is wrong; copy or download it again")
        if not thorough:
            return
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
    except (Image.UnidentifiedImageError, Image.DecompressionBombError):  # some TIFF files, very large ones: for OpenCV
        _decode_color(path, data)
    except Exception as error:  # damaged files make the plugins raise many kinds
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}); copy or download it again") from None


def whole_png(path: Path, data: bytes) -> Png:
    """Return what a PNG file says of itself.

    Raises:
        UserError: It ends early.
    """
    png = scan_png(data)
    if png is None or not png.whole:
        raise _truncated(path, len(data))
    return png


def decode_fast(data: bytes, png: Png) -> np.ndarray | None:
    """Decode an 8-bit gray or RGB PNG with kornia-rs, where it is installed: the same pixels in half the time.

    Returns:
        (H, W) or (H, W, 3) uint8, or None if it cannot.
    """
    if decode_png is None or png.depth != 8 or png.color_type not in (0, 2) or png.transparent:
        return None
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):  # it would allocate any size (kornia-rs 0.2)
        return None
    try:
        pixels: np.ndarray = decode_png(data, (png.height, png.width), "rgb" if png.color_type == 2 else "mono")
    except Exception:  # it raises nothing more precise; OpenCV is asked next, and its refusal reported
        return None
    return pixels if png.color_type == 2 else pixels.reshape(png.height, png.width)


def decode(path: Path, data: bytes, flags: int) -> np.ndarray:
    """Decode the bytes of an image file with OpenCV, which does not turn it.

    Args:
        path: The file, for the error.
        data: What it holds.
        flags: OpenCV's, such as ``cv2.IMREAD_COLOR_RGB``.

    Returns:
        (H, W) or (H, W, C), of the dtype that the flags ask for.

    Raises:
        UserError: It is not an image, or a damaged one.
    """
    pixels = _decode(data, flags)
    if pixels is None:
        raise UserError(f"{path} cannot be decoded as an image ({len(data)} bytes); copy or download it again")
    return pixels


def exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1-8, that EXIF data gives, as a JPEG or as a PNG holds them; 1 (upright) if none."""
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif if exif.startswith(EXIF_PREFIX) else EXIF_PREFIX + exif)
        value = tags.get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data says nothing; the kinds that are raised are not listed anywhere
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels so that they are shown as meant.

    Args:
        pixels: (H, W) or (H, W, C) as stored.
        orientation: 1-8, https://www.cipa.jp/std/documents/e/DC-008-Translation-2019-E.pdf, 4.6.4.

    Returns:
        The pixels, contiguous; height and width exchanged from 5 on.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # empty, or larger than OpenCV accepts
        return None


def _decode_color(path: Path, data: bytes) -> np.ndarray:
    """Return (H, W, 3) RGB of the file's depth."""
    # Not IMREAD_COLOR_RGB: with 16-bit TIFF files it returns what is no picture (OpenCV 4.14).
    pixels = decode(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _decode_jpeg(path: Path, data: bytes, jpeg: Jpeg, *, thorough: bool = False) -> np.ndarray:
    """Decode a JPEG file, refusing one whose scan ends early, which OpenCV fills with gray."""
    size = len(data)
    if jpeg.end is None:
        data = data.rstrip(b"\0\xff") + _JPEG_END  # zeros are what was never written
    pixels = decode(path, data, cv2.IMREAD_COLOR_RGB)
    # What is missing is filled with gray 128 down to the last pixel (jdhuff.c of libjpeg leaves its blocks zero).
    suspicious = jpeg.end is None or (pixels[-1, -1] == 128).all()
    if (thorough or suspicious) and not _has_whole_scan(data[: jpeg.end]):
        raise _truncated(path, size)
    return pixels


def _has_whole_scan(data: bytes) -> bool:
    """Tell whether a JPEG's scan goes as far as its pixels: then more of it, which is noise, changes nothing."""
    body = data.removesuffix(_JPEG_END).rstrip(b"\xff")
    try:
        return np.array_equal(_decode_silently(data), _decode_silently(body + _NOISE + _JPEG_END))
    except Exception:  # damaged files make the plugin raise many kinds
        return False


def _decode_silently(jpeg: bytes) -> np.ndarray:
    """Decode with Pillow; OpenCV's decoder writes to the terminal what it finds odd."""
    with Image.open(BytesIO(jpeg), formats=("JPEG",)) as image:
        return np.asarray(image)


def _to_8_bits(path: Path, pixels: np.ndarray, bits: int | None) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype != np.uint16:
        raise UserError(f"{path} holds {pixels.dtype} values; save it with 8 or 16 bits per channel")
    largest = int(pixels.max())
    if bits is None and largest.bit_length() < EVIDENT_BITS:
        raise UserError(
            f"{path} has 16 bits per channel but no value above {largest}, so it is dark or its values have fewer "
            "bits; say how many with data.image_bits in training and evaluation (16 for dark images), or save it with 8"
        )
    if bits is not None and largest.bit_length() > bits:
        raise UserError(
            f"{path} holds the value {largest}, more than the {bits} bits of data.image_bits={bits}; "
            f"give {largest.bit_length()} or more"
        )
    return _scale(bits or 16)[pixels]


@cache
def _scale(bits: int) -> np.ndarray:
    """Return (65536,) uint8: values of so many bits, as 8 bits."""
    top = 2**bits - 1
    return ((np.arange(65536).clip(max=top) * 510 + top) // (2 * top)).astype(np.uint8)


def _exif_of_webp(data: bytes) -> bytes:
    return riff_chunks(data).get(b"EXIF", b"") if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else b""


def _exif_of_png_file(path: Path) -> bytes:
    """Look for EXIF before the pixels and in the last 64 KB, its largest size elsewhere, without reading the pixels."""
    with path.open("rb") as file:
        head = file.read(len(PNG_SIGNATURE))
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            if kind == b"eXIf":
                return file.read(length)
            if kind in (b"IDAT", b"IEND"):
                break
            file.seek(length + 4, 1)
        size = file.seek(0, 2)
        file.seek(max(len(head), size - 65536))
        tail = file.read()
    at = tail.rfind(b"eXIf")
    return tail[at + 4 : at + 4 + int.from_bytes(tail[at - 4 : at], "big")] if at >= 4 else b""


def _truncated(path: Path, size: int) -> UserError:
    return UserError(f"{path} is truncated after {size} bytes; copy or download it again")
