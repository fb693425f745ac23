"""Looking through files before a training: what is found, and that only what training refuses is refused."""

import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from icnet.data import check, known
from icnet.data.base import SamplePaths
from icnet.data.dataset import SegmentationDataset
from icnet.data.known import Known
from icnet.data.labels import ClassTable, train_id_table

CLASSES = ClassTable(("road", "car", "tree"), ((128, 64, 128), (0, 0, 142), (0, 128, 0)))
TABLE = train_id_table([(0, 0), (1, 1), (2, 2), (255, 255)])
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def write(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture
def make(tmp_path):
    """A split whose masks are the arrays that are given, one for each sample; None for a sample without labels."""

    def made(*masks: np.ndarray | None, name: str = "train", suffix: str = ".png", **arguments) -> SegmentationDataset:
        samples = []
        for number, mask in enumerate(masks):
            size = NOISE.shape[:2] if mask is None else mask.shape[:2]
            pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
            image = write(tmp_path / f"{name}{number}{suffix}", pixels)
            label = None if mask is None else write(tmp_path / f"{name}{number}_mask.png", mask)
            samples.append(SamplePaths(f"{name}{number}", image, label))
        return SegmentationDataset(samples, CLASSES, TABLE, title=f"own ({name})", **arguments)

    return made


def rows(*values: int) -> np.ndarray:
    """A mask of 8 columns with a row of each value."""
    return np.repeat(np.array(values, np.uint8)[:, None], 8, 1)


def nothing(dataset: SegmentationDataset) -> Known:
    return Known.nothing(len(dataset), len(dataset.classes))


def looked(dataset: SegmentationDataset) -> Known:
    found = nothing(dataset)
    assert check.look_for_classes(dataset, found) == []
    return found


# ---------------------------------------------------------------- headers


def test_headers_find_the_mask_of_another_size(make):
    dataset = make(rows(0, 1), rows(0, 1), rows(2, 2))
    write(dataset.samples[1].mask, rows(0, 1, 2))
    found = nothing(dataset)
    (problem,) = check.look_at_headers(dataset, found, range(len(dataset)))
    assert f"{dataset.samples[1].image} is 8x2 (width x height) but its label mask" in problem
    assert found.size.tolist() == [[2, 8], [0, 0], [2, 8]]


def test_headers_find_what_is_no_picture(make):
    dataset = make(rows(0), rows(1))
    dataset.samples[0].image.write_text("no picture")
    dataset.samples[1].mask.write_bytes(b"")
    problems = check.look_at_headers(dataset, nothing(dataset), range(len(dataset)))
    assert [str(dataset.samples[0].image) in problems[0], str(dataset.samples[1].mask) in problems[1]] == [True, True]


def test_photo_that_its_camera_turned_is_as_large_as_it_is_read(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(NOISE).save(tmp_path / "a.jpg", exif=exif)
    mask = write(tmp_path / "a.png", np.zeros((32, 24), np.uint8))
    dataset = SegmentationDataset([SamplePaths("a", tmp_path / "a.jpg", mask)], CLASSES, TABLE)
    found = nothing(dataset)
    assert check.look_at_headers(dataset, found, range(len(dataset))) == []
    assert found.size.tolist() == [[32, 24]] == [list(dataset[0]["mask"].shape)]


def test_header_that_pillow_cannot_read_is_no_verdict(make, monkeypatch):
    dataset = make(rows(0, 1))
    monkeypatch.setattr(check.Image, "open", lambda path: (_ for _ in ()).throw(OSError("unknown")))
    found = nothing(dataset)
    assert check.look_at_headers(dataset, found, range(len(dataset))) == []
    assert found.size.tolist() == [[2, 8]]


def test_known_files_are_not_read_again(make):
    dataset = make(rows(0, 1))
    found = looked(dataset)
    assert check.look_at_headers(dataset, found, range(len(dataset))) + check.look_at_images(dataset, found, [0]) == []
    for path in (dataset.samples[0].image, dataset.samples[0].mask):
        path.unlink()
    assert check.look_at_headers(dataset, found, range(len(dataset))) + check.look_at_images(dataset, found, [0]) == []
    assert check.look_at_masks(dataset, found, [0]) == []


# ---------------------------------------------------------------- damages


def png_with_a_flipped_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 1
    path.write_bytes(data)


def test_damaged_images_are_all_named(make):
    dataset = make(rows(0), rows(1), rows(2))
    for number in (0, 2):
        png_with_a_flipped_bit(dataset.samples[number].image)
    found = nothing(dataset)
    problems = check.look_at_images(dataset, found, range(3))
    assert [str(dataset.samples[number].image) in line for number, line in zip((0, 2), problems, strict=True)] == [
        True
    ] * 2
    assert found.sound.tolist() == [False, True, False]


# ---------------------------------------------------------------- labels


def test_forbidden_label_ids_are_named_and_the_others_counted(make):
    dataset = make(rows(0, 1, 255), rows(0, 7))
    found = nothing(dataset)
    (problem,) = check.look_at_masks(dataset, found, range(2))
    assert f"{dataset.samples[1].mask} holds label ids 7" in problem
    assert (found.pixels.tolist(), found.ignored.tolist()) == ([[8, 8, 0], [0, 0, 0]], [8, 0])


def test_binary_masks_of_0_and_255_are_told_before_the_first_step(make):
    dataset = make(rows(0, 255), rows(0, 0, 255))
    (line,) = check.label_warnings(dataset, looked(dataset))
    assert "road is the only class in the 2 label masks" in line
    assert "mIoU of 1 (car, tree never occurs)" in line


def test_class_that_never_occurs_is_told(make):
    dataset = make(rows(0, 1), rows(1))
    (line,) = check.label_warnings(dataset, looked(dataset))
    assert "1 of 3 classes never occurs in the 2 label masks: tree; nothing can be learned" in line


def test_labels_with_all_classes_are_nothing_to_speak_of(make):
    dataset = make(rows(0, 1), rows(2))
    found = looked(dataset)
    assert check.label_warnings(dataset, found) + check.score_warnings(dataset, found) == []
    assert check.all_ignored(dataset, found) == ""


def test_labels_that_are_all_ignored_are_told(make):
    dataset = make(rows(255), None)
    found = looked(dataset)
    assert "no pixel is labelled, in the 2 label masks" in check.all_ignored(dataset, found)
    assert "no score" in check.score_warnings(dataset, found)[0]
    assert check.label_warnings(dataset, found) == []  # which would say the same with less weight


def test_validation_that_lacks_a_class_is_told_only_where_a_single_one_is_left(make):
    two, one = make(rows(0, 1), name="two"), make(rows(1), name="one")
    assert check.score_warnings(two, looked(two)) == []
    assert "car is the only class in the only label mask" in check.score_warnings(one, looked(one))[0]


def test_masks_are_decoded_until_each_class_has_occurred(make, monkeypatch):
    monkeypatch.setattr(check, "FIRST_LOOK", 2)
    dataset = make(*[rows(0, 1, 2)] * 7)
    assert looked(dataset).counted.sum() == 2
    lacking = make(*[rows(0, 1)] * 7, name="lacking")
    found = looked(lacking)
    assert found.counted.all()
    monkeypatch.setattr(check, "MOST_LOOKS", 5)
    found = looked(lacking)
    assert found.counted.sum() == 5
    assert "in 5 of 7 label masks, those that were looked at: tree" in check.label_warnings(lacking, found)[0]


def test_batches_of_images_of_other_sizes_are_found_on_the_devices_that_would_have_them(make):
    dataset = make(rows(0), rows(0, 1), rows(0), rows(0, 1))
    found = nothing(dataset)
    check.look_at_headers(dataset, found, range(len(dataset)))
    assert check.mixed_batches(found, dataset.samples, 1, 1) == []
    assert check.mixed_batches(found, dataset.samples, 2, 2) == []  # one device has the low ones, one the high ones
    (line,) = check.mixed_batches(found, dataset.samples, 2, 1)
    assert "train0 is 8x1 and train1 is 8x2; set data.eval_batch_size=1" in line


# ---------------------------------------------------------------- what is kept


def test_what_is_known_is_kept_until_a_file_changes(make):
    dataset = make(rows(0, 1), rows(2))
    key = known.fingerprint(dataset, {"label_table": 1})
    assert not known.load(key, 2, 3).counted.any()
    found = looked(dataset)
    known.keep(key, found)
    again = known.load(known.fingerprint(dataset, {"label_table": 1}), 2, 3)
    assert (again.pixels == found.pixels).all()
    assert again.counted.all()
    assert known.fingerprint(dataset, {"label_table": 2}) != key
    write(dataset.samples[0].mask, rows(0, 1, 2))
    assert known.fingerprint(dataset, {"label_table": 1}) != key


def test_file_of_the_same_size_that_was_written_later_is_another_one(make):
    dataset = make(rows(0))
    key = known.fingerprint(dataset, {})
    stat = dataset.samples[0].mask.stat()
    os.utime(dataset.samples[0].mask, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert known.fingerprint(dataset, {}) != key


def test_damaged_memory_is_no_memory(make, cache):
    dataset = make(rows(0))
    key = known.fingerprint(dataset, {})
    known.keep(key, looked(dataset))
    assert known.load(key, 1, 3).counted.all()
    kept = cache / f"{key}.npz"
    kept.write_bytes(kept.read_bytes()[:100])
    assert not known.load(key, 1, 3).counted.any()


def test_what_cannot_be_kept_is_known_to_this_process(make, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(known.VARIABLE, str(tmp_path / "file" / "below"))
    dataset = make(rows(0))
    key = known.fingerprint(dataset, {})
    with known.alone(key):
        known.keep(key, looked(dataset))
    assert known.load(key, 1, 3).counted.all()


def test_one_process_looks_while_the_others_wait():
    entered = threading.Event()

    def enter() -> None:
        with known.alone("ab"):
            entered.set()

    with known.alone("ab"):
        other = threading.Thread(target=enter)  # a lock belongs to an open file, so that a thread shows it as well
        other.start()
        assert not entered.wait(0.2)
    assert entered.wait(30)
    other.join()
