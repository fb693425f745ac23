"""The metrics; run as a script with a rank and a folder, this file is one of two processes that share the counting."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from icnet.data.labels import CITYSCAPES_CLASSES, LABEL_ID_TO_TRAIN_ID, TRAIN_ID_TO_LABEL_ID
from icnet.training.metrics import (
    RunningMeanIoU,
    iou_per_category,
    iou_per_class,
    pixel_accuracy,
    segmentation_metrics,
    single_class_note,
)

IGNORE = 255

# One image of 2x4 pixels over three classes; the last label is ignored.
TARGET = torch.tensor([[[0, 0, 0, 1], [1, 1, 2, IGNORE]]])
PREDS = torch.tensor([[[0, 0, 1, 1], [1, 2, 2, 0]]])
# Rows are labels: class 0 is hit twice and taken for 1 once, class 1 hit twice and taken for 2 once, class 2 hit once.
CONFUSION = [[2, 1, 0], [0, 2, 1], [0, 0, 1]]
IOU = [2 / 3, 2 / 4, 1 / 2]


@pytest.mark.parametrize(
    ("confusion", "note"),
    [
        ([[4, 0], [0, 0]], "only road is in the labels: the mIoU is over 1 of 2 classes"),
        ([[0, 0], [3, 1]], "only car is in the labels: the mIoU is over 2 of 2 classes"),
        ([[4, 0], [1, 1]], None),
        ([[0, 0], [0, 0]], None),
    ],
)
def test_mean_over_labels_of_one_class_says_so(confusion, note):
    assert single_class_note(torch.tensor(confusion), ["road", "car"]) == note


def test_data_with_one_class_are_meant_so():
    assert single_class_note(torch.tensor([[4]]), ["road"]) is None


def some_images(count: int, classes: int = 19, size: tuple[int, int] = (12, 20)) -> tuple[Tensor, Tensor]:
    """Predictions and labels that agree in about half of the pixels; class 3 never occurs, class 4 only late."""
    rng = np.random.default_rng(7)
    target = rng.integers(0, classes, (count, *size))
    target[target == 3] = 5
    target[:-1][target[:-1] == 4] = 6
    preds = np.where(rng.random(target.shape) < 0.5, target, rng.integers(0, classes, target.shape))
    preds[preds == 3] = 7
    preds[:-1][preds[:-1] == 4] = 8
    target[rng.random(target.shape) < 0.2] = IGNORE
    return torch.from_numpy(preds), torch.from_numpy(target)


def count(preds: Tensor, target: Tensor, order: list[list[int]], classes: int = 19) -> dict[str, list[float]]:
    """Update the metrics with batches of these images and compute everything."""
    metrics, running = segmentation_metrics(classes, IGNORE), RunningMeanIoU(classes, IGNORE)
    for batch in order:
        metrics.update(preds[batch], target[batch])
        running.update(preds[batch], target[batch], torch.tensor(batch))
    scores = metrics.compute()
    return {
        "miou": [scores["miou"].item()],
        "confusion": scores["confusion"].flatten().tolist(),
        "running": [running.compute().item()],
    }


# ---------------------------------------------------------------- dataset level


def test_confusion_and_scores_equal_the_hand_worked_example():
    metrics = segmentation_metrics(3, IGNORE)
    metrics.update(PREDS, TARGET)
    scores = metrics.compute()
    assert scores["confusion"].tolist() == CONFUSION
    assert scores["miou"].item() == pytest.approx(sum(IOU) / 3)
    assert iou_per_class(scores["confusion"]).tolist() == pytest.approx(IOU)
    assert pixel_accuracy(scores["confusion"]).item() == pytest.approx(5 / 7)


def test_miou_leaves_out_a_class_absent_from_labels_and_predictions():
    metrics = segmentation_metrics(5, IGNORE)
    metrics.update(PREDS, TARGET)
    scores = metrics.compute()
    assert scores["miou"].item() == pytest.approx(sum(IOU) / 3)
    assert [math.isnan(value) for value in iou_per_class(scores["confusion"]).tolist()] == [False] * 3 + [True] * 2


def test_miou_counts_a_class_that_only_occurs_in_predictions_as_zero():
    metrics = segmentation_metrics(4, IGNORE)
    metrics.update(torch.where(TARGET == 2, 3, PREDS), TARGET)
    # Class 2 is missed, class 3 invented; in the others nothing changed.
    assert metrics.compute()["miou"].item() == pytest.approx((2 / 3 + 2 / 4 + 0 + 0) / 4)


def test_pixel_accuracy_without_labelled_pixels_is_nan():
    assert math.isnan(pixel_accuracy(torch.zeros(3, 3, dtype=torch.long)).item())


def test_category_iou_equals_the_hand_worked_example():
    # Merging 0 and 1: five hits, one pixel of theirs taken for class 2; class 2: one hit, one pixel too many.
    scores = iou_per_category(torch.tensor(CONFUSION), ("big", "big", "small"))
    assert list(scores) == ["big", "small"]
    assert scores == pytest.approx({"big": 5 / 6, "small": 1 / 2})


def test_scores_equal_cityscapesscripts():
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    rng = np.random.default_rng(0)
    label_ids = rng.integers(0, 34, (3, 40, 60))  # ignored labels included
    label_ids[label_ids == 32] = 3  # no motorcycle in the labels ...
    right = LABEL_ID_TO_TRAIN_ID[label_ids]
    preds = np.where((rng.random(right.shape) < 0.6) & (right != IGNORE), right, rng.integers(0, 19, right.shape))
    preds[preds == 17] = 18  # ... nor in the predictions

    args = SimpleNamespace(evalLabels=[])
    matrix = official.generateMatrix(args)
    np.add.at(matrix, (label_ids.ravel(), TRAIN_ID_TO_LABEL_ID[preds].ravel()), 1)
    classes = {
        name: official.getIouScoreForLabel(int(TRAIN_ID_TO_LABEL_ID[i]), matrix, args)
        for i, name in enumerate(CITYSCAPES_CLASSES.names)
    }
    categories = {
        name: official.getIouScoreForCategory(name, matrix, args) for name in set(CITYSCAPES_CLASSES.categories)
    }

    metrics = segmentation_metrics(19, IGNORE)
    metrics.update(torch.from_numpy(preds), torch.from_numpy(right.astype(np.uint8)))
    scores = metrics.compute()
    ours = dict(zip(CITYSCAPES_CLASSES.names, iou_per_class(scores["confusion"]).tolist(), strict=True))
    assert math.isnan(classes["motorcycle"])
    assert ours == pytest.approx(classes, abs=1e-6, nan_ok=True)
    assert scores["miou"].item() == pytest.approx(official.getScoreAverage(classes, args), abs=1e-6)
    assert iou_per_category(scores["confusion"], CITYSCAPES_CLASSES.categories) == pytest.approx(categories, abs=1e-6)


# ---------------------------------------------------------------- the running mean


def running_mean_plainly(preds: list[list[int]], target: list[list[int]], classes: int) -> float:
    """The reference's figure, image by image, from lists of pixels."""
    hits, union = [0] * classes, [0] * classes
    values = []
    for pred, labels in zip(preds, target, strict=True):
        for p, t in zip(pred, labels, strict=True):
            if t == IGNORE:
                continue
            if p == t:
                hits[t] += 1
                union[t] += 1
            else:
                union[t] += 1
                union[p] += 1
        values.append(sum(h / u if u else 0.0 for h, u in zip(hits, union, strict=True)) / classes)
    return sum(values) / len(values)


def test_running_mean_equals_the_hand_worked_example():
    running = RunningMeanIoU(2, IGNORE)
    # After the first image: class 0 has one hit of two pixels, 1/2; class 1 only one false alarm, 0.
    preds = torch.tensor([[[0, 1]], [[1, 1]]])
    target = torch.tensor([[[0, 0]], [[1, IGNORE]]])
    running.update(preds, target, torch.tensor([0, 1]))
    # After the second: class 0 still 1/2, class 1 one hit and one false alarm, 1/2.
    assert running.compute().item() == pytest.approx(((1 / 2 + 0) / 2 + (1 / 2 + 1 / 2) / 2) / 2)


def test_running_mean_counts_classes_not_seen_yet_as_zero():
    running = RunningMeanIoU(4, IGNORE)
    running.update(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).long(), torch.tensor([0]))
    assert running.compute().item() == pytest.approx(1 / 4)


def test_running_mean_equals_the_plain_reference():
    preds, target = some_images(6)
    running = RunningMeanIoU(19, IGNORE)
    running.update(preds, target, torch.arange(6))
    wanted = running_mean_plainly(preds.flatten(1).tolist(), target.flatten(1).tolist(), 19)
    assert running.compute().item() == pytest.approx(wanted, abs=1e-6)
    whole = segmentation_metrics(19, IGNORE)
    whole.update(preds, target)
    assert abs(whole.compute()["miou"].item() - wanted) > 0.01  # not the same figure


def test_running_mean_has_the_digits_of_whole_confusion_matrices_and_keeps_two_counts_per_class():
    images, classes = 40, 23
    preds, target = some_images(images, classes)
    order = np.random.default_rng(1).permutation(images).tolist()
    running = RunningMeanIoU(classes, IGNORE)
    matrices = {}
    for index in order:
        running.update(preds[[index]], target[[index]], torch.tensor([index]))
        counted = target[index] != IGNORE
        pairs = classes * target[index][counted] + preds[index][counted]
        matrices[index] = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    so_far = torch.stack([matrices[index] for index in range(images)]).cumsum(0).double()
    hits = so_far.diagonal(dim1=1, dim2=2)
    union = so_far.sum(1) + so_far.sum(2) - hits
    assert torch.equal(running.compute(), (hits / union.clamp(min=1)).mean(1).mean().float())
    wanted = [iou_per_class(matrices[index]).nanmean().item() for index in order[-5:]]
    assert running.miou_of_latest(5) == wanted
    kept = [value for name in running._reductions for value in getattr(running, name)]
    assert sum(value.numel() * value.element_size() for value in kept) == images * 8 * (2 * classes + 1)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_running_mean_without_images_is_nan():
    assert math.isnan(RunningMeanIoU(3, IGNORE).compute().item())


def test_miou_of_the_latest_images_counts_each_by_itself():
    target = torch.tensor([[[0, 0, 0, 0]], [[0, 0, 1, 1]], [[255, 255, 255, 255]], [[2, 2, 255, 0]]])
    preds = torch.tensor([[[1, 1, 1, 1]], [[0, 1, 1, 1]], [[0, 1, 2, 0]], [[2, 2, 1, 0]]])
    metric = RunningMeanIoU(3, 255)
    metric.update(preds, target, torch.arange(4))
    # Of the second: 1 of 2 and 2 of 3. Of the last: its classes 2 and 0 are right, and what is ignored has no part.
    expected = [(1 / 2 + 2 / 3) / 2, float("nan"), 1.0]
    assert metric.miou_of_latest(3) == pytest.approx(expected, nan_ok=True)


def test_running_mean_starts_anew_after_reset():
    running = RunningMeanIoU(3, IGNORE)
    running.update(torch.zeros_like(TARGET), TARGET, torch.tensor([0]))
    running.reset()
    running.update(PREDS, TARGET, torch.tensor([0]))
    assert running.compute().item() == pytest.approx(sum(IOU) / 3)


def test_uint8_masks_give_the_scores_of_int64_masks():
    preds, target = some_images(3)
    assert count(preds, target.to(torch.uint8), [[0, 1, 2]]) == count(preds, target, [[0, 1, 2]])


@pytest.mark.parametrize(
    "order", [[[0], [1], [2], [3], [4]], [[0, 1], [2, 3], [4]], [[4], [2], [0], [3], [1]], [[3, 1, 4], [0, 2]]]
)
def test_scores_depend_neither_on_the_batch_size_nor_on_the_order(order):
    preds, target = some_images(5)
    assert count(preds, target, order) == count(preds, target, [[0, 1, 2, 3, 4]])


def test_running_mean_depends_on_the_order_in_the_data_set():
    preds, target = some_images(5)
    forward, backward = (count(preds[turn], target[turn], [[0, 1, 2, 3, 4]]) for turn in (slice(None), [4, 3, 2, 1, 0]))
    assert forward["running"] != backward["running"]
    assert forward["miou"] == backward["miou"]


# ---------------------------------------------------------------- two processes


@pytest.mark.slow
def test_two_processes_get_the_values_of_one_exactly(tmp_path):
    # Five images do not go round: rank 0 counts 0, 2, 4 and rank 1 counts 1, 3.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=environment) for rank in (0, 1)
    ]
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    single = count(*some_images(5), [[0], [1], [2], [3], [4]])
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == single


def _be_a_rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    scores = count(*some_images(5), [[i] for i in range(rank, 5, 2)])
    (folder / f"{rank}.json").write_text(json.dumps(scores))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _be_a_rank(int(sys.argv[1]), Path(sys.argv[2]))
