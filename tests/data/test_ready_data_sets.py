"""The data sets that have an option of their own but are ``data=folder``: their layouts and their lists of classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from PIL import Image

from icnet.config import DataConfig, TrainConfig
from icnet.data.labels import CITYSCAPES_LABELS
from icnet.factory.data import data_module, data_set

CONF = Path(__file__).parents[2] / "conf"

# As the data sets' own pages describe them: images, masks (train), images, masks (val), and lists to write.
LAYOUTS = {
    "voc": (
        "JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png",
        "JPEGImages/2007_000033.jpg SegmentationClass/2007_000033.png",
        {"train": "2007_000032\n", "val": "2007_000033\n"},
    ),
    "ade20k": (
        "images/training/ADE_train_00000001.jpg annotations/training/ADE_train_00000001.png",
        "images/validation/ADE_val_00000001.jpg annotations/validation/ADE_val_00000001.png",
        {},
    ),
    "bdd100k": (
        "images/10k/train/0004a4c0-d4dff0ad.jpg labels/sem_seg/masks/train/0004a4c0-d4dff0ad.png",
        "images/10k/val/7d06fefd-f7be05a6.jpg labels/sem_seg/masks/val/7d06fefd-f7be05a6.png",
        {},
    ),
    "mapillary": (
        "training/images/--1k1NvUyYA.jpg training/labels/--1k1NvUyYA.png",
        "validation/images/-0AeKjFY.jpg validation/labels/-0AeKjFY.png",
        {},
    ),
    "idd": (
        "leftImg8bit/train/0/005506_leftImg8bit.png gtFine/train/0/005506_gtFine_labellevel3Ids.png",
        "leftImg8bit/val/119/902541_leftImg8bit.jpg gtFine/val/119/902541_gtFine_labellevel3Ids.png",
        {},
    ),
    "kitti": (
        "training/image_2/000000_10.png training/semantic/000000_10.png",
        "training/image_2/000001_10.png training/semantic/000001_10.png",
        {"train": "000000_10.png\n", "val": "000001_10.png\n"},
    ),
    "camvid32": (
        "701_StillsRaw_full/0001TP_006690.png LabeledApproved_full/0001TP_006690_L.png",
        "701_StillsRaw_full/0016E5_07959.png LabeledApproved_full/0016E5_07959_L.png",
        {"train": "0001TP_006690.png\n", "val": "0016E5_07959.png\n"},
    ),
}
LIST_FOLDERS = {"voc": "ImageSets/Segmentation/"}
NAMES = sorted(LAYOUTS)


def composed(name: str, root: Path) -> DataConfig:
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"data={name}", f"data.root={root}", "output_dir=outputs/test"]
        config: Any = OmegaConf.to_object(compose("train", words))
    return config.data


@pytest.mark.parametrize("name", NAMES)
def test_files_are_found_as_the_data_set_has_them(tmp_path, name):
    train, val, lists = LAYOUTS[name]
    for file in f"{train} {val}".split():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    for split, content in lists.items():
        file = tmp_path / f"{LIST_FOLDERS.get(name, '')}{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    data = composed(name, tmp_path)
    for split, expected in ((data.train_split, train), (data.val_split, val)):
        (sample,) = data_set(data).list_samples(split)
        assert (sample.image, sample.mask) == tuple(tmp_path / file for file in expected.split())


def palette_png(path: Path, ids: np.ndarray, colours: dict[int, tuple[int, ...]]) -> None:
    image = Image.fromarray(ids, "P")
    image.putpalette([part for label_id in range(256) for part in colours.get(label_id, (0, 0, 0))])
    image.save(path)


STORED = {
    "voc": ([0, 20, 255], [0, 20, 255]),
    "ade20k": ([0, 1, 150], [255, 0, 149]),
    "bdd100k": ([0, 18, 255], [0, 18, 255]),
    "mapillary": ([0, 64, 65], [0, 64, 255]),
    "idd": ([0, 25, 255], [0, 25, 255]),
    "kitti": ([0, 7, 33], [255, 0, 18]),
}
"""Label ids as masks hold them, and their train ids."""


@pytest.mark.parametrize("name", NAMES)
def test_masks_of_the_data_set_become_its_classes(tmp_path, name):
    image, mask = (tmp_path / file for file in LAYOUTS[name][0].split())
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(image), np.zeros((2, 3, 3), np.uint8))
    for split, lines in LAYOUTS[name][2].items():
        file = tmp_path / f"{LIST_FOLDERS.get(name, '')}{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(lines)
    if name == "camvid32":  # void, Animal, Wall
        stored, expected = np.array([(0, 0, 0), (64, 128, 64), (64, 192, 0)], np.uint8), [255, 0, 30]
        Image.fromarray(stored[None].repeat(2, 0)).save(mask)
    else:
        ids, expected = STORED[name]
        stored = np.array(ids, np.uint8)[None].repeat(2, 0)
        if name in {"voc", "mapillary"}:  # which colour their masks by a palette
            shown = dict(enumerate(colours(name))) | ({255: (224, 224, 192)} if name == "voc" else {})
            palette_png(mask, stored, shown)
        else:
            Image.fromarray(stored).save(mask)
    data = replace(composed(name, tmp_path), val_split=composed(name, tmp_path).train_split, workers=0)
    (sample,) = data_module(data, seed=1).val
    assert sample["mask"].tolist() == [expected] * 2


def test_every_ready_list_of_classes_belongs_to_an_option():
    assert sorted(path.stem for path in (CONF / "classes").glob("*.yaml")) == NAMES
    assert [yaml.safe_load((CONF / f"data/{name}.yaml").read_text())["classes"] for name in NAMES] == NAMES


# ---------------------------------------------------------------- their classes


def content(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"classes/{name}.yaml").read_text())


def colours(name: str) -> list[tuple[int, ...]]:
    return [tuple(row["color"]) for row in content(name)["classes"]]


@pytest.mark.parametrize(
    ("name", "count", "first", "last", "ignore"),
    [
        ("voc", 21, "background", "tvmonitor", [255, [224, 224, 192]]),
        ("ade20k", 150, "wall", "flag", [0]),
        ("bdd100k", 19, "road", "bicycle", None),
        ("mapillary", 65, "Bird", "Ego Vehicle", [65, [0, 0, 0]]),
        ("idd", 26, "road", "sky/fallback background", None),
        ("kitti", 19, "road", "bicycle", [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30]),
        ("camvid32", 31, "Animal", "Wall", [[0, 0, 0]]),
    ],
)
def test_list_has_the_published_classes(name, count, first, last, ignore):
    rows = content(name)["classes"]
    names = [row["name"] for row in rows]
    assert (len(rows), names[0], names[-1], len(set(names))) == (count, first, last, count)
    assert content(name).get("ignore") == ignore
    assert all(len(colour) == 3 and all(0 <= part <= 255 for part in colour) for colour in colours(name))
    source = (CONF / f"classes/{name}.yaml").read_text().splitlines()[:4]
    assert "http" in " ".join(source) or name == "mapillary"  # whose list comes with the download


def test_voc_has_the_colours_of_its_development_kit():
    """The bits of an id, three at a time, are the highest bits of red, green and blue (VOClabelcolormap.m)."""
    for label_id, colour in enumerate(colours("voc")):
        bits = f"{label_id:024b}"[::-1]
        assert colour == tuple(int(bits[channel::3], 2) for channel in range(3))
    assert [row.get("ids") for row in content("voc")["classes"]] == [None] * 21


def test_ade20k_counts_from_one():
    rows = content("ade20k")["classes"]
    assert [row["ids"] for row in rows] == [[label_id] for label_id in range(1, 151)]
    assert [rows[label_id - 1]["name"] for label_id in (3, 13, 21, 128, 150)] == [
        "sky",
        "person",
        "car",
        "bicycle",
        "flag",
    ]
    assert colours("ade20k")[:3] == [(120, 120, 120), (180, 120, 120), (6, 230, 230)]


@pytest.mark.parametrize("name", ["bdd100k", "kitti"])
def test_classes_of_cityscapes_are_those_of_cityscapes(name):
    evaluated = sorted((row for row in CITYSCAPES_LABELS if row.train_id != 255), key=lambda row: row.train_id)
    rows = content(name)["classes"]
    assert [(row["name"], tuple(row["color"]), row["category"]) for row in rows] == [
        (row.name, row.color, row.category) for row in evaluated
    ]
    ids = [[row.label_id] for row in evaluated] if name == "kitti" else [None] * 19
    assert [row.get("ids") for row in rows] == ids


@pytest.mark.parametrize("name", ["voc", "mapillary", "camvid32"])
def test_colours_tell_the_classes_of_coloured_masks_apart(name):
    ignored = [tuple(item) for item in content(name)["ignore"] if isinstance(item, list)]
    assert len({*colours(name), *ignored}) == len(colours(name)) + len(ignored)


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("mapillary", 13, ("Road", (128, 64, 128), "construction")),
        ("mapillary", 55, ("Car", (0, 0, 142), "object")),
        ("idd", 1, ("parking/drivable fallback", (250, 170, 160), "drivable")),
        ("idd", 8, ("autorickshaw", (255, 204, 54), "vehicles")),
        ("camvid32", 17, ("Road", (128, 64, 128), None)),
        ("camvid32", 21, ("Sky", (128, 128, 128), None)),
    ],
)
def test_row_is_the_published_one(name, row, expected):
    found = content(name)["classes"][row]
    assert (found["name"], tuple(found["color"]), found.get("category")) == expected
