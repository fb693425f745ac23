"""A script's ``main`` in its run folder: claimed, with a log of its own, as a rank of its group."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from icnet.launch import logs, messages, rank, run_folder
from icnet.run.failure import clear_failure


def run(name: str, main: Callable[[Any], Any], config: Any) -> Any:
    """Run ``main(config)`` in a folder that no other process writes to; that of a single run is claimed already.

    Args:
        name: The job's, and its log's.
        main: The script's function.
        config: A configuration with ``output_dir`` and ``trainer``.
    """
    about = HydraConfig.get()
    if about.mode != RunMode.MULTIRUN or config.trainer.num_nodes > 1:
        return _run_in_folder(name, main, config)
    with run_folder.claimed_job(Path(about.runtime.output_dir)):
        return _run_in_folder(name, main, config)


def _run_in_folder(name: str, main: Callable[[Any], Any], config: Any) -> Any:
    """Run ``main`` with a log in its run folder."""
    about, group = HydraConfig.get(), rank.from_environment()
    clear_failure(Path(about.runtime.output_dir))
    key = "hydra.sweep.dir" if about.mode == RunMode.MULTIRUN else "hydra.run.dir"
    run_folder.make_output_folder(config.output_dir, key=key)
    if group:
        config = replace(config, trainer=rank.fit_trainer(config.trainer, group, about.overrides.task))
    elif config.trainer.num_nodes > 1:
        return main(config)  # which node this is, and so its log's name, is agreed between them later
    own = group or rank.ProcessRank()
    path = logs.log_path(Path(config.output_dir), name, config.trainer.devices, own)
    with logs.own_log(path, own.rank) as log:
        try:
            return main(config)
        except Exception as error:
            if own.rank == 0:  # another's standard error ends there anyway
                messages.write_error(error, log)
            raise
