"""Pictures of what the network sees: image, label, prediction and error side by side."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from typing_extensions import override

from icnet.data.drawing import comparison, save
from icnet.data.labels import ClassTable
from icnet.run.paths import validation_picture
from icnet.training.segmentation_task import SegmentationTask


class ValidationPictures(Callback):
    """Draw the first validation images beside label and prediction, in the run folder and in TensorBoard.

    Args:
        folder: Where the pictures go.
        count: How many images.
        classes: Names and colours.
    """

    def __init__(self, folder: Path, count: int, classes: ClassTable) -> None:
        self.folder = folder
        self.count = count
        self.classes = classes
        self._drawn = 0

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: SegmentationTask) -> None:  # type: ignore[override]
        self._drawn = 0

    @override
    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: SegmentationTask, outputs: Tensor, batch: dict[str, Any], batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Draw what is still wanted of this batch."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        for image, mask, pred, name in zip(batch["image"], batch["mask"], outputs, batch["name"], strict=True):
            if self._drawn >= self.count:
                return
            self._drawn += 1
            pixels, target, preds = (tensor.cpu().numpy() for tensor in (image.permute(1, 2, 0), mask, pred))
            picture = comparison(pixels, target, preds, self.classes)
            self.folder.mkdir(parents=True, exist_ok=True)
            path = validation_picture(self.folder, name, trainer.current_epoch + 1)
            save(path, picture)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(f"val/{name}", picture, trainer.current_epoch + 1, dataformats="HWC")
