"""Tiny data sets with the true names of the real ones."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from icnet.data.base import SamplePaths
from icnet.data.dataset import SegmentationDataset
from icnet.data.labels import CAMVID_CLASSES, CITYSCAPES_CLASSES, LABEL_ID_TO_TRAIN_ID

SIZE = (24, 48)  # (H, W)

FRAMES = {
    "train": ("aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "zurich/zurich_000000_000019"),
    "val": ("frankfurt/frankfurt_000000_000294", "lindau/lindau_000000_000019"),
    "test": ("berlin/berlin_000000_000019",),
}


def write_image(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """Write a noise image of (H, W) pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


def write_mask(path: Path, ids: Sequence[int], size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """Write a mask that holds each of the ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).choice(np.array(ids, np.uint8), size)
    pixels.flat[: len(ids)] = ids
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    """Cityscapes with labelIds for train and val, and an unlabelled test split."""
    root = tmp_path / "cityscapes"
    for split, frames in FRAMES.items():
        for seed, frame in enumerate(frames):
            write_image(root / "leftImg8bit" / split / f"{frame}_leftImg8bit.png", seed=seed)
            if split != "test":
                write_mask(root / "gtFine" / split / f"{frame}_gtFine_labelIds.png", range(34), seed=seed)
                write_mask(root / "gtFine" / split / f"{frame}_gtFine_labelTrainIds.png", [*range(19), 255], seed=seed)
    return root


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    """CamVid with a train and a val split."""
    root = tmp_path / "camvid"
    for split, names in {"train": ("0001TP_006690", "0006R0_f00930"), "val": ("0016E5_07959",)}.items():
        for name in names:
            write_image(root / split / f"{name}.png")
            write_mask(root / f"{split}annot" / f"{name}.png", range(len(CAMVID_CLASSES) + 1))
    return root


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    """A person's own data with two classes."""
    root = tmp_path / "own"
    write_image(root / "images" / "train" / "a.png")
    write_image(root / "images" / "train" / "b.JPG")
    write_image(root / "images" / "val" / "c.jpeg")
    for name in ("train/a", "train/b", "val/c"):
        write_mask(root / "masks" / f"{name}.png", [0, 1, 255])
    (root / "classes.yaml").write_text(
        "classes: [{name: road, color: [128, 64, 128]}, {name: car, color: [0, 0, 142]}]"
    )
    return root


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., SegmentationDataset]:
    """Build a data set of as many samples as asked for."""

    def make(count: int, size: tuple[int, int] = SIZE, **arguments: object) -> SegmentationDataset:
        samples = [
            SamplePaths(
                f"frame{index:03d}",
                write_image(tmp_path / f"image{index}.png", size, seed=index),
                write_mask(tmp_path / f"mask{index}.png", range(34), size, seed=index),
            )
            for index in range(count)
        ]
        return SegmentationDataset(samples, CITYSCAPES_CLASSES, LABEL_ID_TO_TRAIN_ID, **arguments)  # type: ignore[arg-type]

    return make
