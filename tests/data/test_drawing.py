import cv2
import numpy as np
import pytest

from icnet.data.drawing import CORRECT, IGNORED, PAPER, WRONG, error_map, legend, overlay, save, side_by_side
from icnet.data.labels import CAMVID_CLASSES, CITYSCAPES_CLASSES


def test_overlay_blends_classes_and_keeps_ignored_pixels():
    image = np.full((1, 3, 3), 100, np.uint8)
    mask = np.array([[0, 10, 255]])
    result = overlay(image, mask, CITYSCAPES_CLASSES, alpha=0.5)

    assert result.dtype == np.uint8
    # road is (128, 64, 128), sky (70, 130, 180)
    assert result.tolist() == [[[114, 82, 114], [85, 115, 140], [100, 100, 100]]]
    assert overlay(image, mask, CITYSCAPES_CLASSES, alpha=1.0)[0, 0].tolist() == [128, 64, 128]


def test_overlay_keeps_the_image_where_no_class_is():
    image = np.full((1, 3, 3), 100, np.uint8)
    assert np.array_equal(overlay(image, np.array([[-1, 256, 19]]), CITYSCAPES_CLASSES), image)


def test_error_map_tells_right_wrong_and_ignored():
    result = error_map(np.array([[1, 2, 3]]), np.array([[1, 1, 255]]))
    assert result.tolist() == [[list(CORRECT), list(WRONG), list(IGNORED)]]


def test_legend_shows_the_colours_of_present_classes():
    picture = legend(CAMVID_CLASSES, {3, 8, 255}, width=300)
    colours = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}

    assert picture.shape[1] == 300
    assert {CAMVID_CLASSES.palette[3], CAMVID_CLASSES.palette[8], PAPER} <= colours
    assert CAMVID_CLASSES.palette[0] not in colours


def test_legend_wraps_into_the_width():
    wide, narrow = legend(CITYSCAPES_CLASSES, width=1600), legend(CITYSCAPES_CLASSES, width=1)
    assert wide.shape[0] < narrow.shape[0]
    assert narrow.shape[1] > 100  # as wide as one column needs
    assert legend(CITYSCAPES_CLASSES, ()).shape[1] == 640


def test_side_by_side_matches_heights_and_titles():
    pictures = [np.zeros((40, 60, 3), np.uint8), np.full((80, 100, 3), 7, np.uint8)]
    assert side_by_side(pictures, gap=4).shape == (40, 60 + 4 + 50, 3)
    titled = side_by_side(pictures, ["one", "two"])
    assert titled.shape == (66, 114, 3)
    assert (titled[26:, :60] == 0).all()
    assert (titled[26:, 64:] == 7).all()


def test_picture_that_cannot_be_written_is_an_error_of_the_file_system(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(OSError, match="could not be written"):
        save(tmp_path / "x.strange", picture)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        save(tmp_path / "file" / "x.png", picture)


def test_picture_before_stays_where_a_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    save(path, np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        save(path, np.full((4, 4, 3), 255, np.uint8))
    assert not cv2.imread(str(path)).any()
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]
