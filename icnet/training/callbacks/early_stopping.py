"""Ending a run that no longer gains."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from typing_extensions import override


class ResumableEarlyStopping(EarlyStopping):
    """Stays stopped when a run that it has ended is resumed: Lightning would train on to the next validation."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.wait_count >= self.patience:
            trainer.should_stop = True
