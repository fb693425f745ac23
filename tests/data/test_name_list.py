"""Lists of names, as people have them."""

from pathlib import Path

import pytest

from icnet.data.name_list import NameLists, choose, read_names
from icnet.errors import UserError

ROOT = Path("/data/set")
IMAGES = {stem: ROOT / f"images/{stem}.jpg" for stem in ("a", "b", "c d", "street/1", "yard/1", "yard/2", "x.y")}
MASKS = {stem: ROOT / f"labels/{stem}_mask.png" for stem in IMAGES}


def chosen(tmp_path: Path, content: str | bytes) -> list[str]:
    file = tmp_path / "train.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return choose(file, IMAGES, MASKS)


@pytest.mark.parametrize(
    ("line", "stem"),
    [
        ("a", "a"),
        ("a.jpg", "a"),
        ("a.JPG", "a"),
        ("a.png", "a"),
        ("./images/a.jpg", "a"),
        ("images\\a.jpg", "a"),
        ("/home/somebody/elsewhere/a.jpg", "a"),
        ("other/copy/yard/2.jpg", "yard/2"),
        ("  b  ", "b"),
        ("c d", "c d"),
        ("c d.jpg", "c d"),
        ("street/1", "street/1"),
        ("set/images/street/1.jpg", "street/1"),
        ("2", "yard/2"),
        ("x.y", "x.y"),
        ("x.y.jpg", "x.y"),
        ("images/a.jpg labels/a_mask.png", "a"),
        ("images/a.jpg\tlabels/a_mask.png", "a"),
        ("/x/a.jpg, /x/a_mask.png", "a"),
    ],
)
def test_line_means_the_image(tmp_path, line, stem):
    assert chosen(tmp_path, line) == [stem]


def test_order_is_the_lists_and_what_is_no_name_is_passed_over(tmp_path):
    assert chosen(tmp_path, b"\xef\xbb\xbf# my split\r\nb\r\n\r\n  # a\r\na\r\n") == ["b", "a"]
    assert chosen(tmp_path, "b\ra") == ["b", "a"]


def test_repeated_names_are_used_once_and_told(tmp_path, caplog):
    assert chosen(tmp_path, "a\nb\na.jpg\nimages/b.jpg") == ["a", "b"]
    (record,) = caplog.records
    assert record.message == f"{tmp_path}/train.txt names 2 image(s) again, the first is a.jpg: each is used once"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "a\nz1\nz2",
            r"names 2 image\(s\) that are not there, the first is z1; data\.images finds 7 files, such as /data",
        ),
        ("lane/1", r"1 image\(s\) that are not there, the first is lane/1"),  # neither street/1 nor yard/1
        ("1", r"names 1, which may be .*images/street/1\.jpg or .*images/yard/1\.jpg; write more of its path"),
        ("a.jpg b_mask.png", r"names b_mask\.png as the mask of .*images/a\.jpg, but data\.masks finds .*a_mask\.png"),
        ("a -1", r"names -1 as the mask of"),
        ("a b x.y", r"the first is a b x\.y"),
        ("# nothing\n\n", r"names no image; write one name a line"),
        (b"\xff\xfea\x00", r"is no UTF-8 text"),
    ],
)
def test_list_that_does_not_fit_is_explained(tmp_path, content, said):
    with pytest.raises(UserError, match=said) as caught:
        chosen(tmp_path, content)
    assert str(tmp_path / "train.txt") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_list_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"the list .*train\.txt cannot be read \(No such file"):
        read_names(tmp_path / "train.txt")
    (tmp_path / "trainval.txt").touch()
    with pytest.raises(
        UserError, match=r"there is no list .*train\.txt \(data\.lists=\{split\}\.txt\); .* holds trainval"
    ):
        NameLists("{split}.txt").file(tmp_path, "train")


def test_splits_are_those_that_have_a_list(tmp_path):
    for name in ("lists/train.txt", "lists/val.txt", "lists/._val.txt", "lists/notes.md", "lists/val/list_val.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert NameLists("lists/{split}.txt").splits(tmp_path) == ["train", "val"]
    assert NameLists(f"{tmp_path}/lists/{{split}}.txt").splits(Path("/nowhere")) == ["train", "val"]
    assert NameLists("lists/{split}/list_{split}.txt").splits(tmp_path) == ["val"]
    with pytest.raises(UserError, match=r"data\.lists=train\.txt has no \{split\}"):
        NameLists("train.txt")
