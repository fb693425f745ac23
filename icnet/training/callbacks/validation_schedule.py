"""When a run validates."""

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

LAST_SHARE = 0.1  # of the epochs, at the end
SEVERAL_DEVICES, ONE_DEVICE = 5, 1  # epochs


class PublishedValidationSchedule(Callback):
    """Validate every 5 epochs on several devices, every epoch on one, and every epoch in the last tenth of the run."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._choose(trainer)  # a run that is resumed inside an epoch does not start that epoch again

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._choose(trainer)

    @staticmethod
    def _choose(trainer: Trainer) -> None:
        trainer.check_val_every_n_epoch = _published_interval(trainer, trainer.current_epoch)


def validation_interval(trainer: Trainer, epoch: int) -> int:
    """Return every how many epochs a run validates when it is in an epoch, counted from 0."""
    if any(isinstance(callback, PublishedValidationSchedule) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return _published_interval(trainer, epoch)
    return trainer.check_val_every_n_epoch or 1


def _published_interval(trainer: Trainer, epoch: int) -> int:
    last = epoch + 1 > (1 - LAST_SHARE) * (trainer.max_epochs or 0)  # the very last one always
    usual = SEVERAL_DEVICES if trainer.world_size > 1 else ONE_DEVICE
    return 1 if last else usual
