"""Mask files of every kind: the values that they store, or a clear refusal."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from icnet.data.masks import read_mask, read_stored
from icnet.errors import UserError

IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_every_lossless_format_gives_the_stored_values(tmp_path: Path, suffix: str, mode: str) -> None:
    image = Image.fromarray(IDS)
    if mode == "P":
        image = image.convert("P")
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    image.save(tmp_path / f"mask{suffix}")
    stored = read_stored(tmp_path / f"mask{suffix}")
    assert stored.values.dtype == np.uint8
    np.testing.assert_array_equal(stored.values, IDS)
    assert stored.is_gray == (mode == "L")
    assert stored.palette is not None
    assert stored.palette[5].tolist() == ([5, 5, 5] if mode == "L" else [5, 250, 7])


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiff_is_read_in_its_lossless_compressions(tmp_path: Path, compression: str) -> None:
    Image.fromarray(IDS).save(tmp_path / "mask.tif", compression=compression)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif"), IDS)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_kept(tmp_path: Path, suffix: str) -> None:
    ids = np.array([[0, 255, 256], [4660, 65535, 1]], np.uint16)  # 4660 = 0x1234: the order of its bytes shows
    assert cv2.imwrite(str(tmp_path / f"mask{suffix}"), ids)
    stored = read_mask(tmp_path / f"mask{suffix}")
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, ids)


def test_32_bit_tiff_is_read_where_its_values_fit_into_16(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535]], np.int32)).save(tmp_path / "mask.tif")
    assert read_mask(tmp_path / "mask.tif").tolist() == [[0, 65535]]


def _gray_png(path: Path, bits: int, values: np.ndarray) -> None:
    """Write a gray PNG of few bits, which Pillow does for palettes only."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape
    unpacked = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in unpacked)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_of_few_bits_is_not_stretched(tmp_path: Path, bits: int) -> None:
    values = np.arange(2**bits, dtype=np.uint8).reshape(2, -1)
    _gray_png(tmp_path / "mask.png", bits, values)
    stored = read_stored(tmp_path / "mask.png")
    assert stored.kind == f"{bits}-bit gray"
    np.testing.assert_array_equal(stored.values, values)
    assert stored.palette is not None
    assert stored.palette[[0, -1]].tolist() == [[0, 0, 0], [255, 255, 255]]  # as a viewer shows it


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path: Path) -> None:
    for mode in ("LA", "RGBA"):
        image = Image.fromarray(IDS).convert(mode)
        image.save(tmp_path / "mask.png")
        expected = IDS if mode == "LA" else np.repeat(IDS[..., None], 3, 2)
        np.testing.assert_array_equal(read_stored(tmp_path / "mask.png").values, expected)
        pixels = np.array(image)
        pixels[1, 2, -1] = pixels[2, 0, -1] = 254
        Image.fromarray(pixels).save(tmp_path / "mask.png")
        with pytest.raises(UserError, match="and transparent in 2 pixels, the first at row 1, column 2; save it"):
            read_stored(tmp_path / "mask.png")


@pytest.mark.parametrize(
    ("name", "pixels", "saving", "said"),
    [
        ("a.png", np.zeros((4, 4, 3), np.uint16), {}, "is 16-bit RGB; save masks as PNG"),
        ("a.tif", np.zeros((4, 4), np.float32), {}, "is a TIFF file of mode F; save masks as PNG"),
        ("a.jpg", np.zeros((4, 4), np.uint8), {}, "is a JPEG file, whose compression changes label ids and colours"),
        ("a.png", b"no image", {}, "is not a PNG, BMP, TIFF or WebP file"),
        ("a.gif", np.zeros((4, 4), np.uint8), {}, "is not a PNG, BMP, TIFF or WebP file"),
        ("a.ppm", np.zeros((4, 4, 3), np.uint8), {}, "is not a PNG, BMP, TIFF or WebP file"),
        ("a.webp", np.zeros((4, 4, 3), np.uint8), {"quality": 80}, "is a lossy WebP file"),
        ("a.tif", np.zeros((16, 16, 3), np.uint8), {"compression": "jpeg"}, "is a TIFF file with lossy compression"),
        ("a.tif", np.zeros((4, 4), np.uint8), {"tiffinfo": {262: 0}}, "whose gray values run from white to black"),
        ("a.tif", np.full((4, 4), -1, np.int32), {}, "is a TIFF file of mode I; save masks as PNG"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, name: str, pixels: object, saving: dict, said: str) -> None:
    path = tmp_path / name
    if isinstance(pixels, bytes):
        path.write_bytes(pixels)
    elif pixels.dtype == np.uint16:
        assert cv2.imwrite(str(path), pixels)
    else:
        Image.fromarray(pixels).save(path, **saving)
    with pytest.raises(UserError, match=said) as caught:
        read_stored(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_palette_that_shows_grays_is_gray(tmp_path: Path) -> None:
    for colors, gray in (([0, 0, 0, 128, 128, 128, 255, 255, 255], True), ([0] * 3 + [255] * 3 + [128] * 3, False)):
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
        image.putpalette(colors)
        image.save(tmp_path / "mask.png")
        assert read_stored(tmp_path / "mask.png").is_gray == gray


def test_colours_are_no_ids(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="is 8-bit RGB; save it with one label id per pixel"):
        read_mask(tmp_path / "mask.png")
