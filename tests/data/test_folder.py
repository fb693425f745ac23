"""A person's own folder."""

from pathlib import Path

import numpy as np
import pytest

from icnet.config import DataConfig
from icnet.data import public_description
from icnet.data.classes_file import read_classes
from icnet.data.dataset import SegmentationDataset
from icnet.data.folder import Folder
from icnet.errors import UserError
from icnet.factory.data import data_set

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
    with pytest.raises(UserError, match=r"no image .*/images/train/\{stem\} .*; .* holds nothing; set data\.root to"):
        Folder(tmp_path).list_samples("train")


def test_two_images_of_one_name_are_refused(folder_root: Path) -> None:
    (folder_root / "images/train/a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png are both the image 'a'; rename or remove"):
        Folder(folder_root).list_samples("train")


def test_image_without_mask_is_named(folder_root: Path) -> None:
    (folder_root / "masks/train/b.png").unlink()
    with pytest.raises(UserError, match=r"1 image file.*b\.JPG; .*data\.masks=masks/\{split\}/\{stem\} .*=skip"):
        Folder(folder_root).list_samples("train")


# ---------------------------------------------------------------- layouts


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root: Path, split: str = "train", **options: str) -> list[tuple[str, str, str]]:
    """Name, image and mask of each sample, relative to the root."""
    samples = Folder(root, **options).list_samples(split)
    return [
        (sample.name, sample.image.relative_to(root).as_posix(), sample.mask.relative_to(root).as_posix())
        for sample in samples
        if sample.mask
    ]


def test_images_and_masks_may_lie_side_by_side(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "train/a.png", "train/a_mask.png", "train/b.jpg", "train/b_mask.PNG", "train/._b.jpg")
    side = {"images": "{split}/{stem}", "masks": "{split}/{stem}_mask"}
    expected = [("a", "train/a.png", "train/a_mask.png"), ("b", "train/b.jpg", "train/b_mask.PNG")]
    assert listed(tmp_path, **side) == expected
    assert not caplog.records
    touch(tmp_path, "val/a_rgb.png", "val/a.png")  # the longer pattern is the image's
    assert listed(tmp_path, "val", images="{split}/{stem}_rgb", masks="{split}/{stem}") == [
        ("a", "val/a_rgb.png", "val/a.png")
    ]


def test_nested_folders_belong_to_the_stem_and_give_different_names(tmp_path: Path) -> None:
    stems = ("street/1", "yard/1", "yard/x_1", "yard_x/1")
    touch(tmp_path, *(f"images/train/{stem}.jpg" for stem in stems), *(f"masks/train/{stem}.png" for stem in stems))
    samples = listed(tmp_path)
    assert sorted(name for name, _, _ in samples) == ["street_1", "yard_1", "yard_x_1", "yard_x_1_2"]
    assert all(
        Path(image).with_suffix("").parts[2:] == Path(mask).with_suffix("").parts[2:] for _, image, mask in samples
    )


def test_masks_may_have_every_suffix_too(tmp_path: Path) -> None:
    suffixes = (".png", ".PNG", ".tif", ".TIFF", ".bmp", ".webp", ".gif")
    for number, suffix in enumerate(suffixes):
        touch(
            tmp_path, f"images/train/{number}.jpg", f"masks/train/{number}{suffix}", f"masks/train/._{number}{suffix}"
        )
    assert [mask for _, _, mask in listed(tmp_path)] == [f"masks/train/{n}{s}" for n, s in enumerate(suffixes)]
    assert [name for name, _, _ in listed(tmp_path, masks="masks/{split}/{stem}.gif", unlabelled="skip")] == ["6"]


def test_folders_need_not_be_shared_with_two_stars(tmp_path: Path) -> None:
    touch(tmp_path, "photos/monday/train/a.jpg", "masks/train/ready/a.png")
    samples = listed(tmp_path, images="photos/*/{split}/{stem}", masks="masks/{split}/**/{stem}")
    assert samples == [("a", "photos/monday/train/a.jpg", "masks/train/ready/a.png")]


def test_lists_choose_the_images_of_a_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg", "labels/a.png", "labels/b.png")
    (tmp_path / "train.txt").write_text("b\n")
    (tmp_path / "val.txt").write_text("a.jpg\r\n")
    flat = {"images": "images/{stem}", "masks": "labels/{stem}", "lists": "{split}.txt"}
    assert listed(tmp_path, "train", **flat) == [("b", "images/b.jpg", "labels/b.png")]
    assert listed(tmp_path, "val", **flat) == [("a", "images/a.jpg", "labels/a.png")]
    assert Folder(tmp_path, **flat).splits == ["train", "val"]
    assert not caplog.records
    (tmp_path / "test.txt").write_text("c\na")
    with pytest.raises(UserError, match=r"1 image file\(s\) have no label, the first is .*c\.jpg"):
        listed(tmp_path, "test", **flat)
    assert listed(tmp_path, "test", unlabelled="skip", **flat) == [("a", "images/a.jpg", "labels/a.png")]
    with pytest.raises(UserError, match=r"there is no list .*trainval\.txt"):
        listed(tmp_path, "trainval", **flat)


def test_images_without_label_are_refused_or_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "images/train/a.jpg", "images/train/b.jpg", "images/train/c.jpg", "masks/train/b.png")
    with pytest.raises(UserError, match=r"2 image file\(s\) have no label, the first is .*a\.jpg; .*unlabelled=skip"):
        listed(tmp_path)
    assert listed(tmp_path, unlabelled="skip") == [("b", "images/train/b.jpg", "masks/train/b.png")]
    (record,) = caplog.records
    assert record.message.startswith(
        "2 of 3 images have no label and are left out (data.unlabelled=skip), the first is"
    )
    assert record.message.endswith("a.jpg")
    touch(tmp_path, "masks/train/z.png")
    with pytest.raises(UserError, match=r"1 label file\(s\) have no image, the first is .*z\.png"):
        listed(tmp_path, unlabelled="skip")


def test_file_among_the_images_that_is_none_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.png", "a_mask.png", "b.heic", "notes.md", "classes.yaml")
    (tmp_path / "train.txt").write_text("a")
    listed(tmp_path, images="{stem}", masks="{stem}_mask", lists="{split}.txt")
    (record,) = caplog.records
    assert "2 file(s) left out (1 with .heic, 1 with .md), the first is b.heic" in record.message


@pytest.mark.parametrize(
    ("files", "options", "said"),
    [
        ("train/a.png train/a_mask.png", {"images": "{split}/{stem}_rgb"}, r"there is no image .*/train/\{stem\}_rgb"),
        ("images/train/a.png", {}, r"there is no mask .*/masks/train/\{stem\} .*holds images/; correct data\.masks"),
        ("images/train/a.png masks/train/a_L.png", {}, r"no image has a label: .*a\.png is a by .*a_L\.png is a_L by"),
        ("x/a.png", {"images": "x/{stem}"}, r"data\.images=x/\{stem\} has no \{split\}, and data\.lists is not given"),
        (
            "train/a.png",
            {"images": "{split}/{stem}", "masks": "{split}/{stem}.*"},
            r"a\.png is an image by .* and a mask",
        ),
        ("images/train/a.png masks/train/a.png masks/train/a.bmp", {}, r"a\.bmp and .*a\.png are both the mask 'a'"),
    ],
)
def test_layout_that_does_not_fit_is_explained(tmp_path: Path, files: str, options: dict[str, str], said: str) -> None:
    touch(tmp_path, *files.split())
    with pytest.raises(UserError, match=said) as caught:
        listed(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_ready_list_of_classes_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(Folder(tmp_path, "bdd100k").classes) == 19
    assert [Folder(tmp_path, name).title for name in ("bdd100k", None, "nope", "bdd100k.yaml")] == [
        "bdd100k",
        "",
        "",
        "",
    ]
    with pytest.raises(UserError, match=r"data\.classes=nope is neither a file nor one of ade20k, bdd100k, camvid32, "):
        _ = Folder(tmp_path, "nope").classes
    (tmp_path / "bdd100k").write_text(f"classes: [{ROAD}]")  # a file of the user's own comes first
    assert Folder(tmp_path, "bdd100k").classes.names == ("road",)


def test_a_folder_of_a_data_sets_name_does_not_hide_its_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "voc").mkdir()  # the download, where the command is given
    monkeypatch.chdir(tmp_path)
    assert Folder(tmp_path / "voc", classes="voc").classes.names[1] == "aeroplane"


def test_keys_of_a_folder_are_refused_with_other_data() -> None:
    for key, value in (("images", "{stem}"), ("masks", "{stem}"), ("lists", "{split}"), ("unlabelled", "skip"),
                       ("classes", "voc")):  # fmt: skip
        with pytest.raises(UserError, match=rf"data\.{key}={value} means nothing to data=camvid; leave it out"):
            data_set(DataConfig(name="camvid", **{key: value}))


def test_exported_files_tell_no_path_of_a_folder() -> None:
    described = {"name": "folder", "images": "/home/me/{stem}", "lists": "/home/me/{split}", "unlabelled": "skip"}
    assert public_description(described) == {"name": "folder", "unlabelled": "skip"}
