"""What PNG, JPEG and WebP files say around their pixels: size, depth, EXIF, and whether the file is all there."""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"

# https://www.w3.org/TR/png-3/#11IHDR
PNG_COLOR_TYPES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGBA"}

EXIF_PREFIX = b"Exif\0\0"
# In entropy-coded data: neither a stuffed byte nor a fill byte nor a restart (ITU-T T.81, B.1.1.2 and B.1.1.5).
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_TEM, _JPEG_EOI, _JPEG_SOS, _JPEG_APP1 = 0x01, 0xD9, 0xDA, 0xE1
_JPEG_RESTARTS = range(0xD0, 0xD8)


class Png(NamedTuple):
    """What a PNG file says before its pixels; ``whole`` is False where the file ends before its IEND chunk."""

    width: int
    height: int
    depth: int  # bits per channel
    color_type: int
    transparent: bool  # a tRNS chunk
    exif: bytes
    whole: bool

    @property
    def kind(self) -> str:
        """Depth and colour type in words, such as ``16-bit gray``."""
        return f"{self.depth}-bit {PNG_COLOR_TYPES.get(self.color_type, 'unknown')}"


class Jpeg(NamedTuple):
    """What a JPEG file says around its pixels; ``end`` is where its image ends, None if it has no end marker.

    Motion photos and panoramas go on behind it, with a film or further images.
    """

    exif: bytes
    end: int | None


def scan_png(data: bytes) -> Png | None:
    """Look through the chunks of a PNG file, without decoding any; None if it has no header."""
    if not data.startswith(PNG_SIGNATURE) or len(data) < 33:
        return None
    width, height, depth, color_type = struct.unpack_from(">IIBB", data, 16)
    transparent, exif, whole = False, b"", False
    for kind, start, end in _png_chunks(data):
        if kind == b"tRNS":
            transparent = True
        elif kind == b"eXIf":
            exif = data[start:end]
        elif kind == b"IEND":
            whole = True
    return Png(width, height, depth, color_type, transparent, exif, whole)


def damaged_png_chunk(data: bytes) -> str | None:
    """Return the type of the first chunk of a PNG file whose CRC-32 is not that of its content, or None."""
    for kind, start, end in _png_chunks(data):
        if zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return kind.decode("latin-1")
    return None


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the content of each whole chunk, up to IEND."""
    at, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND" and at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            return
        yield kind, at + 8, end
        at = end + 4


def scan_jpeg(data: bytes) -> Jpeg:
    """Look through the segments of a JPEG file, and the entropy-coded data between them for the end of the image."""
    exif, at = b"", 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 2 > len(data):
            return Jpeg(exif, None)
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            at += 1
        elif marker in (0, _JPEG_TEM) or marker in _JPEG_RESTARTS:
            at += 2
        elif marker == _JPEG_EOI:
            return Jpeg(exif, at + 2)
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if marker == _JPEG_APP1 and not exif and data.startswith(EXIF_PREFIX, at + 4):
                exif = data[at + 4 : end]
            if marker == _JPEG_SOS:
                found = _JPEG_MARKER.search(data, end)
                end = found.start() if found else len(data)
            at = max(end, at + 2)


def riff_chunks(data: bytes) -> dict[bytes, bytes]:
    """Return type and content of the chunks of a WebP file; of each type the first."""
    chunks: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        chunks.setdefault(kind, data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return chunks
