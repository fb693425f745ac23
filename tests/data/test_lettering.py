"""Names in any script: drawn with their own letters, or a number with a key, never boxes or question marks."""

import cv2
import matplotlib as mpl
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw, ImageFont, features

from icnet.data import lettering
from icnet.data.drawing import INK, PAPER, legend, shown_names, write_key
from icnet.data.labels import ClassTable

DEJAVU = f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
CHINESE = "道路"


@pytest.fixture(autouse=True)
def _fresh():
    yield
    for cached in (lettering.find_font, lettering._pillow_font, lettering._letters):
        cached.cache_clear()


@pytest.fixture
def fonts(monkeypatch):
    """Choose the fonts that the machine has."""

    def choose(*paths) -> None:
        for cached in (lettering.find_font, lettering._pillow_font, lettering._letters):
            cached.cache_clear()
        monkeypatch.setattr(lettering, "font_files", lambda: iter(paths))

    return choose


@pytest.fixture
def chinese_font(tmp_path):
    """A font with two letters alone: a wide bar and a high one."""
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", "wide", "high"]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord("道"): "wide", ord("路"): "high"})
    glyphs = {}
    for name, (width, height) in {".notdef": (900, 900), "wide": (900, 200), "high": (200, 900)}.items():
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, height), (width, height), (width, 0)):
            pen.lineTo(corner)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Two", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "two.ttf")
    return tmp_path / "two.ttf"


def table(*names: str) -> ClassTable:
    return ClassTable(names, tuple((40 * i, 200, 90) for i in range(len(names))))


def ink(picture: np.ndarray) -> np.ndarray:
    """Where text is: right of the swatches, darker than paper."""
    return picture[:, 45:].min(2) < 150


@pytest.mark.parametrize("name", ["дорога", "δρόμος", "Straße", "œuvre d’art"])
def test_letters_of_the_own_font_are_drawn_as_pillow_draws_them(fonts, name):
    fonts(DEJAVU)
    picture = legend(table(name))
    canvas = Image.new("RGB", (picture.shape[1], picture.shape[0]), PAPER)
    ImageDraw.Draw(canvas).text((46, 22), name, INK, ImageFont.truetype(DEJAVU, lettering.SIZE), anchor="ls")
    assert np.array_equal(picture[:, 45:], np.asarray(canvas)[:, 45:])
    assert shown_names(table(name)) == [name]


def test_letters_that_only_another_font_has_are_drawn_with_it(fonts, chinese_font):
    fonts(DEJAVU, chinese_font)
    assert lettering.find_font(CHINESE) == chinese_font
    assert shown_names(table(CHINESE, "road")) == [CHINESE, "road"]
    rows, columns = np.nonzero(ink(legend(table(CHINESE))))
    # 15 pixels to 1000 units: the wide bar is 13.5 x 3, the high one 3 x 13.5 and 15 further right.
    assert np.ptp(rows) + 1 in (13, 14)
    assert np.ptp(columns) + 1 in (17, 18, 19)
    wide = ink(legend(table("道")))
    assert wide.any(0).sum() in (13, 14)
    assert wide.any(1).sum() in (2, 3, 4)


@pytest.mark.parametrize("names", [(CHINESE, "sky"), ("sky", "सड़क", "道路")])
def test_name_without_a_font_becomes_its_number_with_a_key(fonts, tmp_path, caplog, names):
    fonts(DEJAVU)
    classes = table(*names)
    shown = [name if name == "sky" else str(i) for i, name in enumerate(names)]
    assert shown_names(classes) == shown
    assert np.array_equal(legend(classes), legend(ClassTable(tuple(shown), classes.palette)))
    write_key(tmp_path / "legend.png", classes, shown)
    lines = (tmp_path / "legend.txt").read_text("utf-8").splitlines()
    assert lines == [f"{i} {name}" for i, name in enumerate(names) if name != "sky"]
    assert f"shows numbers for {len(lines)} class names: no font here has the letters of" in caplog.text
    write_key(tmp_path / "legend.png", classes, names)  # a font has been installed
    assert not (tmp_path / "legend.txt").exists()


def test_no_font_at_all_leaves_ascii_as_it_was(fonts):
    fonts()
    assert shown_names(table("traffic light", "~{|}")) == ["traffic light", "~{|}"]
    assert shown_names(table("Straße", "two\nlines")) == ["0", "1"]
    picture = legend(table("road"))
    wanted = picture.copy()
    wanted[:, 45:] = PAPER
    cv2.putText(wanted, "road", (46, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    assert np.array_equal(picture, wanted)


@pytest.mark.parametrize("name", ["شارع", "רחוב", "सड़क", "ถนนที่"])
def test_letters_that_change_with_their_neighbours_need_a_library(fonts, monkeypatch, name):
    assert lettering.needs_shaping(name)
    monkeypatch.setattr(lettering, "find_font", lambda text: DEJAVU)
    monkeypatch.setattr(features, "check", lambda feature: feature != "raqm")
    lettering._pillow_font.cache_clear()
    assert shown_names(table(name)) == ["0"]


def test_letters_that_stand_alone_need_none():
    assert not any(map(lettering.needs_shaping, ("дорога", "δρόμος", CHINESE, "도로", "みち", "road 66")))


def test_file_that_is_no_font_is_passed_over(fonts, tmp_path, chinese_font):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    fonts(tmp_path / "broken.ttf", tmp_path / "absent.ttf", chinese_font)
    assert lettering.find_font(CHINESE) == chinese_font


def test_machine_has_at_least_the_own_font():
    assert str(next(lettering.font_files())) == DEJAVU
