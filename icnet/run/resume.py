"""Where a training goes on from, and whether it may: decisions on what checkpoints say of themselves.

Opening checkpoint files is the caller's, who hands in how.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from icnet.config import TrainConfig
from icnet.errors import UserError
from icnet.run.differences import class_changes
from icnet.run.folder import another_run, on_other_data
from icnet.run.paths import BEST, LAST, RunPaths, checkpoints_below

log = logging.getLogger(__name__)

OUTPUTS = Path("outputs")


def choose_checkpoint(config: TrainConfig, is_like: Callable[[Path], bool]) -> Path | None:
    """Find the checkpoint to go on from.

    Args:
        config: Of this run. ``resume`` is a path; None to start anew; ``here`` for the last checkpoint in this run's
            folder, if there is one; ``auto`` for that one, or else the newest below outputs/ that was made with the
            same model, data, loss, optimizer and seed.
        is_like: Tells whether a checkpoint was made with this configuration and these data.

    Returns:
        The checkpoint; None to start anew.

    Raises:
        UserError: If a new run would overwrite an older one.
    """
    own = RunPaths(Path(config.output_dir)).last
    if config.resume is None:
        if own.exists():
            raise UserError(
                f"{config.output_dir} already holds a run; go on with it by resume=auto, or start a new one in another "
                "folder with hydra.run.dir=PATH"
            )
        return None
    if config.resume not in {"auto", "here"}:
        return Path(config.resume)
    if own.exists():
        return own
    if config.resume == "here":
        return None
    found = sorted(checkpoints_below(OUTPUTS, LAST), key=lambda path: path.stat().st_mtime, reverse=True)
    newest = next(filter(is_like, found), None)
    if newest is None:
        log.info("resume=auto: no %s of this configuration here or below %s/: the run starts anew", LAST, OUTPUTS)
    return newest


def check_checkpoint(
    path: Path, config: TrainConfig, *, resumable: bool, classes: tuple[Sequence[str], Sequence[str]], optimizer: str,
    changed: list[str], data: list[str],
) -> None:  # fmt: skip
    """Refuse a checkpoint that this run cannot go on from, and say in the log what is not as it was.

    A run on other data is another run, unless ``resume_changed_data`` says that it goes on with these. So it is if only
    those of its validation are others: the best checkpoint would be that of the easier data. Before the first
    validation, as where a damaged image ended it, there is none yet, and the run may go on.

    Args:
        path: The checkpoint.
        config: Of this run.
        resumable: Whether the file holds a run's state beside the weights.
        classes: The names of the checkpoint's classes, and those of this run's data.
        optimizer: The name of the one that it was made with.
        changed: What else differs; see ``icnet.run.differences.changes``.
        data: How its data differ from this run's; see ``icnet.run.differences.data_changes``.

    Raises:
        UserError: If it holds no run's state, has other classes or another optimizer, or was made on other data; or if
            it is this folder's own (``resume=here``) and of another configuration.
    """
    if not resumable:
        raise UserError(f"resume={path} holds weights but no run's state; use model.weights={path} to start from them")
    theirs, ours = classes
    if len(theirs) != len(ours):
        raise UserError(
            f"resume={path} has {len(theirs)} classes and the data {len(ours)}; "
            f"use model.weights={path} to start a new run from its weights"
        )
    moved = class_changes(theirs, ours)
    if moved:
        raise UserError(
            f"resume={path} has other classes than the data: {moved[0]}; "
            f"use model.weights={path} to start a new run, which takes over the classes of the same names"
        )
    if optimizer != config.optim.name:
        raise UserError(
            f"resume={path} was made with optim={optimizer} and this run uses optim={config.optim.name}; "
            f"choose the same, or use model.weights={path} to start a new run from its weights"
        )
    unscored = all(change.startswith("val ") for change in data) and not path.with_name(BEST).exists()
    if data and not unscored and not config.resume_changed_data:
        if path == RunPaths(Path(config.output_dir)).last:
            raise on_other_data(config, data)
        raise UserError(
            f"resume={path} was made on other data ({'; '.join(data)}), and data.root={config.data.root}; give the "
            f"same data, use model.weights={path} to start a new run from its weights, or resume_changed_data=true to "
            "go on all the same"
        )
    log.info("going on from %s", path)
    if data:
        later = "" if unscored else "; scores from before are of the data as they were, the best one too"
        log.warning("going on with other data than the run was begun with: %s%s", "; ".join(data), later)
    if changed and config.resume == "here":
        raise another_run(config, changed)
    if changed:
        log.warning(
            "not what the run was begun with: %s; weights and the optimizer's state, its learning rate and weight "
            "decay included, go on as the checkpoint has them, and the schedule is computed for what is given now",
            ", ".join(changed),
        )
