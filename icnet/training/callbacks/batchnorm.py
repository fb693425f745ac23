"""One set of BatchNorm statistics for all processes."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed
from typing_extensions import override


class SharedBatchNormStatistics(Callback):
    """Give every process the statistics of the first before validation and at the end of each epoch.

    DDP would do it in every forward; the network only needs it where running statistics are used or saved. With
    SyncBN they agree anyway.
    """

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._share(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Share before they are saved, so that a resumed run continues as the others would have."""
        self._share(trainer, pl_module)

    @staticmethod
    def _share(trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1:
            return
        floats = [buffer for buffer in pl_module.buffers() if buffer.is_floating_point()]
        flat = torch.cat([buffer.flatten() for buffer in floats])
        distributed.broadcast(flat, src=0)
        for buffer, values in zip(floats, flat.split([buffer.numel() for buffer in floats]), strict=True):
            buffer.copy_(values.view_as(buffer))
