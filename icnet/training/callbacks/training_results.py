"""Recording what a training run measured, in its results file and as a line in the log for every validation."""

import logging
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from icnet.run.environment import device_name, environment
from icnet.run.paths import RunPaths
from icnet.run.results import Performance, TrainingRecord, Validation, write_results
from icnet.run.schema import record
from icnet.training.callbacks.speed_monitor import SpeedMonitor
from icnet.training.metrics import iou_per_class, pixel_accuracy, single_class_note
from icnet.training.segmentation_task import SegmentationTask

log = logging.getLogger(__name__)


class TrainingResults(Callback):
    """Write the results after every validation and at the end.

    Args:
        folder: Of the run.
        about: What the results belong to: ``data``, ``model``, ``seed``, ``config``.
    """

    def __init__(self, folder: Path, about: TrainingRecord) -> None:
        self.path = RunPaths(folder).results
        self.about = about
        self.history: list[Validation] = []
        self.confusion: list[list[int]] | None = None  # of the last validation, labels in rows
        self._started = time.time()
        self._loss: Tensor | None = None
        self._latest: dict[str, Any] = {"train_loss": None, "images_per_s": None}
        self._performance = Performance()  # of this part of the run, or of the last one that trained
        self._trained = 0.0  # seconds of earlier parts of a resumed run

    @property
    def best(self) -> Validation | None:
        """The validation with the highest mIoU, the first of equals."""
        return max(self.history, key=_rank, default=None)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "history": [asdict(entry) for entry in self.history], "confusion": self.confusion,
            "seconds": self.seconds, "latest": self._latest, "performance": asdict(self._performance),
        }  # fmt: skip

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [record(Validation, entry) for entry in state_dict["history"]]
        self.confusion = state_dict.get("confusion")  # not in older checkpoints
        self._performance = record(Performance, state_dict.get("performance", {}))
        self._trained = state_dict["seconds"]
        self._latest = dict(state_dict["latest"])

    @override
    def on_train_start(self, trainer: Trainer, pl_module: SegmentationTask) -> None:  # type: ignore[override]
        log.info(
            "training %s on %s: epochs %d to %d of %s batches each, on %d x %s",
            self.about.model, self.about.data, trainer.current_epoch + 1, trainer.max_epochs,
            trainer.num_training_batches, trainer.world_size, device_name(trainer.strategy.root_device),
        )  # fmt: skip

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: SegmentationTask) -> None:  # type: ignore[override]
        if trainer.sanity_checking or pl_module.confusion is None:
            return
        self._record(trainer)
        self.confusion = pl_module.confusion.tolist()
        scores = {key: value.item() for key, value in trainer.callback_metrics.items()}
        self.history.append(
            Validation(
                epoch=trainer.current_epoch + 1,
                step=trainer.global_step,
                miou=scores["val/miou"],
                pixel_acc=pixel_accuracy(pl_module.confusion).item(),
                miou_running_mean=scores["val/miou_running_mean"],
                val_loss=scores["val/loss"],
                iou=dict(zip(pl_module.classes.names, iou_per_class(pl_module.confusion).tolist(), strict=True)),
            )
        )
        log.info(
            "epoch %d/%d on %s: train/loss %.4f  val/loss %.4f  val/miou %.4f  val/pixel_acc %.4f  %.1f images/s",
            trainer.current_epoch + 1, trainer.max_epochs, self.about.data,
            self._latest["train_loss"] or math.nan, scores["val/loss"], scores["val/miou"], scores["val/pixel_acc"],
            self._latest["images_per_s"] or math.nan,
        )  # fmt: skip
        if note := self._note():
            log.warning("epoch %d/%d: %s", trainer.current_epoch + 1, trainer.max_epochs, note)
        self._write(trainer, "running")

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, on its device, for the day somebody asks."""
        self._loss = outputs["loss"].detach()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the loss and the speed, before the epoch's checkpoint is saved."""
        self._record(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: SegmentationTask) -> None:  # type: ignore[override]
        self._write(trainer, "done")

    @override
    def on_exception(self, trainer: Trainer, pl_module: SegmentationTask, exception: BaseException) -> None:  # type: ignore[override]
        """Say in the file that the run did not finish."""
        self._write(trainer, "stopped")

    def _record(self, trainer: Trainer) -> None:
        if self._loss is not None:
            speed = SpeedMonitor.of(trainer)
            self._latest = {"train_loss": self._loss.item(), "images_per_s": speed.images_per_s if speed else None}
            self._measure(trainer)

    def _measure(self, trainer: Trainer) -> None:
        speed = SpeedMonitor.of(trainer)
        self._performance = record(Performance, speed.summary(trainer.strategy.root_device) if speed else {})

    def _note(self) -> str | None:
        """Return what is to be said of the last validation's mIoU."""
        names = (self.history[-1].iou if self.history else None) or {}
        return single_class_note(torch.tensor(self.confusion), list(names)) if names and self.confusion else None

    @staticmethod
    def _weights(trainer: Trainer) -> dict[str, float] | None:
        task: Any = trainer.lightning_module
        table = task.criterion.class_weights
        counted = task.meta.get("class_weights")  # without the rounding to float32
        return counted or (None if table is None else dict(zip(task.classes.names, table.tolist(), strict=True)))

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, those of its earlier parts included."""
        return self._trained + time.time() - self._started

    def _write(self, trainer: Trainer, status: str) -> None:
        if not trainer.is_global_zero:
            return
        last, best = (self.history[-1] if self.history else Validation()), (self.best or Validation())
        if self._loss is not None:  # a run that was over when it was resumed keeps what it measured before
            self._measure(trainer)
        plugin = trainer.precision_plugin
        results = replace(
            self.about,
            status=status,
            final_miou=last.miou,
            best_miou=best.miou,
            best_epoch=best.epoch,
            pixel_acc=last.pixel_acc,
            miou_running_mean=last.miou_running_mean,
            iou=last.iou,
            miou_note=self._note(),
            confusion=self.confusion,
            class_weights=self._weights(trainer),
            **self._latest,
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            seconds=round(self.seconds, 1),
            performance=self._performance,
            val_images=len(trainer.datamodule.val),  # type: ignore[attr-defined]
            devices=trainer.world_size,
            **{key: getattr(plugin, key, None) for key in ("opt_level", "loss_scale", "skipped_steps")},
            history=self.history,
            **environment(trainer.strategy.root_device),
        )
        write_results(self.path, results)


def _rank(validation: Validation) -> float:
    """Return what the best validation has most of; NaN is less than anything."""
    miou = validation.miou
    return -math.inf if miou is None or math.isnan(miou) else miou
