"""A person's own folder."""

from pathlib import Path

import numpy as np
import pytest

from icnet.data.classes_file import read_classes
from icnet.data.dataset import SegmentationDataset
from icnet.data.folder import Folder
from icnet.errors import UserError

ROAD = "{name: road, color: [128, 64, 128]}"
CAR, BUS = "{name: car, color: [0, 0, 142], %s}", "{name: bus, color: [0, 60, 100], %s}"


def test_folder_gives_samples(folder_root: Path) -> None:
    own = Folder(folder_root)
    samples, classes, table = own.list_samples("train"), own.classes, own.label_table
    assert [sample.image.name for sample in samples] == ["a.png", "b.JPG"]
    item = SegmentationDataset(samples, classes, table)[1]
    assert item["image"].shape == (3, *item["mask"].shape)
    assert set(np.unique(item["mask"])) == {0, 1, 255}
    assert classes.names == ("road", "car")
    assert classes.palette == ((128, 64, 128), (0, 0, 142))


def test_classes_file_may_lie_elsewhere_with_categories_and_ignored_ids(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("classes: [{name: road, color: [1, 2, 3], category: flat}]\nignore: [7, 9]")
    own = Folder(None, file)
    classes, table = own.classes, own.label_table
    assert classes.categories == ("flat",)
    assert {value: int(table[value]) for value in np.flatnonzero(table >= 0).tolist()} == {
        0: 0,
        7: 255,
        9: 255,
        255: 255,
    }


def test_class_has_the_ids_that_it_is_given_or_its_position(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"classes: [{CAR % 'ids: [255, 9]'}, {ROAD}]\nignore: [0, [1, 2, 3]]")
    listed = read_classes(file)
    assert {int(stored): int(listed.label_table[stored]) for stored in np.flatnonzero(listed.label_table >= 0)} == {
        0: 255,
        1: 1,
        9: 0,
        255: 0,  # a class's, so not ignored
    }
    assert listed.color_table == [((0, 0, 142), 0), ((128, 64, 128), 1), ((1, 2, 3), 255)]
    file.write_text(f"classes: [{CAR % 'ids: [1000]'}]")
    large = read_classes(file).label_table
    assert large.shape == (65536,)
    assert np.flatnonzero(large >= 0).tolist() == [255, 1000]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: [", "is not valid YAML"),
        ("", "NoneType at its top"),
        ("klasses: []", r"\['klasses'\] at its top"),
        ("classes: []", "lists 0 classes"),
        ("ignore: [3]", "lists no classes"),
        ("classes: [" + ", ".join(f"{{name: c{i}, color: [0, 0, 0]}}" for i in range(256)) + "]", "lists 256 classes"),
        (f"classes: [{ROAD}, {ROAD}]", "lists road more than once"),
        ("classes: [{name: road}]", "class 0 is .*give it name, color"),
        ("classes: [{name: road, color: [0, 0, 0], kategory: x}]", "class 0 is .*give it name, color"),
        ("classes: [{name: 5, color: [0, 0, 0]}]", "class 0 is called 5"),
        ("classes: [{name: road, color: [0, 0, 256]}]", r"road has color \[0, 0, 256\]"),
        ("classes: [{name: road, color: [0, 0]}]", r"road has color \[0, 0\]"),
        ("classes: [{name: road, color: red}]", "road has color red"),
        (f"classes: [{ROAD}, {{name: car, color: [0, 0, 0], category: x}}]", "1 of 2 classes a category"),
        (f"classes: [{ROAD}]\nignore: [0]", "ignores label id 0, which is class road"),
        (f"classes: [{ROAD}]\nignore: 254", "ignore: 254; give a list"),
        (f"classes: [{ROAD}]\nignore: [70000]", r"ignore: \[70000\]; give a list of label ids from 0 to 65535"),
        (f"classes: [{ROAD}]\nignore: [[0, 0]]", r"ignore: \[\[0, 0\]\]; give a list .* colours \[R, G, B\]"),
        (f"classes: [{ROAD}]\nignore: [[128, 64, 128]]", r"ignores the colour \[128, 64, 128\], which is that of road"),
        (
            "classes: [{name: road, color: [0, 0, 0], ids: 5}]",
            "road has ids 5; give a list .* for 0, its position",
        ),
        ("classes: [{name: road, color: [0, 0, 0], ids: []}]", r"class road has ids \[\]; give a list"),
        ("classes: [{name: road, color: [0, 0, 0], ids: [65536]}]", r"ids \[65536\]; give a list .* from 0 to 65535"),
        ("classes: [{name: road, color: [0, 0, 0], ids: [true]}]", r"ids \[True\]; give a list"),
        (f"classes: [{ROAD}, {CAR % 'ids: [1, 0]'}]", "no ids, and its position 0 is an id of car; give ids to road"),
        (f"classes: [{CAR % 'ids: [7]'}, {BUS % 'ids: [6, 7]'}]", "gives label id 7 to car and to bus"),
        (f"classes: [{CAR % 'ids: [7]'}]\nignore: [7]", "ignores label id 7, which is class car"),
    ],
)
def test_bad_classes_file_is_explained(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        _ = Folder(tmp_path).classes
    assert "classes.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_classes_file_names_key(folder_root: Path) -> None:
    (folder_root / "classes.yaml").unlink()
    with pytest.raises(UserError, match=r"classes\.yaml cannot be read; .*data\.classes"):
        _ = Folder(folder_root).classes


def test_unknown_split_lists_known(folder_root: Path) -> None:
    with pytest.raises(UserError, match="split test is unknown; .*train, val"):
        Folder(folder_root).list_samples("test")


def test_folder_without_images_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no images/<split> folder"):
        Folder(tmp_path).list_samples("train")


def test_two_images_of_one_name_are_refused(folder_root: Path) -> None:
    (folder_root / "images/train/a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.jpg and a\.png share one mask name"):
        Folder(folder_root).list_samples("train")


def test_image_without_mask_is_named(folder_root: Path) -> None:
    (folder_root / "masks/train/b.png").unlink()
    with pytest.raises(UserError, match=r"1 image file.*b\.JPG; .*masks/train/NAME\.png"):
        Folder(folder_root).list_samples("train")
