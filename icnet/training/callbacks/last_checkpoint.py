"""``last.ckpt``: the state to resume from, inside an epoch and at the end of each."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from icnet.training.position import read_old_position, read_position, write_position


class LastCheckpoint(Checkpoint):
    """Save after every few optimizer steps, and always at the end of an epoch, behind its validation.

    The last step of an epoch has no checkpoint of its own: the epoch's follows at once, and a run that is killed in
    between trains from the checkpoint before, to the same weights and the same scores. Lightning's ``ModelCheckpoint``
    saves either by steps or by epochs; by steps alone the end of a training would be in no file.

    Every checkpoint of the run, this and any other, gets loop counters from which Lightning resumes exactly: see
    ``icnet.training.position``.

    Args:
        path: The file.
        every_n_steps: 0 = at the end of epochs only.
    """

    def __init__(self, path: Path, every_n_steps: int = 0) -> None:
        self.path = path
        self.every_n_steps = every_n_steps

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"exact_position": True}  # tells the checkpoints with exact counters from those of version 0.1

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        loops = checkpoint["loops"]["fit_loop"]
        checkpoint["loops"]["fit_loop"] = write_position(loops, read_position(loops))

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.state_key not in checkpoint["callbacks"]:
            loops = checkpoint["loops"]["fit_loop"]
            checkpoint["loops"]["fit_loop"] = write_position(loops, read_old_position(loops))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Between two epochs nothing is to be continued. With max_steps Lightning would think so and skip to validation.
        progress: Any = trainer.fit_loop.epoch_progress.total
        if progress.started == progress.processed:
            trainer.fit_loop.epoch_loop.restarting = False

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not self.every_n_steps or trainer.is_last_batch or not stepped:
            return
        if trainer.global_step % self.every_n_steps == 0:
            trainer.save_checkpoint(self.path, weights_only=False)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
