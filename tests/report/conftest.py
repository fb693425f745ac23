"""Run folders written by hand, with numbers small enough to check in the head."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

NPU_ROW = {"optim.lr": 0.1, "amp.loss_scale": 32, "amp.opt_level": "O1"}
"""A row of the published table: 68.1 final, 68.3 best."""


def write_run(folder: Path, *, iou=None, overrides=(), failure=None, curves=None, config=None, **results) -> Path:
    """Write the folder of a finished training on eight NPUs, or of what is asked for instead.

    Args:
        folder: The run's folder.
        iou: Class to IoU of the last validation; None for two classes.
        overrides: Of the command line.
        failure: The text of ``error.txt``; there are no results then.
        curves: Name of a CSV folder to its rows.
        config: Dotted keys that differ from the full row of the table.
        results: Keys of ``results.json`` to replace.
    """
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(
        "".join(f"- {json.dumps(word)}\n" for word in overrides) or "[]\n"
    )
    for name, rows in (curves or {}).items():
        (folder / name).mkdir()
        with (folder / name / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
            writer.writeheader()
            writer.writerows(rows)
    if failure is not None:
        (folder / "error.txt").write_text(failure)
        return folder
    keys = {
        "data.name": "cityscapes", "data.crop_size": [960, 960], "model.backbone": "resnet50", "optim.name": "sgd",
        "trainer.accelerator": "npu", "trainer.batch_size": 16, "trainer.max_epochs": 200,
        "trainer.limit_train_batches": None, "trainer.limit_val_batches": None, **NPU_ROW, **(config or {}),
    }  # fmt: skip
    nested: dict = {}
    for key, value in keys.items():
        group, _, name = key.rpartition(".")
        nested.setdefault(group, {})[name] = value
    scale = 65536 if keys["amp.loss_scale"] == "dynamic" else keys["amp.loss_scale"]
    scores = iou or {"road": 0.9, "pole": 0.5}
    history = [
        {"epoch": 100, "step": 2300, "miou": 0.72, "miou_running_mean": 0.691, "val_loss": 0.4, "iou": scores},
        {"epoch": 200, "step": 4600, "miou": 0.7, "miou_running_mean": 0.683, "val_loss": 0.3, "iou": scores},
    ]
    full = {
        "status": "done", "final_miou": 0.7, "best_miou": 0.72, "best_epoch": 100, "pixel_acc": 0.95,
        "miou_running_mean": 0.683, "iou": scores, "train_loss": 0.2, "images_per_s": 147.2, "epochs": 200,
        "steps": 4600, "seconds": 36000.0, "devices": 8, "opt_level": keys["amp.opt_level"],
        "loss_scale": scale, "skipped_steps": 0, "history": history, "data": "cityscapes",
        "model": "icnet_resnet50", "seed": 1, "config": nested, "device": "Ascend910B3",
        "versions": {"python": "3.11.7", "torch": "2.13.0"}, "git_revision": "0123456789abcdef",
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(full | results))
    return folder


def write_evaluation(folder: Path, **results) -> Path:
    """Write the folder of an evaluation with three classes, the last of them absent from the labels."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- ckpt=best.ckpt\n")
    full = {
        "miou": 0.6, "pixel_acc": 0.9, "miou_running_mean": 0.55, "iou": {"road": 0.8, "pole": 0.4, "train": None},
        "confusion": [[75, 25, 0], [0, 100, 0], [0, 0, 0]], "images_per_s": 3.5, "data": "cityscapes", "split": "val",
        "iou_category": {"flat": 0.8, "object": 0.4}, "category_miou": 0.6, "model": "icnet_resnet50", "seed": 1,
        "ckpt": "best.ckpt", "ckpt_sha256": "ab" * 32, "runtime": "torch", "config": {"ckpt": "best.ckpt", "seed": 1},
        "device": "CPU (x86_64, 2 threads)", "versions": {"torch": "2.13.0"}, "git_revision": None,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(full | results))
    return folder


@pytest.fixture
def run() -> Callable[..., Path]:
    """Write the folder of a training; see ``write_run``."""
    return write_run


@pytest.fixture
def evaluation() -> Callable[..., Path]:
    """Write the folder of an evaluation; see ``write_evaluation``."""
    return write_evaluation


PICTURE_SIZE = (64, 4 * 128)  # pixels


@pytest.fixture
def picture() -> Callable[[Path], Path]:
    """Write a JPEG strip."""
    import cv2
    import numpy as np

    def write(path: Path, size: tuple[int, int] = PICTURE_SIZE) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        assert cv2.imwrite(str(path), noise)
        return path

    return write
