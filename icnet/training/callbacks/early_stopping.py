"""Ending a run that no longer gains."""

import logging
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from typing_extensions import override

log = logging.getLogger(__name__)


class ResumableEarlyStopping(EarlyStopping):
    """Stays stopped when a run that it has ended is resumed, where Lightning would train on to the next validation.

    The patience is the configuration's: with a larger one the run goes on.
    """

    @property
    @override
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__qualname__, EarlyStopping.__qualname__, 1)  # as in version 0.1

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.wait_count >= self.patience:
            trainer.should_stop = True
            log.info(
                "the run had stopped after %d validations without a better %s; a larger callbacks.early_stop_patience "
                "lets it go on", self.wait_count, self.monitor,
            )  # fmt: skip
