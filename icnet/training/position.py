"""Where a training run stands, and Lightning's loop counters that say so.

A checkpoint may be written at any hook, and Lightning's counters then lie between two of its own states: a batch may be
processed but not completed, an epoch trained but not validated. What it does on a resume depends on which of a dozen
combinations it finds, on ``max_steps``, and on how often the run was resumed before (seen in 2.6.6: an epoch too many
from a checkpoint after an epoch's last step). So the position is read from the counters, and the counters are written
anew in one of the two forms that it resumes exactly: between two epochs, or between two steps of an epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

EPOCHS = "epoch_progress"
BATCHES = "epoch_loop.batch_progress"
SCHEDULERS = "epoch_loop.scheduler_progress"
OPTIMIZER = "epoch_loop.automatic_optimization.optim_progress"
VALIDATION = "epoch_loop.val_loop.batch_progress"
LOADERS = "combined_loader"


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Args:
        epochs: Epochs whose batches have all been trained.
        batches: Batches of the epoch after those that have been trained; 0 between two epochs.
        total_batches: Batches of the whole run.
        steps: Optimizer steps of the whole run.
        steps_of_epoch: Those of the epoch that ``batches`` counts.
    """

    epochs: int
    batches: int
    total_batches: int
    steps: int
    steps_of_epoch: int


def read_position(loops: Mapping[str, Any]) -> Position:
    """Read the position from the state of Lightning's fit loop, whatever hook it was saved in.

    Args:
        loops: ``checkpoint["loops"]["fit_loop"]``.
    """
    batches, optimizer = loops[BATCHES], loops[OPTIMIZER]["optimizer"]["step"]
    total, done = batches["total"]["processed"], batches["current"]["processed"]
    steps, steps_of_epoch = optimizer["total"]["completed"], optimizer["current"]["completed"]
    begun, ended = (loops[EPOCHS]["total"][key] for key in ("started", "processed"))
    trained = batches["is_last_batch"] and done == batches["current"]["ready"]
    if trained or (begun == ended and not done):
        return Position(begun, 0, total, steps, 0)
    return Position(begun - 1, done, total, steps, steps_of_epoch if done else 0)


def read_old_position(loops: Mapping[str, Any]) -> Position:
    """Do the same for a checkpoint of version 0.1, whose counter of epochs can be one too high.

    That was so after a resume with ``max_steps``; at the end of an epoch the batches tell.
    """
    position, batches = read_position(loops), loops[BATCHES]
    if position.batches or not batches["current"]["processed"]:
        return position
    return replace(position, epochs=position.total_batches // batches["current"]["processed"])


def write_position(loops: Mapping[str, Any], position: Position) -> dict[str, Any]:
    """Return the fit loop's state with counters that Lightning resumes exactly from this position.

    Args:
        loops: As for ``read_position``; stays as it is.
        position: Where to go on.
    """
    epochs, batches = position.epochs, position.batches
    begun = epochs + bool(batches)
    progress = {"ready": begun, "started": begun, "processed": epochs, "completed": epochs}
    written = {
        **loops,
        EPOCHS: {"total": progress, "current": dict(progress)},
        BATCHES: {**_all(loops[BATCHES], position.total_batches, batches), "is_last_batch": False},
        SCHEDULERS: _all(loops[SCHEDULERS], position.steps, position.steps_of_epoch),
        OPTIMIZER: {
            "optimizer": {
                name: _all(counts, position.steps, position.steps_of_epoch)
                for name, counts in loops[OPTIMIZER]["optimizer"].items()
            }
        },
        VALIDATION: {**_all(loops[VALIDATION], 0, 0), "is_last_batch": False},
        "epoch_loop.state_dict": {**loops["epoch_loop.state_dict"], "_batches_that_stepped": position.steps},
    }
    if not batches:
        written.pop(LOADERS, None)  # only of interest inside an epoch
    return written


def _all(counts: Mapping[str, Any], total: int, current: int) -> dict[str, Any]:
    """Set every counter of a progress to what is done."""
    return {"total": dict.fromkeys(counts["total"], total), "current": dict.fromkeys(counts["current"], current)}
