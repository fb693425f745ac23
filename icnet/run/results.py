"""The schema of ``results.json``, of trainings and of evaluations; the only place that reads and writes the file.

``docs/results.md`` shows it as tables, which ``python -m icnet.run.results`` prints; a test holds both together.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icnet.errors import UserError
from icnet.run import files
from icnet.run.schema import entry, plain, record, tables

ByClass = dict[str, float | None]


@dataclass(kw_only=True)
class Validation:
    """One validation of a training."""

    epoch: int | None = entry("epochs trained before it", "epochs")
    step: int | None = entry("optimizer steps taken before it", "steps")
    miou: float | None = entry("mean over the classes of `iou`", "0-1")
    pixel_acc: float | None = entry("share of the labelled pixels that got their label's class", "0-1")
    miou_running_mean: float | None = entry("what the published tables call mIoU; not the official metric", "0-1")
    val_loss: float | None = entry("mean loss of the validation images")
    iou: ByClass | None = entry("class to intersection over union; null where a class occurs nowhere", "0-1")


@dataclass(kw_only=True)
class Performance:
    """How fast a training was, after the steps of its warm-up."""

    steps: int | None = entry("steps that were timed", "steps")
    peak_memory_mb: float | None = entry("largest memory of the device, on a CPU of the process", "MiB")
    images_per_s: float | None = entry("images of all devices in a second, loading included", "images/s")
    step_ms_mean: float | None = entry("a step, loading included: mean", "ms")
    step_ms_median: float | None = entry("a step: median", "ms")
    step_ms_p10: float | None = entry("a step: 10th percentile", "ms")
    step_ms_p90: float | None = entry("a step: 90th percentile", "ms")
    data_wait_share: float | None = entry("share of the time in which the devices waited for data", "0-1")

    def summary(self) -> str | None:
        """Say in one line how fast it was; None if no step was timed."""
        if not self.steps or self.step_ms_mean is None:
            return None
        spread = f"median {self.step_ms_median:.1f}, p10 {self.step_ms_p10:.1f}, p90 {self.step_ms_p90:.1f}"
        return (
            f"{self.images_per_s:.2f} images/s; a step of {self.step_ms_mean:.1f} ms ({spread}), "
            f"{100 * (self.data_wait_share or 0):.0f} % of it waiting for data; {self.peak_memory_mb:.0f} MiB"
        )


@dataclass(kw_only=True)
class SplitFingerprint:
    """What tells the samples of a split from others; where the files lie is not part of it."""

    samples: int | None = entry("images", "images")
    bytes: int | None = entry("size of all images and label files", "bytes")
    names_sha256: str | None = entry("SHA-256 of the sorted names of the samples")
    sha256: str | None = entry("SHA-256 of the sorted names, each with the sizes of its image and its label file")
    labels_sha256: str | None = entry("SHA-256 of the content of 16 label files, evenly spread over the sorted names")


@dataclass(kw_only=True)
class DataFingerprint:
    """What tells data from others; see ``icnet.data.fingerprint``, and ``data_changes`` of ``differences``."""

    classes: list[str] | None = entry("the classes, in the order of their numbers")
    labels: dict[str, str] | None = entry(
        "class to the label ids that its pixels have in the files, such as `7` or `0,3`"
    )
    ignored: str | None = entry("the label ids that do not count")
    colors: dict[str, str] | None = entry(
        "class to its colour, such as `128,64,128`, where masks hold colours; null where they hold label ids"
    )
    train: SplitFingerprint | None = entry("the split that was trained on; null in an evaluation")
    val: SplitFingerprint | None = entry("the split that was scored")


@dataclass(kw_only=True)
class Results:
    """What trainings and evaluations have in common."""

    data: str | None = entry("the data set's name; drawn scenes are called synthetic")
    synthetic: bool | None = entry("whether the scored pictures are drawn, so that the numbers are no results")
    model: str | None = entry("the network's name")
    seed: int | None = entry("the seed of the run", label="seed")
    device: str | None = entry("one of the devices, as its maker calls it")
    git_revision: str | None = entry(
        "commit of the checkout, with + if files were changed; null outside a checkout", label="git revision"
    )
    pixel_acc: float | None = entry("share of the labelled pixels that got their label's class", "0-1")
    miou_running_mean: float | None = entry("what the published tables call mIoU; not the official metric", "0-1")
    images_per_s: float | None = entry(
        "images of all devices in a second; in an evaluation without the first", "images/s"
    )
    val_images: int | None = entry("images in the validation set", "images")
    iou: ByClass | None = entry("class to intersection over union; null where a class occurs nowhere", "0-1")
    miou_note: str | None = entry("what to know of the mIoU, where it is that of a single class; else null")
    palette: list[list[int]] | None = entry("red, green and blue of each class, in the order of `iou`", "0-255")
    confusion: list[list[int]] | None = entry("counts by label (rows) and prediction, in the order of `iou`", "pixels")
    versions: dict[str, str] | None = entry("package to version")
    config: dict[str, Any] | None = entry("every key of the configuration, nested as in `icnet/config.py`")
    fingerprint: DataFingerprint | None = entry(
        "what tells the data from others: a result is taken for that of its data"
    )


@dataclass(kw_only=True)
class TrainingRecord(Results):
    """What a training measured; the scores are those of its last validation."""

    status: str | None = entry("`running`, `done`, or `stopped` if the run was ended before its time")
    final_miou: float | None = entry("mIoU of the last validation", "0-1")
    best_miou: float | None = entry("highest mIoU of all validations", "0-1")
    best_epoch: int | None = entry("when that was, counted from 1", "epochs")
    train_loss: float | None = entry("loss of the last step")
    epochs: int | None = entry("epochs trained", "epochs")
    steps: int | None = entry("optimizer steps taken", "steps")
    seconds: float | None = entry("duration, with that of the parts before a resume", "s")
    devices: int | None = entry("processes, with a device each")
    opt_level: str | None = entry("mixed precision, as `amp.opt_level` names it")
    loss_scale: float | None = entry("the loss scale at the end", label="loss scale")
    skipped_steps: int | None = entry("steps left out because of infinite gradients", "steps", label="skipped steps")
    performance: Performance | None = entry("how fast the last part of the run was")
    class_weights: dict[str, float] | None = entry("class to its weight in the loss; null where all are 1")
    data_warnings: list[str] | None = entry(
        "what was said of the labels before the first step, one line each; null if nobody looked"
    )
    history: list[Validation] = field(
        default_factory=list, metadata={"meaning": "all validations, in order", "unit": ""}
    )

    def summary(self) -> str:
        """Say in one line what came out, and on which data."""
        if self.best_miou is None:
            speed = self.performance.summary() if self.performance else None
            return f"{self.data}: nothing was validated" + (f"; {speed}" if speed else "")
        note = f" ({self.miou_note})" if self.miou_note else ""
        return f"{self.data}: best val/miou {self.best_miou:.4f} at epoch {self.best_epoch}{note}"


@dataclass(kw_only=True)
class EvaluationRecord(Results):
    """What an evaluation measured."""

    ckpt: str | None = entry("the file that was evaluated", label="checkpoint")
    ckpt_sha256: str | None = entry("its SHA-256 as hexadecimal digits", label="SHA-256 of the checkpoint")
    runtime: str | None = entry("what ran the network, such as torch or onnxruntime", label="runtime")
    split: str | None = entry("the split of the data set")
    miou: float | None = entry("mean over the classes of `iou`", "0-1")
    category_miou: float | None = entry("mean over the categories of `iou_category`", "0-1")
    iou_category: ByClass | None = entry("category to intersection over union; null if there are no categories", "0-1")


SECTIONS = (
    ("Trainings and evaluations", Results),
    ("Trainings only", TrainingRecord),
    ("Evaluations only", EvaluationRecord),
    ("An entry of `history`", Validation),
    ("`performance`", Performance),
    ("`fingerprint`", DataFingerprint),
    ("`fingerprint.train` and `fingerprint.val`", SplitFingerprint),
)
"""Headings of ``docs/results.md`` and the dataclasses that stand below them."""


def read_results(path: Path) -> TrainingRecord | EvaluationRecord | None:
    """Read a run's results, of this version or an older one; keys that this version does not know are left out.

    Args:
        path: The file.

    Returns:
        What it holds; None if there is no file, or nothing in it.

    Raises:
        UserError: If the file cannot be read, or is none of ``train.py`` or ``eval.py``.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path.parent} cannot be read ({reason}); leave it out") from error
    if not isinstance(found, dict):
        raise UserError(f"{path.parent} holds no results of train.py or eval.py; leave it out")
    if not found:
        return None
    try:
        return record(EvaluationRecord, found) if "ckpt" in found else record(TrainingRecord, found)
    except TypeError as error:
        raise UserError(f"{path.parent} holds no results of train.py or eval.py ({error}); leave it out") from error


def write_results(path: Path, results: TrainingRecord | EvaluationRecord) -> None:
    """Write a run's results, whole or not at all."""
    files.write_text(path, json.dumps(plain(results), indent=2) + "\n")


def told_fingerprint(description: Mapping[str, Any]) -> DataFingerprint | None:
    """Return what a checkpoint's description tells its data by; None if it does not, as in version 0.1."""
    told = description.get("fingerprint")
    try:
        return record(DataFingerprint, told) if isinstance(told, Mapping) else None
    except TypeError:
        return None  # made by hand


if __name__ == "__main__":
    print(tables(SECTIONS))
