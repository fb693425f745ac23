"""What stands on the progress bar."""

from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader
from typing_extensions import override

from icnet.training.callbacks.progress_bar import ProgressBar
from icnet.training.losses import CascadeLoss
from icnet.training.optim import sgd
from icnet.training.segmentation_task import SegmentationTask
from tests.training.test_compile_network import CLASSES, Small, batches


class Watched(ProgressBar):
    """Keeps what it showed behind every batch."""

    def __init__(self, every_n_steps: int) -> None:
        super().__init__(every_n_steps)
        self.shown: list[float] = []

    @override
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.shown.append(self.get_metrics(trainer, pl_module)["train/loss"])


class Losses(Callback):
    """The loss of every batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    @override
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())


def test_bar_shows_the_loss_of_the_first_of_logged_and_of_the_last_step(tmp_path):
    bar, losses = Watched(3), Losses()
    task = SegmentationTask(
        Small(3), CascadeLoss(Small.loss_weights, ignore_index=255), CLASSES,
        lambda task: sgd([{"params": task.net.parameters(), "lr": 0.1}], 0.9, 0.0, nesterov=False), {},
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[losses, bar],
    )  # fmt: skip
    trainer.fit(task, DataLoader(batches(8), batch_size=None))
    first, third, sixth, last = (losses.values[step] for step in (0, 2, 5, 7))
    assert bar.shown == [first, first, third, third, third, sixth, sixth, last]
