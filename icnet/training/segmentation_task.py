"""The LightningModule: a wire between network, loss, metrics and optimizer."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric
from typing_extensions import Self, override

from icnet.data.labels import IGNORE_INDEX, ClassTable
from icnet.models.network import SegmentationNetwork
from icnet.models.sizes import fitted, resized
from icnet.models.weight_files import META_KEY
from icnet.training.freezing import freeze, keep_statistics
from icnet.training.losses import CascadeLoss
from icnet.training.metrics import RunningMeanIoU, iou_per_class, pixel_accuracy, segmentation_metrics

OptimizerFactory = Callable[["SegmentationTask"], Any]


def log_name(class_name: str) -> str:
    """Return the class's name as a log key: ``traffic light`` becomes ``traffic_light``."""
    return class_name.replace(" ", "_")


class SegmentationTask(LightningModule):
    """Train and validate a network.

    Batches are dicts of ``image`` (N, 3, H, W) uint8 RGB, ``mask`` (N, H, W) uint8 train ids and ``index`` (N,); they
    are normalised on the device.

    Args:
        net: The network.
        criterion: The loss over its training outputs.
        classes: The data set's classes.
        configure: Returns what ``configure_optimizers`` should; called with this task once the trainer is attached.
        meta: Plain values that describe the model and its data; saved in every checkpoint.
        ignore_index: Mask value that does not count.
        frozen: The parts of the network whose weights and BatchNorm statistics stay.
    """

    def __init__(
        self, net: SegmentationNetwork, criterion: CascadeLoss, classes: ClassTable, configure: OptimizerFactory,
        meta: Mapping[str, Any], ignore_index: int = IGNORE_INDEX, frozen: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.net = net
        self.criterion = criterion
        self.classes = classes
        self.meta = dict(meta)
        self.normalize = net.normalizer()
        self.metrics = segmentation_metrics(len(classes), ignore_index)
        self.running_mean = RunningMeanIoU(len(classes), ignore_index)
        self.val_loss = MeanMetric()
        self.ignore_index = ignore_index
        self.confusion: Tensor | None = None  # (C, C) of the last complete validation
        self.compiled: Callable[[Tensor], Any] | None = None  # stands in for the network in training
        self._configure = configure
        self._frozen = tuple(frozen)
        freeze(net, self._frozen)
        keep_statistics(net, self._frozen)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        keep_statistics(self.net, self._frozen)
        return self

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        """(N, 3, H, W) uint8 to the network's outputs."""
        net = self.compiled if self.compiled is not None and self.training else self.net
        return net(self.prepared(image))

    def prepared(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 to what the network takes: normalised, in the order in memory that its device likes."""
        normalized = self.normalize(image)
        if image.device.type in {"cpu", "cuda"}:  # faster there; NPUs arrange memory by themselves
            normalized = normalized.contiguous(memory_format=torch.channels_last)
        return normalized

    @override
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        losses = self.criterion(self(batch["image"]), batch["mask"])
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), batch_size=len(batch["image"]))  # on the bar: ProgressBar
        return losses

    @override
    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Count one batch; returns (N, H, W) predicted train ids, for pictures."""
        logits = self._segment(batch["image"])
        mask = batch["mask"]
        preds = logits.argmax(1)
        self.metrics.update(preds, mask)
        self.running_mean.update(preds, mask, batch["index"])
        labelled = (mask != self.ignore_index).sum()
        self.val_loss.update(self.criterion.single(logits, mask), labelled)
        return preds

    def _segment(self, image: Tensor) -> Tensor:
        """Return logits at the size of whole images; enlarge them where the network does not take a side.

        Args:
            image: (N, 3, H, W) uint8.

        Returns:
            (N, C, H, W).
        """
        logits = self(fitted(image, self.net.min_side, self.net.divisor))
        return resized(logits, (image.shape[2], image.shape[3]))

    @override
    def on_validation_epoch_end(self) -> None:
        scores = self.metrics.compute()
        self.confusion = scores["confusion"].cpu()
        values = {
            "val/miou": scores["miou"].float(),
            "val/loss": self.val_loss.compute(),
            "val/pixel_acc": pixel_accuracy(self.confusion).float(),
            "val/miou_running_mean": self.running_mean.compute(),
        }
        for name, iou in zip(self.classes.names, iou_per_class(self.confusion).tolist(), strict=True):
            if not math.isnan(iou):
                values[f"val/iou_{log_name(name)}"] = torch.tensor(iou)
        for name, value in values.items():
            self.log(name, value, prog_bar=name == "val/miou", rank_zero_only=False)
        for metric in (self.metrics, self.running_mean, self.val_loss):
            metric.reset()

    @override
    def on_validation_model_zero_grad(self) -> None:
        """Free the gradients during validation, unless the optimizer holds on to them."""
        if not any(getattr(optimizer, "is_fused_optimizer", False) for optimizer in self.trainer.optimizers):
            super().on_validation_model_zero_grad()

    @override
    def configure_optimizers(self) -> Any:
        return self._configure(self)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say in the checkpoint what it is, so that it can be used without anything else."""
        checkpoint[META_KEY] = self.meta
