"""Looking through whole splits: shares, suspicious masks and images that two splits have in common."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from icnet.data import survey
from icnet.data.base import SamplePaths
from icnet.data.dataset import SegmentationDataset
from icnet.data.known import Known
from icnet.data.labels import ClassTable, train_id_table

NAMES = tuple("abcdefgh")
CLASSES = ClassTable(NAMES, tuple((number * 30, 0, 0) for number in range(8)))
TABLE = train_id_table([*((number, number) for number in range(8)), (255, 255)])


@pytest.fixture
def look(tmp_path):
    """Look through a split whose masks are given, a name for each."""

    def looked(name: str, masks: dict[str, list[int]], sample: int | None = None) -> survey.Split:
        (tmp_path / name).mkdir(exist_ok=True)
        samples = []
        for number, (stem, values) in enumerate(masks.items()):
            mask = np.repeat(np.array(values, np.uint8)[None], 4, 0)
            image = tmp_path / name / f"{stem}.png"
            pixels = np.random.default_rng([number, len(name)]).integers(0, 256, (*mask.shape, 3), np.uint8)
            if not image.exists():
                cv2.imwrite(str(image), pixels)
            cv2.imwrite(str(tmp_path / name / f"{stem}_mask.png"), mask)
            samples.append(SamplePaths(stem, image, tmp_path / name / f"{stem}_mask.png"))
        dataset = SegmentationDataset(samples, CLASSES, TABLE, title=name)
        known = Known.nothing(len(samples), len(CLASSES))
        return survey.look_through(name, dataset, known, sample=sample, seed=1, progress=False)

    return looked


def test_shares_are_those_of_the_hand_worked_masks(look):
    split = look("train", {"x": [0, 0, 0, 1], "y": [0, 255, 255, 255]})
    found = survey.describe(split, progress=False)
    # 4 rows: a 12 + 4 pixels, b 4, ignored 12, of 32.
    assert [(one.pixels, one.images) for one in found.classes[:3]] == [(16, 2), (4, 1), (0, 0)]
    assert found.classes[0].pixel_share == pytest.approx(0.8)
    assert [one.image_share for one in found.classes[:3]] == [1, 0.5, 0]
    assert found.ignored_share == pytest.approx(12 / 32)
    assert found.missing == list("cdefgh")
    assert (found.samples, found.decoded, found.unlabelled) == (2, 2, 0)
    assert (found.sizes, found.image_formats, found.mask_formats) == ({"4x4": 2}, {"PNG RGB": 2}, {"PNG L": 2})


def test_sample_is_drawn_anew_by_no_one_and_headers_are_read_of_all(look):
    masks = {f"m{number}": [0, 1] for number in range(6)}
    split = look("train", masks, sample=2)
    found = survey.describe(split, progress=False)
    assert (found.samples, found.decoded, found.sizes) == (6, 2, {"2x4": 6})
    assert found.classes[0].pixels == 2 * 4
    assert look("train", masks, sample=2).decoded == split.decoded


def test_damaged_file_is_a_problem_and_the_others_are_counted(look, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "y.png").write_text("no picture")
    split = look("train", {"x": [0, 1], "y": [0, 1], "z": [9, 1]})
    assert [name in line for name, line in zip(("y.png", "z_mask.png"), split.problems, strict=True)] == [True, True]
    assert survey.describe(split, progress=False).classes[1].pixels == 4


def test_masks_with_one_value_are_suspicious(look):
    split = look("train", {"x": [3, 3], "y": [255, 255], "z": [1, 255]})
    assert [(Path(one.mask).name, one.reason) for one in survey.find_suspicious(split)] == [
        ("x_mask.png", "holds d only"),
        ("y_mask.png", "is ignored everywhere: no pixel is labelled"),
    ]


def test_mask_with_two_values_is_suspicious_where_others_have_many(look):
    many = {name: list(range(8)) for name in "xyz"}
    (found,) = survey.find_suspicious(look("train", {**many, "thin": [0, 1] * 4}))
    assert (Path(found.mask).name, found.reason) == (
        "thin_mask.png",
        "holds 2 values; half of the others hold 8 or more",
    )
    few = {name: [0, 1, 2] for name in "xyz"}
    assert survey.find_suspicious(look("val", {**few, "thin": [0, 1, 1]})) == []


def recoded(source: Path, target: Path) -> None:
    """The same pixels in other bytes."""
    cv2.imwrite(str(target), cv2.imread(str(source)), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert source.read_bytes() != target.read_bytes()


@pytest.mark.parametrize("copy", [shutil.copy, recoded])
def test_image_in_two_splits_is_found(look, tmp_path, copy):
    train = look("train", {"x": [0, 1], "y": [0, 1]})
    (tmp_path / "val").mkdir()
    copy(tmp_path / "train" / "y.png", tmp_path / "val" / "other.png")
    val = look("val", {"p": [0, 1], "other": [0, 1]})
    (pair,) = survey.find_duplicates([train, val])
    assert (Path(pair.first).name, Path(pair.second).name) == ("y.png", "other.png")


def test_copy_of_a_file_is_found_where_only_a_sample_is_decoded(look, tmp_path):
    train = look("train", {"x": [0, 1], "y": [0, 1]}, sample=1)
    (tmp_path / "val").mkdir()
    for name in ("x", "y"):
        shutil.copy(tmp_path / "train" / f"{name}.png", tmp_path / "val" / f"{name}2.png")
    val = look("val", {"x2": [0, 1], "y2": [0, 1]}, sample=1)
    assert {Path(pair.second).name for pair in survey.find_duplicates([train, val])} == {"x2.png", "y2.png"}


def test_weights_are_suggested_from_the_labels(look):
    split = look("train", {"x": [0, 0, 0, 1], "y": [0, 255, 255, 255]})
    by_rule = {one.rule: one for one in survey.suggest_weights(split)}
    # freq: a 16 of 32, b 4 of 16; median 3/8.
    assert by_rule["median"].weights[:3] == [0.75, 1.5, 0]
    assert by_rule["enet"].weights[:3] == [round(1 / np.log(1.82), 4), round(1 / np.log(1.22), 4), 0]


def test_pictures_are_of_samples_spread_over_the_split(look, tmp_path):
    split = look("train", {f"m{number}": [0, 1, 2, 255] * 8 for number in range(5)})
    survey.draw_samples(replace(split, name="2017/train"), tmp_path / "of a year", 1)
    assert [path.name for path in (tmp_path / "of a year").iterdir()] == ["2017_train_m0.jpg"]
    survey.draw_samples(split, tmp_path / "drawn", 3)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [f"train_m{n}.jpg" for n in (0, 2, 4)]
