"""Ending a run whose validation can score nothing."""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from icnet.training.metrics import nothing_labelled
from icnet.training.segmentation_task import SegmentationTask


class StopWithoutLabels(Checkpoint):
    """Stop after the first epoch whose validation met no labelled pixel: there is no best epoch without scores.

    A ``Checkpoint`` for the sake of its place: Lightning calls those last, so that the epoch is in ``last.ckpt``, and
    the run can go on from it with other validation data.
    """

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: SegmentationTask) -> None:  # type: ignore[override]
        """Look at the scores of the epoch's validation, if it had one.

        Raises:
            UserError: If no pixel was labelled.
        """
        if pl_module.confusion is not None and not pl_module.confusion.any():
            title = trainer.datamodule.val.title  # type: ignore[attr-defined]
            raise nothing_labelled(
                f"the validation images ({title})",
                "choose others with data.val_split, or train without scores by trainer.limit_val_batches=0; "
                "resume=auto goes on from this epoch",
            )
