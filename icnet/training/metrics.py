"""What is measured on a data set: the official mIoU and its relatives, and the reference's running mean."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from icnet.errors import UserError


class RunningMeanIoU(Metric):
    """The figure that the reference and its Ascend port report as mIoU.

    After every image it takes the mIoU of everything counted so far, where a class not seen yet counts as 0, and in
    the end the mean of these running values. It is biased by the order of the images and is not the official mIoU;
    it exists for comparison with tables that were made with it. Here an image always counts by itself and in the order
    of its index in the data set, so the value depends neither on the batch size nor on the number of devices.

    Of each image two counts per class are kept, as the union is a sum of counts too: 14 MB for 5,000 images of 171
    classes, where confusion matrices would take 1.2 GB.

    Args:
        num_classes: Number of classes.
        ignore_index: Label that does not count.
    """

    full_state_update = False
    index: list[Tensor]
    counts: list[Tensor]  # (1, 2, C) of each image: hits and union

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.add_state("index", [], dist_reduce_fx="cat")
        self.add_state("counts", [], dist_reduce_fx="cat")

    @override
    def update(self, preds: Tensor, target: Tensor, index: Tensor) -> None:
        """Count images.

        Args:
            preds: (N, H, W) integer class ids.
            target: (N, H, W) integer train ids.
            index: (N,) position of each image in the data set.
        """
        self.index.append(index.to(preds.device))
        classes = self.num_classes
        for pred, label in zip(preds, target, strict=True):
            # Ignored pixels go to a bin of their own behind the others, so that no shape depends on the data.
            pair = torch.where(label == self.ignore_index, classes**2, label.long() * classes + pred.long())
            confusion = torch.bincount(pair.flatten(), minlength=classes**2 + 1)[:-1].view(classes, classes)
            hits = confusion.diagonal()
            union = confusion.sum(0) + confusion.sum(1) - hits
            self.counts.append(torch.stack([hits, union])[None])

    def miou_of_latest(self, count: int) -> list[float]:
        """Return the mIoU (0-1) of each of the last images by itself; NaN for an image without labels."""
        latest = [counts[0].cpu().double() for counts in self.counts[-count:]]
        return [(hits / union).nanmean().item() for hits, union in latest]

    @override
    def compute(self) -> Tensor:
        """Return the mean of the running values, 0-1."""
        if len(self.index) == 0:  # a list here, one tensor after the gathering over devices
            return torch.tensor(float("nan"), device=self.device)
        order = torch.argsort(dim_zero_cat(self.index))
        hits, union = dim_zero_cat(self.counts)[order].cpu().cumsum(0).double().unbind(1)
        if not union[-1].any():
            return torch.tensor(float("nan"))  # there are no labels at all
        return (hits / union.clamp(min=1)).mean(1).mean().float()


def segmentation_metrics(num_classes: int, ignore_index: int) -> MetricCollection:
    """Build the metrics that are updated with (preds, target).

    ``miou`` is the official figure (cityscapesScripts): intersection over union from the confusion matrix of the whole
    data set, averaged over the classes that occur in labels or predictions. ``confusion`` has labels in rows and
    predictions in columns; everything else can be computed from it.

    Args:
        num_classes: Number of classes.
        ignore_index: Label that does not count.
    """
    return MetricCollection(
        {
            "miou": MulticlassJaccardIndex(
                num_classes, average="macro", ignore_index=ignore_index, validate_args=False
            ),
            "confusion": MulticlassConfusionMatrix(num_classes, ignore_index=ignore_index, validate_args=False),
        },
        compute_groups=[["miou", "confusion"]],
    )


def nothing_labelled(images: str, fix: str) -> UserError:
    """Return the error for images of which no pixel is labelled, so that every score would be NaN.

    Args:
        images: Which they are.
        fix: What to do.
    """
    return UserError(f"no pixel of {images} has a class, so that there is nothing to score; {fix}")


def iou_per_class(confusion: Tensor) -> Tensor:
    """Intersection over union of each class.

    Args:
        confusion: (C, C) counts, labels in rows.

    Returns:
        (C,) float64, 0-1; NaN for a class absent from labels and predictions.
    """
    counts = confusion.cpu().double()
    hits = counts.diagonal()
    return hits / (counts.sum(0) + counts.sum(1) - hits)


def single_class_note(confusion: Tensor, names: Sequence[str]) -> str | None:
    """Say so where the labels hold a single class, so that the mIoU says nothing of the others.

    Args:
        confusion: (C, C) counts, labels in rows.
        names: Of the classes.

    Returns:
        One clause, such as ``only road is in the labels: the mIoU is over 1 of 2 classes``; None where the labels hold
        more classes, or none, or the data have only one.
    """
    labelled = [name for name, count in zip(names, confusion.sum(1).tolist(), strict=True) if count]
    if len(labelled) != 1 or len(names) == 1:
        return None
    scored = sum(not math.isnan(iou) for iou in iou_per_class(confusion).tolist())
    return f"only {labelled[0]} is in the labels: the mIoU is over {scored} of {len(names)} classes"


def pixel_accuracy(confusion: Tensor) -> Tensor:
    """Share of the labelled pixels that are right: a float64 scalar, NaN if there are none."""
    counts = confusion.cpu().double()
    return counts.diagonal().sum() / counts.sum()


def iou_per_category(confusion: Tensor, categories: Sequence[str]) -> dict[str, float]:
    """Intersection over union after merging the classes of each category (cityscapesScripts' second score).

    Args:
        confusion: (C, C) counts.
        categories: The category of each class.

    Returns:
        Category to IoU, in order of first appearance.
    """
    names = list(dict.fromkeys(categories))
    member = torch.tensor([[float(category == name) for category in categories] for name in names]).double()
    merged = member @ confusion.cpu().double() @ member.t()
    return dict(zip(names, iou_per_class(merged).tolist(), strict=True))
