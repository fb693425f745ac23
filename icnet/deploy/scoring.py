"""Scoring a network, in whatever runtime, on whole images."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from typing_extensions import override

from icnet.data.drawing import comparison, save
from icnet.data.labels import CITYSCAPES_CLASSES, IGNORE_INDEX, TRAIN_ID_TO_LABEL_ID, ClassTable
from icnet.deploy.inference import Inference
from icnet.deploy.runtimes.segmenter import Segmenter
from icnet.errors import UserError
from icnet.run.environment import device_name
from icnet.run.results import EvaluationRecord
from icnet.training.metrics import (
    RunningMeanIoU,
    iou_per_category,
    iou_per_class,
    nothing_labelled,
    pixel_accuracy,
    segmentation_metrics,
    single_class_note,
)

log = logging.getLogger(__name__)


class EvaluationTask(LightningModule):
    """Run a segmenter over the validation images and count.

    Args:
        segmenter: Torch or ONNX.
        inference: Scales, flip and windows.
        classes: The data set's classes.
        pictures: Folder for image, label and prediction side by side; None for none.
        label_ids: Folder for PNGs that the Cityscapes server accepts; None for none.

    Raises:
        UserError: If label ids are asked for and the classes are not those of Cityscapes.
    """

    def __init__(
        self, segmenter: Segmenter, inference: Inference, classes: ClassTable, *, pictures: Path | None = None,
        label_ids: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if label_ids and classes.names != CITYSCAPES_CLASSES.names:
            raise UserError(
                f"save_label_ids=true writes ids of the {len(CITYSCAPES_CLASSES)} Cityscapes classes, and this data "
                f"has {len(classes)} of its own; use save_pictures=true, or demo.py, whose *_ids.png hold class indices"
            )
        self.segmenter = segmenter
        self.inference = inference
        self.classes = classes
        self.pictures = pictures
        self.label_ids = label_ids
        self.metrics = segmentation_metrics(len(classes), IGNORE_INDEX)
        self.running_mean = RunningMeanIoU(len(classes), IGNORE_INDEX)
        self.scores = EvaluationRecord()
        self._images = 0
        self._seconds = 0.0
        for folder in (pictures, label_ids):
            if folder:
                folder.mkdir(parents=True, exist_ok=True)

    @override
    def on_test_start(self) -> None:
        log.info("evaluating on %d x %s", self.trainer.world_size, device_name(self.device))

    @override
    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Predict and count one batch; returns (N, H, W) train ids, for pictures."""
        started = time.perf_counter()
        preds = self.inference.labels(self.segmenter, batch["image"]).long()
        _wait_for(self.device)
        if batch_idx:  # the first is slower everywhere: memory is laid out, kernels are chosen
            self._images += len(preds)
            self._seconds += time.perf_counter() - started
        self.metrics.update(preds, batch["mask"])
        self.running_mean.update(preds, batch["mask"], batch["index"])
        for image, mask, pred, name in zip(batch["image"], batch["mask"], preds, batch["name"], strict=True):
            if self.pictures:
                pixels, target, labels = (tensor.cpu().numpy() for tensor in (image.permute(1, 2, 0), mask, pred))
                save(self.pictures / f"{name}.jpg", comparison(pixels, target, labels, self.classes))
            if self.label_ids:
                # The server looks for each image's name in the name of exactly one file.
                save(self.label_ids / f"{name}_pred_labelIds.png", TRAIN_ID_TO_LABEL_ID[pred.cpu().numpy()])
        return preds

    @override
    def on_test_epoch_end(self) -> None:
        """Compute the scores.

        Raises:
            UserError: If no pixel was labelled, unless pictures or label ids were asked for.
        """
        scores = self.metrics.compute()
        confusion = scores["confusion"].cpu()
        if not confusion.any():
            title = self.trainer.datamodule.val.title  # type: ignore[attr-defined]
            error = nothing_labelled(f"the images ({title})", "choose a labelled split with data.val_split")
            if not (self.pictures or self.label_ids):
                raise error
            log.warning("%s; what was drawn or written of the predictions is there", error)
        self.scores = EvaluationRecord(
            miou=scores["miou"].item(),
            pixel_acc=pixel_accuracy(confusion).item(),
            miou_running_mean=self.running_mean.compute().item(),
            iou=dict(zip(self.classes.names, iou_per_class(confusion).tolist(), strict=True)),
            miou_note=single_class_note(confusion, self.classes.names),
            palette=[list(color) for color in self.classes.palette],
            confusion=confusion.tolist(),
            images_per_s=self.trainer.world_size * self._images / self._seconds if self._images else None,
        )
        if self.scores.miou_note:
            log.warning("%s", self.scores.miou_note)
        if self.classes.categories:
            categories = iou_per_category(confusion, self.classes.categories)
            present = [value for value in categories.values() if value == value]  # NaN is not equal to itself
            self.scores.iou_category = dict(categories)
            self.scores.category_miou = sum(present) / len(present) if present else float("nan")


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)
