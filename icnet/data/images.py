"""Reading image files, whole or not at all."""

import struct
from pathlib import Path

import cv2
import numpy as np

from icnet.errors import UserError

try:
    from kornia_rs.io import decode_image_png_u8 as decode_png
except ImportError:  # optional: OpenCV decodes the same pixels
    decode_png = None

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
# What a complete file ends with (some writers append a few bytes of their own, hence TAIL).
PNG_END = b"IEND\xaeB`\x82"
JPEG_END = b"\xff\xd9"
TAIL = 4096

# https://www.w3.org/TR/png-3/#11IHDR: byte 24 is the bit depth, byte 25 the colour type.
PNG_COLOR_TYPES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGBA"}


IN_A_SET = "restore the file or remove it from the set"  # what to do about a file that is missing


def read_file(path: Path, remedy: str = IN_A_SET) -> bytes:
    """Read a file, refusing PNG and JPEG files that end early (some OpenCV versions fill the missing rows)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    for signature, end in ((PNG_SIGNATURE, PNG_END), (JPEG_SIGNATURE, JPEG_END)):
        if data.startswith(signature) and end not in data[-TAIL:]:
            raise UserError(f"{path} is truncated after {len(data)} bytes; copy or download it again")
    return data


def _decode_fast(data: bytes) -> np.ndarray | None:
    """Decode an 8-bit gray or RGB PNG with kornia-rs, where it is installed: the same pixels in half the time."""
    if decode_png is None or not data.startswith(PNG_SIGNATURE) or len(data) < 33:
        return None
    depth, color_type = data[24], data[25]
    if depth != 8 or color_type not in (0, 2) or b"tRNS" in data[:4096]:
        return None
    width, height = struct.unpack(">II", data[16:24])
    try:
        pixels: np.ndarray = decode_png(data, (height, width), "rgb" if color_type == 2 else "mono")
    except Exception:  # it raises nothing more precise; OpenCV is asked next, and its refusal reported
        return None
    return pixels if color_type == 2 else pixels.reshape(height, width)


def decode(path: Path, data: bytes, flags: int) -> np.ndarray:
    """Decode the bytes of an image file.

    Args:
        path: The file, for the error.
        data: What it holds.
        flags: OpenCV's, such as ``cv2.IMREAD_COLOR_RGB``.

    Returns:
        (H, W) or (H, W, C), of the dtype that the flags ask for.

    Raises:
        UserError: It is not an image, or a damaged one.
    """
    fast = _decode_fast(data)
    if fast is not None and (fast.ndim == 3 or flags == cv2.IMREAD_UNCHANGED):
        return fast
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # empty, or larger than OpenCV accepts
        pixels = None
    if pixels is None:
        raise UserError(f"{path} cannot be decoded as an image ({len(data)} bytes); copy or download it again")
    return pixels


def read_image(path: Path, remedy: str = "give the path of an image that is there") -> np.ndarray:
    """Read a colour image of any format that OpenCV knows.

    Args:
        path: The file.
        remedy: What to do if it is missing, for the error.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: The file is missing, truncated or not an image.
    """
    return decode(path, read_file(path, remedy), cv2.IMREAD_COLOR_RGB)
