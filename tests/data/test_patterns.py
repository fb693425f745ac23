"""Patterns with {split} and {stem}."""

from pathlib import Path

import pytest

from icnet.data.listing import IMAGE_SUFFIXES
from icnet.data.patterns import Pattern
from icnet.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def stems(root: Path, text: str, split: str = "train") -> dict[str, str]:
    found = Pattern("data.images", text).find(root, split)
    return {path.relative_to(root).as_posix(): stem for path, stem in found.stems.items()}


@pytest.mark.parametrize(
    ("text", "file", "stem"),
    [
        ("images/{split}/{stem}", "images/train/a.jpg", "a"),
        ("./images/{split}/{stem}", "images/train/a.JPEG", "a"),
        ("images/{split}/{stem}.*", "images/train/a.b.webp", "a.b"),
        ("images/{split}/{stem}.jpg", "images/train/a.JPG", "a"),
        ("images/{split}/{stem}", "images/train/street/1/a.tif", "street/1/a"),
        ("{split}/labels/{stem}_mask.png", "train/labels/a_mask.png", "a"),
        ("{split}/{stem}_L.png", "train/a_b_L.png", "a_b"),
        ("{split}/{stem}/image", "train/a/image.bmp", "a"),
        ("{stem}/{stem}_{split}.png", "a/a_train.png", "a"),
        ("{split}_{stem}.png", "train_7.png", "7"),
        ("SegmentationClass/{stem}.png", "SegmentationClass/2007_000032.png", "2007_000032"),
        ("*/{split}/{stem}.png", "any/train/a.png", "a"),
        ("{split}/**/{stem}.png", "train/x/y/a.png", "a"),
        ("{split}/**/{stem}.png", "train/a.png", "a"),
        ("im[1] (2)/{split}/{stem}.png", "im[1] (2)/train/a+b.png", "a+b"),
        ("{split}/{split}/{stem}", "train/train/a.ppm", "a"),
    ],
)
def test_pattern_finds_file_and_stem(tmp_path, text, file, stem):
    touch(tmp_path, file)
    assert stems(tmp_path, text) == {file: stem}


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("images/{split}/{stem}.jpg", "images/train/a.jpeg"),
        ("images/{split}/{stem}.jpg", "images/Train/a.jpg"),
        ("images/{split}/{stem}", "images/train/a.txt"),
        ("images/{split}/{stem}", "images/train/._a.jpg"),
        ("{split}/{stem}/image", "train/image.png"),
        ("*/{split}/{stem}.png", "one/more/train/a.png"),
        ("{split}/{stem}_L.png", "train/_L.png"),
        ("{stem}/{stem}_{split}.png", "a/b_train.png"),
        ("{split}/{stem}.png", "val/a.png"),
        ("{split}/a.c/{stem}.png", "train/abc/x.png"),
    ],
)
def test_pattern_finds_nothing_else(tmp_path, text, file):
    touch(tmp_path, file)
    assert stems(tmp_path, text) == {}


def test_every_suffix_is_found_in_any_case_and_the_rest_is_told(tmp_path):
    names = [f"{number}{suffix}" for number, suffix in enumerate([*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)])]
    touch(tmp_path, *(f"train/{name}" for name in names), "train/notes.txt", "train/raw/x.npy")
    found = Pattern("data.images", "{split}/{stem}").find(tmp_path, "train")
    assert sorted(path.name for path in found.stems) == sorted(names)
    assert (found.folder, found.others) == (tmp_path / "train", ["notes.txt", "raw/x.npy"])


def test_absolute_pattern_needs_no_folder(tmp_path, monkeypatch):
    touch(tmp_path, "far/train/a.png")
    assert list(Pattern("x", f"{tmp_path}/far/{{split}}/{{stem}}").find(Path("/nowhere"), "train").stems.values()) == [
        "a"
    ]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(Pattern("x", "~/far/{split}/{stem}").find(Path("/nowhere"), "train").stems.values()) == ["a"]


def test_splits_are_those_that_have_files(tmp_path):
    touch(tmp_path, "images/train/a.png", "images/val/x/a.png", "images/empty/notes.txt", "images/.old/a.png")
    assert Pattern("x", "images/{split}/{stem}").splits(tmp_path) == ["train", "val"]
    assert Pattern("x", "images/{stem}").splits(tmp_path) == []
    touch(tmp_path, "flat/train_1.png", "flat/val_1.png")
    assert Pattern("x", "flat/{split}_{stem}.png").splits(tmp_path) == ["train", "val"]


def test_two_files_of_one_stem_are_refused(tmp_path):
    touch(tmp_path, "train/a.png", "train/a.jpg")
    with pytest.raises(UserError, match=r"train/a\.jpg and .*train/a\.png are both the image 'a'; .*\{stem\}\.png"):
        Pattern("data.images", "{split}/{stem}").find(tmp_path, "train").by_stem("image")


def test_nothing_found_says_what_was_sought_and_what_is_there(tmp_path):
    touch(tmp_path, "images/Train/a.png", "images/Val/a.png", "images/notes.txt", "images/._x", "images/u", "images/z")
    said = Pattern("data.images", "images/{split}/x/{stem}.jpg").nothing_found(tmp_path, "train", "image")
    assert said == (
        f"there is no image {tmp_path}/images/train/x/{{stem}} (data.images=images/{{split}}/x/{{stem}}.jpg); "
        f"{tmp_path}/images holds Train/, Val/, notes.txt, u and 1 more"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images/{split}/*.jpg", r"images/\{split\}/\*\.jpg has no \{stem\}; give a pattern with \{stem\}"),
        ("images/{id}/{stem}", r"has \{id\}; give a pattern with \{stem\}"),
        ("images/{split}/{stem}.npy", r"ends in \.npy, which is not taken; give one of \.png, "),
    ],
)
def test_text_that_is_no_pattern_is_refused(text, said):
    with pytest.raises(UserError, match=rf"^data\.masks={said}" if "has no" in said else said):
        Pattern("data.masks", text)
