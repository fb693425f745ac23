"""Whose a run folder is: refused where another run's result would be lost, archived where its run is wanted again."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from icnet.config import TrainConfig
from icnet.errors import UserError
from icnet.run.differences import changes, data_changes
from icnet.run.paths import RunPaths
from icnet.run.results import DataFingerprint, EvaluationRecord, TrainingRecord, read_results

log = logging.getLogger(__name__)

DONE = "done"


def refuse_training(folder: Path) -> None:
    """Refuse a folder that holds a training run.

    Raises:
        UserError: If its results would be overwritten by an evaluation's.
    """
    paths = RunPaths(folder)
    if paths.checkpoints.exists():
        raise UserError(
            f"{folder} holds a training run, whose {paths.results.name} would be lost; "
            "choose another hydra.run.dir=PATH"
        )


def refuse_evaluation(config: TrainConfig) -> None:
    """Refuse a folder that holds an evaluation.

    Raises:
        UserError: If its results would be overwritten by a training's.
    """
    paths = RunPaths(Path(config.output_dir))
    if isinstance(_read(paths), EvaluationRecord):
        raise UserError(
            f"{config.output_dir} holds an evaluation, whose {paths.results.name} would be lost; "
            "choose another hydra.run.dir=PATH"
        )


def refuse_other_evaluation(folder: Path, data: DataFingerprint) -> None:
    """Refuse a folder that holds an evaluation on other data.

    Args:
        folder: Where an evaluation is to go.
        data: The fingerprint of its data.

    Raises:
        UserError: If results and pictures of other data would be overwritten or mixed.
    """
    held = _read(RunPaths(folder))
    if isinstance(held, EvaluationRecord) and held.fingerprint is not None:
        changed = data_changes(held.fingerprint, data)
        if changed:
            raise UserError(
                f"{folder} holds an evaluation on other data ({'; '.join(changed)}), which would be lost; "
                "choose another hydra.run.dir=PATH"
            )


def finished_results(config: TrainConfig, data: Callable[[], DataFingerprint]) -> TrainingRecord | None:
    """Return the results of this very run if its folder holds them and ``skip_finished`` is set.

    Args:
        config: Of this run.
        data: Takes the fingerprint of its data; called where the folder holds results.

    Raises:
        UserError: If the folder holds the results of a run with another configuration, or on other data.
    """
    paths = RunPaths(Path(config.output_dir))
    results = _results(paths) if config.skip_finished else None
    if results is None or results.config is None:
        return None
    changed = changes(results.config, asdict(config))
    if changed:
        raise another_run(config, changed)
    if results.fingerprint is None:
        warn_unknown_data(paths.results, (results.config.get("data") or {}).get("root"), config)
    else:
        other = data_changes(results.fingerprint, data())
        if other and (results.status == DONE or not config.resume_changed_data):
            raise on_other_data(config, other)
    return results if results.status == DONE else None


@rank_zero_only
def archive_finished(config: TrainConfig) -> None:
    """Move what a finished run left into an archive, where ``resume=here`` would find nothing to do.

    Only if ``skip_finished`` is off: then the run is wanted once more.
    """
    paths = RunPaths(Path(config.output_dir))
    if config.skip_finished or config.resume != "here":
        return
    results = _results(paths)
    if results is None or results.status != DONE:
        return
    archive, found = paths.new_archive(), paths.find_archivable()
    archive.mkdir()
    for path in found:
        path.rename(archive / path.name)
    log.info("resume=here: the run in this folder was done; it is in %s now, and a new one starts", archive)


def another_run(config: TrainConfig, changed: list[str]) -> UserError:
    """Return the error that says how the run in a folder differs from the one that is wanted there."""
    return UserError(
        f"{config.output_dir} holds a run of another configuration ({changed[0]}{', ...' if changed[1:] else ''}); "
        "choose another folder with hydra.run.dir=PATH, or hydra.sweep.dir=PATH for a sweep"
    )


def on_other_data(config: TrainConfig, changed: list[str]) -> UserError:
    """Return the error that says how the data of the run in a folder differ from those of the one that is wanted."""
    return UserError(
        f"{config.output_dir} holds a run on other data ({'; '.join(changed)}), and data.root={config.data.root}; "
        "give the same data, choose another folder with hydra.run.dir=PATH, or hydra.sweep.dir=PATH for a sweep, or go "
        "on all the same with resume_changed_data=true if the run has not ended"
    )


def warn_unknown_data(path: Path, root: object, config: TrainConfig) -> None:
    """Say that a file does not tell its data, as those of older versions do not.

    Args:
        path: Results or a checkpoint.
        root: Its ``data.root``, as far as it tells.
        config: Of this run.
    """
    moved = "" if root == config.data.root else f"; data.root was {root}, is {config.data.root}"
    log.warning("%s was written before data were recorded: whether these are its data is not known%s", path, moved)


def _results(paths: RunPaths) -> TrainingRecord | None:
    found = _read(paths)
    return found if isinstance(found, TrainingRecord) else None


def _read(paths: RunPaths) -> TrainingRecord | EvaluationRecord | None:
    try:
        return read_results(paths.results)
    except UserError:
        return None  # cut off while it was written, or made by hand: no result
