"""Which files are looked at: in any case of their suffix, no hidden ones, links followed, nothing lost in silence."""

import logging
import os
from pathlib import Path

import pytest

from icnet.data.camvid import CamVid
from icnet.data.cityscapes import Cityscapes
from icnet.data.listing import IMAGE_SUFFIXES, is_image, tell_left_out, walk
from icnet.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_walk_yields_files_in_order_without_hidden_ones(tmp_path):
    touch(tmp_path, "b.png", "a.png", "._a.png", ".git/x.png", "z/1.png", "c/2.png", "c/.DS_Store", "c/d/3.png")
    assert list(walk(tmp_path)) == ["a.png", "b.png", "c/2.png", "c/d/3.png", "z/1.png"]
    assert list(walk(tmp_path / "absent")) == list(walk(tmp_path / "a.png")) == []


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    touch(tmp_path, "there/a.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "there", target_is_directory=True)
    (tmp_path / "there/back").symlink_to(tmp_path / "here", target_is_directory=True)
    assert list(walk(tmp_path / "here")) == ["link/a.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_folder_that_may_not_be_read_is_named(tmp_path):
    touch(tmp_path, "closed/a.png")
    (tmp_path / "closed").chmod(0)
    with pytest.raises(UserError, match=r"the folder .*closed cannot be read"):
        list(walk(tmp_path))


def test_images_are_told_by_their_suffix_in_any_case():
    assert [name for name in ("a.png", "a.PNG", "a.b.Tif", "png", ".png", "a.txt", "a.png.txt") if is_image(name)] == [
        "a.png", "a.PNG", "a.b.Tif",
    ]  # fmt: skip


def test_left_out_files_are_counted_and_the_first_is_named_once(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        tell_left_out(tmp_path, ["z.txt", "b.gif", "c.txt", "LICENSE"], "images")
    tell_left_out(tmp_path, [], "images")
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: 4 file(s) left out (2 with .txt, 1 with .gif, 1 with no suffix), the first is LICENSE; "
        "taken: images"
    ]


@pytest.mark.parametrize("suffix", [".PNG", *IMAGE_SUFFIXES])
def test_cityscapes_takes_every_suffix_and_passes_hidden_files_over(tmp_path, suffix):
    touch(
        tmp_path,
        *(f"leftImg8bit/val/lindau/{kind}lindau_0_leftImg8bit{suffix}" for kind in ("", "._")),
        *(f"gtFine/val/lindau/{kind}lindau_0_gtFine_labelIds.PNG" for kind in ("", "._")),
    )
    (sample,) = Cityscapes(tmp_path).list_samples("val")
    assert sample == (
        "lindau_0",
        tmp_path / f"leftImg8bit/val/lindau/lindau_0_leftImg8bit{suffix}",
        tmp_path / "gtFine/val/lindau/lindau_0_gtFine_labelIds.PNG",
    )


@pytest.mark.parametrize("suffix", [".PNG", *IMAGE_SUFFIXES])
def test_camvid_takes_every_suffix_and_passes_hidden_files_over(tmp_path, suffix):
    touch(tmp_path, f"val/a{suffix}", f"val/._a{suffix}", "valannot/a.PNG", "valannot/._a.PNG")
    (sample,) = CamVid(tmp_path).list_samples("val")
    assert sample == ("a", tmp_path / f"val/a{suffix}", tmp_path / "valannot/a.PNG")


def test_what_lies_among_the_images_is_told(tmp_path, caplog):
    touch(tmp_path, "val/a.png", "valannot/a.png", "val/notes.txt", "leftImg8bit/val/x/Thumbs.db",
          "leftImg8bit/val/x/x_0_leftImg8bit.png", "gtFine/val/x/x_0_gtFine_labelIds.png",
          "gtFine/val/x/x_0_gtFine_color.png", "gtFine/val/x/x_0_gtFine_polygons.json")  # fmt: skip
    CamVid(tmp_path).list_samples("val")
    Cityscapes(tmp_path).list_samples("val")
    first, second = (record.message for record in caplog.records)
    assert first.startswith(f"{tmp_path}/val: 1 file(s) left out (1 with .txt), the first is notes.txt")
    assert second.startswith(f"{tmp_path}/leftImg8bit/val: 1 file(s) left out (1 with .db), the first is x/Thumbs.db")
