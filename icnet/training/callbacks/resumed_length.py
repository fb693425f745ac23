"""A run that goes on with another length than it was begun with: more epochs, or other steps in each."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import PolynomialLR
from typing_extensions import override

from icnet.models.weight_files import META_KEY
from icnet.training.optim import seek
from icnet.training.position import read_position, write_position
from icnet.training.segmentation_task import SegmentationTask

log = logging.getLogger(__name__)

SCHEDULE = "lr_schedulers"
FIT_LOOP = "fit_loop"
OF_LENGTH = ("total_iters", "power")  # what torch's poly keeps in its state of the length it was made for
OF_EPOCH = ("samples", "batch_size", "devices", "accumulate_grad_batches")  # what an epoch's steps are made of


class ResumedLength(Callback):
    """Compute the schedule for the length that a resumed run has now, and go on at the right place of it.

    A checkpoint holds the schedule of the run as it was begun. With more epochs that would go on at a learning rate of
    0. So only its position is kept: of ``warmup_cosine`` the epoch; of ``poly`` the steps that are left to the new end,
    counted from there. Weights, the optimizer's state and the count of epochs are the checkpoint's. Inside an epoch
    whose steps are made of other batches, the epoch begins anew: no sample of it is left out, some come twice.

    With an unchanged length every bit is as it would have been without the interruption.
    """

    def __init__(self) -> None:
        self._now: dict[str, Any] = {}
        self._before: dict[str, Any] | None = None  # of the checkpoint; None if nothing is resumed
        self._schedule: dict[str, Any] = {}  # OF_LENGTH, as the checkpoint has them
        self._other_schedule = False  # the checkpoint's is of another kind

    @override
    def state_dict(self) -> dict[str, Any]:
        return dict(self._now)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._now = {
            "max_epochs": trainer.max_epochs,
            "max_steps": trainer.max_steps,
            "samples": len(data.train or ()),
            "batch_size": data.batch_size,
            "devices": trainer.world_size,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
        }

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: SegmentationTask, checkpoint: dict[str, Any]  # type: ignore[override]
    ) -> None:  # fmt: skip
        self._before = dict(checkpoint["callbacks"].get(self.state_key, {}))
        self._begin_epoch_anew(checkpoint)
        before, now = (_schedule_name(meta) for meta in (checkpoint.get(META_KEY, {}), pl_module.meta))
        states = checkpoint.get(SCHEDULE) or []
        self._other_schedule = before not in {now, None}
        if self._other_schedule:
            checkpoint[SCHEDULE] = []
        elif states:
            self._schedule = {key: states[0][key] for key in OF_LENGTH if key in states[0]}
            kept = [{key: value for key, value in state.items() if key not in OF_LENGTH} for state in states]
            checkpoint[SCHEDULE] = kept

    def _begin_epoch_anew(self, checkpoint: dict[str, Any]) -> None:
        loops = checkpoint["loops"][FIT_LOOP]
        position = read_position(loops)
        changed = [text for text in self._changes(loops) if text.split()[0] in OF_EPOCH]
        if position.batches and changed:
            checkpoint["loops"][FIT_LOOP] = write_position(loops, replace(position, batches=0, steps_of_epoch=0))
            log.warning(
                "the checkpoint lies inside epoch %d, behind %d of its batches, and these are others now (%s): the "
                "epoch begins anew, and some of its samples come twice",
                position.epochs + 1, position.batches, ", ".join(changed),
            )  # fmt: skip

    def _changes(self, loops: Mapping[str, Any] | None = None) -> list[str]:
        """Name what the length depends on and is not as it was, such as ``max_epochs was 2, is 4``."""
        before = dict(self._before or {})
        loaders = (loops or {}).get("combined_loader") or [{}]
        if not before and loaders[0]:  # of a version that recorded no more
            loader = loaders[0]
            before = {"devices": loader.get("world_size")} | {key: loader.get(key) for key in ("samples", "batch_size")}
        return [
            f"{key} was {before[key]}, is {value}"
            for key, value in self._now.items()
            if before.get(key, value) not in {value, None}
        ]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._before is None:
            return
        groups = trainer.optimizers[0].param_groups
        was = groups[0]["lr"]
        if self._other_schedule:  # its base is what the optimizer was begun with; one without a schedule has it still
            for group in groups:
                group["lr"] = group["initial_lr"] = group.get("initial_lr", group["lr"])
        if trainer.lr_scheduler_configs:
            self._seek(trainer, trainer.lr_scheduler_configs[0].scheduler)
        changed = self._changes()
        if self._other_schedule:
            changed.append("the schedule is another one")
        if changed or groups[0]["lr"] != was:
            log.info(
                "going on with another length (%s): weights, optimizer state and the %d epochs that are done are kept; "
                "epoch %d of %d follows, with %d batches an epoch; the schedule, computed for these, is at lr %.6g "
                "(in the checkpoint: %.6g)",
                ", ".join(changed) or "another schedule", trainer.current_epoch, trainer.current_epoch + 1,
                trainer.max_epochs, trainer.num_training_batches, groups[0]["lr"], was,
            )  # fmt: skip

    def _seek(self, trainer: Trainer, scheduler: Any) -> None:
        base_lrs = scheduler.base_lrs
        if self._other_schedule:
            base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
        position = trainer.current_epoch
        if isinstance(scheduler, PolynomialLR):
            position = scheduler.total_iters - _steps_left(trainer)
            length = {key: getattr(scheduler, key) for key in OF_LENGTH}
            if not self._other_schedule and (length, position) == (self._schedule, scheduler.last_epoch):
                return  # torch computes it step by step, and rounds as it goes
        seek(scheduler, position, base_lrs)


def _schedule_name(meta: Mapping[str, Any]) -> str | None:
    return (meta.get("scheduler") or {}).get("name")


def _steps_left(trainer: Trainer) -> int:
    """Return how many optimizer steps the rest of the run takes."""
    done = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.current.completed
    accumulated = trainer.accumulate_grad_batches
    per_epoch = -(-int(trainer.num_training_batches) // accumulated)
    left = per_epoch * ((trainer.max_epochs or 0) - trainer.current_epoch) - done
    return left if trainer.max_steps < 0 else min(left, trainer.max_steps - trainer.global_step)
