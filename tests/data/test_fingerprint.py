"""What tells a data set from another one."""

import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image

from icnet.data.base import SamplePaths
from icnet.data.camvid import CamVid
from icnet.data.cityscapes import Cityscapes
from icnet.data.fingerprint import fingerprint, split_fingerprint
from icnet.data.folder import Folder
from icnet.run.differences import data_changes
from icnet.run.results import DataFingerprint
from tests.data.conftest import write_image, write_mask


def taken(root, **splits):
    return fingerprint(CamVid(root), train="train", val="val", **splits)


def test_fingerprint_is_the_documented_one(camvid_root):
    found = taken(camvid_root)
    files = {name: camvid_root / "train" / f"{name}.png" for name in ("0001TP_006690", "0006R0_f00930")}
    sizes = {name: (path.stat().st_size, (camvid_root / "trainannot" / path.name).stat().st_size)
             for name, path in files.items()}  # fmt: skip
    lines = "\n".join(f"{name}\0{image}\0{mask}" for name, (image, mask) in sizes.items())
    assert found.train.samples == 2
    assert found.train.bytes == sum(map(sum, sizes.values()))
    assert found.train.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert found.train.names_sha256 == hashlib.sha256(b"0001TP_006690\n0006R0_f00930").hexdigest()
    assert found.classes[:3] == ["sky", "building", "pole"]
    assert (found.labels["sky"], found.labels["bicyclist"], found.ignored) == ("0", "10", "11")


def test_copy_in_another_folder_is_the_same_data(camvid_root, tmp_path):
    shutil.copytree(camvid_root, tmp_path / "elsewhere")
    assert taken(tmp_path / "elsewhere") == taken(camvid_root)


def test_every_change_of_the_files_is_named(camvid_root):
    before = taken(camvid_root)
    image, mask = camvid_root / "val" / "0016E5_07959.png", camvid_root / "valannot" / "0016E5_07959.png"
    old = image.read_bytes(), mask.read_bytes()
    for path, content in ((image, old[0]), (mask, old[1])):
        path.write_bytes(content + b"x")
        size = before.val.bytes
        expected = f"val has files of other sizes, {size} bytes in all before and {size + 1} now"
        assert data_changes(before, taken(camvid_root)) == [expected]
        path.write_bytes(content)
    for path in (image, mask):
        path.rename(path.with_name("another.png"))
    assert data_changes(before, taken(camvid_root)) == ["val had 1 samples, has as many of other names"]
    write_image(camvid_root / "val" / "more.png")
    write_mask(camvid_root / "valannot" / "more.png", range(12))
    assert data_changes(before, taken(camvid_root)) == ["val had 1 samples, has 2"]


def test_bytes_that_go_from_one_file_to_another_are_noticed(camvid_root):
    before = taken(camvid_root)
    first, second = sorted((camvid_root / "train").iterdir())
    first.write_bytes(first.read_bytes() + b"x")
    second.write_bytes(second.read_bytes()[:-1])
    after = taken(camvid_root)
    assert before.train.bytes == after.train.bytes
    assert data_changes(before, after)[0].startswith("train has files of other sizes")


def test_order_of_the_list_does_not_matter(camvid_root):
    samples = CamVid(camvid_root).list_samples("train")
    assert split_fingerprint(samples) == split_fingerprint(samples[::-1])


def test_labels_of_the_same_size_with_other_content_are_other_data(tmp_path):
    samples = []
    for number in range(40):
        mask = tmp_path / f"{number}.bmp"
        mask.write_bytes(bytes([number]) * 50)
        samples.append(SamplePaths(f"{number:02d}", mask, mask))
    before = split_fingerprint(samples)
    assert split_fingerprint(samples[::-1]) == before
    for sample in samples:
        sample.mask.write_bytes(bytes([7]) * 50)
    after = split_fingerprint(samples)
    assert after.sha256 == before.sha256
    told = data_changes(DataFingerprint(val=before), DataFingerprint(val=after))
    assert told == ["val has label files of the same sizes with other content"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("classes: [{name: road, color: [0, 0, 0]}, {name: car, color: [0, 0, 142]}]", []),  # only painted otherwise
        ("classes: [{name: car, color: [1, 1, 1]}, {name: road, color: [2, 2, 2]}]", ["class 0 was road, is car"]),
        ("classes: [{name: road, color: [1, 1, 1]}, {name: bus, color: [2, 2, 2]}]", ["class 1 was car, is bus"]),
        (
            "classes: [{name: road, color: [1, 1, 1]}, {name: car, color: [2, 2, 2]}]\nignore: [7]",
            ["label ids that do not count were 255, are 7,255"],
        ),
        (
            "classes: [{name: road, color: [1, 1, 1]}, {name: car, color: [2, 2, 2]}, {name: x, color: [3, 3, 3]}]",
            ["there were 2 classes, are 3"],
        ),
    ],
)
def test_change_of_the_class_table_is_named(tmp_path, text, expected):
    tables = []
    for number, content in enumerate(
        ("classes: [{name: road, color: [1, 1, 1]}, {name: car, color: [2, 2, 2]}]", text)
    ):
        file = tmp_path / f"{number}.yaml"
        file.write_text(content)
        tables.append(fingerprint(Folder(tmp_path, file), train=None, val=None))
    assert data_changes(*tables) == expected


def test_classes_that_are_stored_under_other_numbers_are_named(cityscapes_root):
    ids, train_ids = (
        fingerprint(Cityscapes(cityscapes_root, kind), train=None, val=None) for kind in ("labelIds", "labelTrainIds")
    )
    (change,) = data_changes(ids, train_ids)
    assert change.endswith("was stored as 7, is stored as 0") or "was stored as" in change


def test_image_without_labels_has_a_fingerprint(cityscapes_root):
    found = fingerprint(Cityscapes(cityscapes_root), train=None, val="test")
    assert (found.train, found.val.samples) == (None, 1)
    image = cityscapes_root / "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png"
    assert found.val.bytes == image.stat().st_size


def test_what_only_one_side_tells_is_not_compared(camvid_root):
    whole, val = taken(camvid_root), fingerprint(CamVid(camvid_root), train=None, val="val")
    assert data_changes(whole, val) == data_changes(val, whole) == []


@pytest.mark.parametrize("by_color", [True, False])
def test_colours_of_classes_count_where_masks_hold_colours(tmp_path, by_color):
    colors = np.array([(10, 0, 0), (0, 99, 0)], np.uint8)
    for split in ("train", "val"):
        write_image(tmp_path / "images" / split / "a.png")
        labels = np.arange(8, dtype=np.uint8).reshape(2, 4) % 2
        path = tmp_path / "masks" / split / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(colors[labels] if by_color else labels).save(path)

    def told(first, second):
        (tmp_path / "classes.yaml").write_text(f"classes: [{{name: a, color: {first}}}, {{name: b, color: {second}}}]")
        return fingerprint(Folder(tmp_path), train="train", val="val")

    before, after = told([10, 0, 0], [0, 99, 0]), told([0, 99, 0], [10, 0, 0])
    assert len(data_changes(before, after)) == by_color
    if by_color:
        assert data_changes(before, after) == ["class a was painted 10,0,0, is painted 0,99,0"]
