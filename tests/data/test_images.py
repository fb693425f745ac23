"""Image files as people have them: turned, of 16 bits, with things behind their end, damaged."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from icnet.data import images as module
from icnet.data.images import image_size, read_image, verify_image
from icnet.data.masks import read_mask
from icnet.deploy.api import to_rgb
from icnet.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
SMOOTH = cv2.resize(NOISE[:6, :8], (256, 192), interpolation=cv2.INTER_CUBIC)


def encoded(pixels: np.ndarray, kind: str = "JPEG", **saving: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **saving)
    return buffer.getvalue()


@pytest.fixture(params=["fast decoder", "OpenCV"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode with and without the optional package."""
    if request.param == "OpenCV":
        monkeypatch.setattr(module, "decode_png", None)
    else:
        pytest.importorskip("kornia_rs")


# EXIF 2.32, 4.6.4: on which sides of the picture the stored row 0 and column 0 are to be shown.
SIDES = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


def shown_corner(pixels: np.ndarray, sides: set[str]) -> np.ndarray:
    """Return the mean colour of an 8x8 corner, such as that of top and left."""
    rows = slice(0, 8) if "top" in sides else slice(-8, None)
    columns = slice(0, 8) if "left" in sides else slice(-8, None)
    return pixels[rows, columns].mean((0, 1))


OPPOSITE = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "16-bit PNG", "16-bit TIFF"])
def test_picture_is_shown_as_exif_says(tmp_path: Path, decoder: None, kind: str, orientation: int) -> None:
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16] = (250, 0, 0)  # red where row 0 meets column 0
    stored[:16, 32:] = (0, 250, 0)  # green at the other end of row 0
    path, exif = tmp_path / "picture", Image.Exif()
    exif[0x0112] = orientation
    if kind == "16-bit PNG":
        path.write_bytes(_with_chunk(cv2.imencode(".png", stored[..., ::-1].astype(np.uint16) * 257)[1], exif))
    elif kind == "16-bit TIFF":
        path.write_bytes(_oriented_tiff(cv2.imencode(".tiff", stored[..., ::-1].astype(np.uint16) * 257)[1], exif))
    else:
        path.write_bytes(encoded(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    pixels = read_image(path)

    row_0, column_0 = SIDES[orientation]
    assert pixels.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    assert image_size(path) == pixels.shape[:2]
    np.testing.assert_allclose(shown_corner(pixels, {row_0, column_0}), (250, 0, 0), atol=8)
    np.testing.assert_allclose(shown_corner(pixels, {row_0, OPPOSITE[column_0]}), (0, 250, 0), atol=8)
    np.testing.assert_allclose(shown_corner(pixels, {OPPOSITE[row_0], column_0}), 0, atol=8)
    if not kind.startswith("16"):
        np.testing.assert_allclose(to_rgb(Image.open(path)), pixels, atol=8)  # another decoder for JPEG


def _with_chunk(png: np.ndarray, exif: Image.Exif, at: int = 33) -> bytes:
    """Put an eXIf chunk into a PNG file, behind IHDR or elsewhere."""
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    data = bytes(png)
    return data[:at] + chunk + data[at:]


def _oriented_tiff(tiff: np.ndarray, exif: Image.Exif) -> bytes:
    """Give a TIFF file of OpenCV, which is little-endian, another value of its tag Orientation."""
    data = bytearray(tiff)
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = [at + 2 + 12 * number for number in range(count)]
    for entry in entries:
        if struct.unpack_from("<H", data, entry)[0] == 0x0112:
            struct.pack_into("<H", data, entry + 8, exif[0x0112])
            return bytes(data)
    # There is none: a new directory at the end, with one more entry at its place.
    value = struct.pack("<HHIHH", 0x0112, 3, 1, exif[0x0112], 0)
    rows = sorted([bytes(data[entry : entry + 12]) for entry in entries] + [value], key=lambda row: row[:2][::-1])
    struct.pack_into("<I", data, 4, len(data))
    return bytes(data) + struct.pack("<H", count + 1) + b"".join(rows) + b"\0\0\0\0"


def test_exif_behind_the_pixels_of_a_png_counts(tmp_path: Path, decoder: None) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    png = encoded(NOISE, "PNG")
    (tmp_path / "a.png").write_bytes(_with_chunk(np.frombuffer(png, np.uint8), exif, len(png) - 12))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(NOISE, -1))
    assert image_size(tmp_path / "a.png") == (64, 48)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_mask_is_turned_as_its_exif_says(tmp_path: Path, kind: str) -> None:
    exif, ids = Image.Exif(), np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    exif[0x0112] = 6
    (tmp_path / "mask").write_bytes(encoded(ids, kind, exif=exif))
    assert read_mask(tmp_path / "mask").tolist() == [[4, 1], [5, 2], [6, 3]]
    assert image_size(tmp_path / "mask") == (3, 2)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_turns_nothing(tmp_path: Path) -> None:
    for exif in (b"Exif\0\0no tiff", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        (tmp_path / "a.jpg").write_bytes(encoded(NOISE, exif=exif))
        assert read_image(tmp_path / "a.jpg").shape == image_size(tmp_path / "a.jpg") + (3,) == NOISE.shape


JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "with restarts": {"restart_marker_blocks": 3},
    "4:4:4": {"subsampling": 0},
    "with a thumbnail": {"exif": b"Exif\0\0" + bytes(60) + encoded(NOISE)},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_with_a_trailer_is_whole(tmp_path: Path, kind: str) -> None:
    data = encoded(SMOOTH, **JPEGS[kind])
    (tmp_path / "plain.jpg").write_bytes(data)
    expected = read_image(tmp_path / "plain.jpg")
    assert expected.shape == SMOOTH.shape
    assert np.abs(expected.astype(int) - SMOOTH).mean() < 12
    film = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 80
    for trailer in (film, encoded(NOISE) + film, b"\0" * 9000):
        (tmp_path / "trailer.jpg").write_bytes(data + trailer)
        np.testing.assert_array_equal(read_image(tmp_path / "trailer.jpg"), expected)
        verify_image(tmp_path / "trailer.jpg")


def test_first_image_of_several_in_a_jpeg_is_read(tmp_path: Path) -> None:
    path, buffer = tmp_path / "panorama.jpg", io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(NOISE)])
    data = buffer.getvalue()
    path.write_bytes(data)
    assert read_image(path).shape == (*image_size(path), 3) == SMOOTH.shape
    assert np.abs(read_image(path).astype(int) - SMOOTH).mean() < 12
    verify_image(path)
    second = data.index(b"\xff\xd9") + 2
    path.write_bytes(data[: second // 2] + data[second - 2 :])
    for read in (read_image, verify_image):
        with pytest.raises(UserError, match=r"panorama\.jpg is truncated"):
            read(path)


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("then", ["nothing", "an end marker", "zeros", "a trailer"])
def test_jpeg_whose_scan_ends_early_is_named(tmp_path: Path, kind: str, share: float, then: str) -> None:
    whole = encoded(SMOOTH, **JPEGS[kind])
    if kind == "progressive":  # its first scan has all blocks, the others add detail
        share *= len(whole[: whole.index(b"\xff\xc4", whole.index(b"\xff\xda"))]) / len(whole)
    start = whole.rindex(b"\xff\xda") if kind != "progressive" else whole.index(b"\xff\xda")
    cut = start + 14 + int((len(whole) * (1 if kind != "progressive" else share) - start - 14) * share)
    data = whole[:cut] + {
        "nothing": b"", "an end marker": b"\xff\xd9", "zeros": bytes(9000), "a trailer": b"\xff\xd9" + encoded(NOISE)
    }[then]  # fmt: skip
    path = tmp_path / "cut.jpg"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"cut\.jpg is truncated after {len(data)} bytes; copy or download it again"):
        read_image(path)
    with pytest.raises(UserError, match=r"cut\.jpg is truncated"):
        verify_image(path)


def test_progressive_jpeg_without_its_last_detail_is_found(tmp_path: Path) -> None:
    whole, path = encoded(SMOOTH, progressive=True), tmp_path / "cut.jpg"
    cut = (whole.rindex(b"\xff\xda") + len(whole)) // 2  # in the last scan
    path.write_bytes(whole[:cut])
    for read in (read_image, verify_image):
        with pytest.raises(UserError, match=r"cut\.jpg is truncated"):
            read(path)
    path.write_bytes(whole[:cut] + b"\xff\xd9")  # training takes it: each pixel is there, only less sharp
    assert np.abs(read_image(path).astype(int) - SMOOTH).mean() < 12
    with pytest.raises(UserError, match=r"cut\.jpg is truncated"):
        verify_image(path)


def test_jpeg_without_end_marker_is_read_if_its_scan_is_whole(tmp_path: Path) -> None:
    data = encoded(SMOOTH)
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.jpg").write_bytes(data.removesuffix(b"\xff\xd9"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), read_image(tmp_path / "b.jpg"))


@pytest.mark.parametrize("kind", JPEGS)
def test_gray_corner_is_no_damage(tmp_path: Path, kind: str) -> None:
    gray = SMOOTH.copy()
    gray[-40:] = 128
    (tmp_path / "a.jpg").write_bytes(encoded(gray, **JPEGS[kind]))
    assert read_image(tmp_path / "a.jpg")[-1, -1].tolist() == [128, 128, 128]
    verify_image(tmp_path / "a.jpg")


def test_png_may_go_on_behind_its_end(tmp_path: Path, decoder: None) -> None:
    (tmp_path / "a.png").write_bytes(encoded(NOISE, "PNG") + bytes(9000))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), NOISE)
    verify_image(tmp_path / "a.png")


def test_every_flipped_bit_of_a_png_is_found(tmp_path: Path, decoder: None) -> None:
    data, rng = encoded(NOISE, "PNG"), np.random.default_rng(0)
    path = tmp_path / "a.png"
    said = []
    for at in [*range(8, 57), *rng.integers(57, len(data), 60).tolist()]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        for thorough in (True, False):
            with pytest.raises(UserError, match=r"a\.png"):
                verify_image(path, thorough=thorough)
        try:
            said.append("" if np.array_equal(read_image(path), NOISE) else f"another image for byte {at}")
        except UserError as error:
            said.append(str(error))
    # Training names the file, or reads what was meant.
    assert [text for text in said if text and "a.png" not in text] == []
    assert sum("a.png" in text for text in said) > 60


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_cut_file_is_named(tmp_path: Path, decoder: None, kind: str) -> None:
    data = encoded(NOISE, kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / "cut.file"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_image(path), NOISE)
    verify_image(path)
    for share in (0.02, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UserError, match=r"cut\.file"):
            read_image(path)
        with pytest.raises(UserError, match=r"cut\.file"):
            verify_image(path)


def test_missing_file_is_named_by_all(tmp_path: Path) -> None:
    for read in (read_image, image_size, verify_image, read_mask):
        with pytest.raises(UserError, match=r"absent\.png cannot be read"):
            read(tmp_path / "absent.png")
    (tmp_path / "text.png").write_bytes(b"no image")
    for read in (read_image, image_size, verify_image):
        with pytest.raises(UserError, match=r"text\.png cannot be decoded"):
            read(tmp_path / "text.png")


RAMP = np.linspace(0, 1, 64 * 48).reshape(48, 64, 1).repeat(3, 2)
EIGHT = np.round(RAMP * 255)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_image_is_scaled_by_its_bits(tmp_path: Path, suffix: str, channels: int, bits: int) -> None:
    path = tmp_path / f"a{suffix}"
    values = np.round(RAMP * (2**bits - 1)).astype(np.uint16)
    assert cv2.imwrite(str(path), values[..., :channels])
    np.testing.assert_allclose(read_image(path, bits=bits), EIGHT, atol=1)
    if bits == 16:
        np.testing.assert_array_equal(read_image(path), read_image(path, bits=16))
        with pytest.raises(UserError, match="holds the value 65535, more than the 12 bits of data.image_bits=12;"):
            read_image(path, bits=12)
    else:
        with pytest.raises(
            UserError, match=rf"has 16 bits per channel but no value above {2**bits - 1}, .*data.image_bits"
        ):
            read_image(path)


def test_16_bit_values_are_rounded(tmp_path: Path) -> None:
    values = np.array([[[0, 128, 129], [385, 386, 65535]]], np.uint16)  # 257 apart, so halves are at 128.5 and 385.5
    assert cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1])
    assert read_image(tmp_path / "a.png").tolist() == [[[0, 0, 1], [1, 2, 255]]]
    dark = (values // 2).clip(max=2000)
    assert cv2.imwrite(str(tmp_path / "a.png"), dark[..., ::-1])
    assert read_image(tmp_path / "a.png", bits=16).max() == round(2000 / 257)


def test_gray_transparent_and_cmyk_images_become_rgb(tmp_path: Path, decoder: None) -> None:
    path = tmp_path / "picture"
    gray = NOISE[..., 0]
    for mode, expected in (
        ("L", np.repeat(gray[..., None], 3, 2)),
        ("LA", np.repeat(gray[..., None], 3, 2)),
        ("RGBA", NOISE),
    ):
        image = Image.fromarray(gray if mode[0] == "L" else NOISE).convert(mode)
        if mode.endswith("A"):
            image.putalpha(Image.fromarray(gray))
        image.save(path, "PNG")
        np.testing.assert_array_equal(read_image(path), expected)
        np.testing.assert_array_equal(to_rgb(Image.open(path)), expected)
    Image.fromarray(SMOOTH).convert("CMYK").save(path, "JPEG", quality=95)
    pixels = read_image(path)
    assert np.abs(pixels.astype(int) - SMOOTH).mean() < 4
    np.testing.assert_allclose(pixels, np.array(Image.open(path).convert("RGB")), atol=6)


def test_floats_are_refused(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.tiff"), RAMP.astype(np.float32))
    with pytest.raises(UserError, match="holds float32 values; save it with 8 or 16 bits per channel"):
        read_image(tmp_path / "a.tiff")
