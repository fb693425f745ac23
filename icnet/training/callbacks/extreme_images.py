"""The images that a network labels best and worst, drawn for the report."""

import logging
from bisect import bisect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, Trainer
from torch import Tensor, distributed
from typing_extensions import override

from icnet.data.drawing import comparison, save
from icnet.data.labels import ClassTable
from icnet.run.extremes import write_mious
from icnet.run.paths import extreme_picture, find_extremes

log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class _Scored:
    """An image and how well it was labelled; the best come first, equals in the order of the data set."""

    loss: float  # 1 - mIoU
    index: int
    name: str = field(compare=False)


class ExtremeImages(Callback):
    """Draw the images of the highest and the lowest mIoU of the last validation or test.

    Writes ``best_1_NAME.jpg``, ``worst_1_NAME.jpg`` and so on (image, label, prediction and error side by side) and
    ``extremes.json`` (file name to mIoU, 0-1). An image's mIoU is the mean over the classes that occur in its label or
    its prediction; images without labels are left out, and none is drawn twice.

    Args:
        folder: Where they go.
        count: How many of each; twice as many images are kept in memory (10 MB for one of 1024x2048).
        classes: Names and colours.
    """

    def __init__(self, folder: Path, count: int, classes: ClassTable) -> None:
        self.folder = folder
        self.count = count
        self.classes = classes
        self._scored: list[_Scored] = []  # in order; the images of this process that may be among the extremes
        self._arrays: dict[int, list[np.ndarray]] = {}  # image, label and prediction of each, by index

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._scored, self._arrays = [], {}

    @override
    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: Any, outputs: Tensor, batch: dict[str, Any], batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep what is better or worse than what was seen before."""
        scores = pl_module.running_mean.miou_of_latest(len(outputs))
        for i, (miou, index, name) in enumerate(zip(scores, batch["index"].tolist(), batch["name"], strict=True)):
            if miou == miou:  # NaN, where there are no labels, is not equal to itself
                arrays = batch["image"][i].permute(1, 2, 0), batch["mask"][i], outputs[i]
                self._offer(_Scored(1 - miou, index, name), arrays)

    def _offer(self, scored: _Scored, arrays: tuple[Tensor, ...]) -> None:
        place = bisect(self._scored, scored)
        if len(self._scored) == 2 * self.count:
            if place == self.count:
                return  # neither better nor worse than those that are kept
            dropped = self._scored.pop(self.count - 1 if place < self.count else self.count)
            del self._arrays[dropped.index]
            place -= place > self.count
        self._scored.insert(place, scored)
        # Copies, which do not hold on to the batch that they were a part of.
        self._arrays[scored.index] = [array.cpu().numpy().copy() for array in arrays]

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Find the extremes of all processes; each draws its own."""
        scored = self._scored
        if distributed.is_initialized():
            parts: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, scored)
            scored = sorted(image for part in parts for image in part)
        best, worst = scored[: (len(scored) + 1) // 2], scored[::-1][: len(scored) // 2]
        chosen = {
            f"{kind}_{number}": image
            for kind, images in (("best", best), ("worst", worst))
            for number, image in enumerate(images[: self.count], 1)
        }
        try:
            self._write(chosen, trainer.is_global_zero)
        except OSError as error:
            log.warning("the best and worst images are not drawn (%s)", error)  # the scores count, and are safe
        self._scored, self._arrays = [], {}

    def _write(self, chosen: dict[str, _Scored], is_global_zero: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        mine = {place for place, image in chosen.items() if image.index in self._arrays}
        for place, old in find_extremes(self.folder):
            if place in mine or (is_global_zero and place not in chosen):  # of more images than there are now
                old.unlink()
        for place, image in chosen.items():
            if place in mine:
                pixels, target, preds = self._arrays[image.index]
                save(extreme_picture(self.folder, place, image.name), comparison(pixels, target, preds, self.classes))
        if is_global_zero:
            mious = {
                extreme_picture(self.folder, place, image.name).name: 1 - image.loss for place, image in chosen.items()
            }
            write_mious(self.folder, mious)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]
    on_test_epoch_end = on_validation_epoch_end
