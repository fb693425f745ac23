"""Validation images of which no pixel is labelled, and some that are smaller than the network takes."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional

from icnet.models import NETWORKS, SegmentationNetwork

pytestmark = pytest.mark.slow

COLOURS = {"meadow": (10, 200, 30), "barn": (200, 40, 20), "pond": (20, 60, 220)}
IGNORED = 255


class Toy(SegmentationNetwork):
    """Takes sides from 32 pixels on."""

    min_side = 32
    divisor = 8
    loss_weights = {"main": 1.0}
    classifiers = ("main.",)

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.main = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, num_classes, 1))

    def forward(self, image):
        self.check_size(image)
        logits = self.main(image)
        if self.training:
            return {"main": logits}
        return functional.interpolate(logits, image.shape[2:], mode="bilinear")


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(NETWORKS, "toy", Toy)


@pytest.fixture
def farm(tmp_path) -> Path:
    """Splits ``train``, ``val`` (sides below, at and beside what the network takes) and ``blank`` (no labels)."""
    root = tmp_path / "farm"
    rows = [{"name": name, "color": list(colour)} for name, colour in COLOURS.items()]
    root.mkdir()
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": rows}))
    rng = np.random.default_rng(0)
    sizes = {"train": [(48, 48)] * 4, "val": [(20, 50), (9, 9), (32, 40), (33, 70)], "blank": [(32, 48)] * 2}
    for split, given in sizes.items():
        for number, (height, width) in enumerate(given):
            mask = rng.integers(0, 3, (height, width), np.uint8)
            image = np.array(list(COLOURS.values()), np.uint8)[mask][..., ::-1]
            for folder, pixels in (
                ("images", image),
                ("masks", np.full_like(mask, IGNORED) if split == "blank" else mask),
            ):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / folder / split / f"{number}.png"), pixels)
    return root


@pytest.fixture
def run(script, farm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def start(name: str, *words: str):
        quick = ("trainer=cpu_1p", "trainer.progress_bar=false", f"hydra.run.dir={tmp_path / name}")
        if name == "train":
            quick += (
                "data=folder", f"data.root={farm}", "data.crop_size=[32,32]", "data.scale_range=[32,48]",
                "data.workers=0", "model.name=toy", "trainer.batch_size=2", "optim.lr=0.01", "callbacks.pictures=1",
                "logger.tensorboard=false",
            )  # fmt: skip
        return script(name, *quick, *words)

    return start


def test_training_without_labelled_validation_ends_in_one_line_and_goes_on_with_other_data(run, tmp_path):
    words = ("data.val_split=blank", "callbacks.early_stop_patience=2")
    done = run("train", *words, "trainer.max_epochs=3")
    assert done.status == 2
    assert "no pixel of the validation images (folder, blank) has a class, so that there is nothing to sc" in done.error
    assert "data.val_split" in done.error
    checkpoints = tmp_path / "train" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["last.ckpt"]  # no epoch is the best without a score
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["epoch"] == 0
    results = json.loads((tmp_path / "train" / "results.json").read_text())
    assert (results["status"], results["final_miou"], results["best_miou"]) == ("stopped", None, None)

    done = run("train", "data.val_split=val", "callbacks.early_stop_patience=2", "trainer.max_epochs=3", "resume=auto")
    assert done.status == 0, done.err
    assert (checkpoints / "best.ckpt").exists()
    results = json.loads((tmp_path / "train" / "results.json").read_text())
    assert [entry["epoch"] for entry in results["history"]] == [1, 2, 3]
    assert results["history"][0]["miou"] is None
    assert results["best_miou"] == max(entry["miou"] for entry in results["history"][1:])


def test_evaluation_without_labels_ends_in_one_line_unless_pictures_are_wanted(run, tmp_path):
    assert run("train", "trainer.max_epochs=1").status == 0
    ckpt = f"ckpt={tmp_path / 'train' / 'checkpoints' / 'last.ckpt'}"
    done = run("eval", ckpt, "data.val_split=blank")
    assert done.status == 2
    assert "no pixel of the images (folder, blank) has a class, so that there is nothing to score" in done.error
    assert not (tmp_path / "eval" / "results.json").exists()
    done = run("eval", ckpt, "data.val_split=blank", "save_pictures=true")
    assert done.status == 0, done.err
    assert len(list((tmp_path / "eval" / "pictures").glob("*.jpg"))) == 2
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["miou"] is None
    assert "nothing to score" in (tmp_path / "eval" / "eval_0.log").read_text()


def test_small_validation_images_are_scored_at_their_size_in_training_as_in_evaluation(run, farm, tmp_path):
    assert run("train", "trainer.max_epochs=1").status == 0
    done = run("eval", f"ckpt={tmp_path / 'train' / 'checkpoints' / 'last.ckpt'}")
    assert done.status == 0, done.err
    training, evaluation = (
        json.loads((tmp_path / name / "results.json").read_text())["confusion"] for name in ("train", "eval")
    )
    labels = np.concatenate([cv2.imread(str(path), -1).ravel() for path in (farm / "masks" / "val").iterdir()])
    assert np.sum(training, 1).tolist() == np.bincount(labels, minlength=3).tolist()  # every pixel, none twice
    assert np.abs(np.subtract(training, evaluation)).sum() <= 20  # folded BatchNorm may round a tie otherwise
