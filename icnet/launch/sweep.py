"""A multirun's end: its table, its exit status, and one line where the sweeper gives up."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from typing_extensions import override

from icnet.errors import UserError
from icnet.launch.messages import FAILURES, USER_MISTAKE, flatten, one_line, print_error
from icnet.report.formats import print_failures, print_table
from icnet.report.sweep_page import write_table
from icnet.report.table import sweep_title, tabulate
from icnet.run.failure import clear_failures, kinds_below
from icnet.run.paths import hydra_folders_below
from icnet.run.reader import read_sweep

log = logging.getLogger(__name__)

SWEEPER = "hydra/sweeper"  # the group

_under_way: ContextVar[tuple["SweepTable", DictConfig] | None] = ContextVar("_under_way", default=None)
"""The multirun that has begun and has not ended: Hydra makes the callback, and tells it alone the configuration."""


class SweepTable(Callback):
    """Make the table when Hydra has finished a multirun; failed jobs, wherever they ran, decide the exit status."""

    @override
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget how jobs of an earlier sweep into this folder failed."""
        _under_way.set((self, config))
        _quiet_optuna()
        clear_failures(Path(config.hydra.sweep.dir))

    @override
    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table and write ``report.md``, ``.csv`` and ``.html``; ``config`` has ``hydra.sweep.dir``."""
        _under_way.set(None)
        folder = Path(config.hydra.sweep.dir)
        try:
            table = tabulate(read_sweep(folder), sweep_title(folder))
            print_table(table)
            try:
                print(f"the table as a page: {write_table(table, folder)}")
            finally:
                print_failures(table)
        except Exception as error:  # the runs are done, and nothing may be lost for the sake of their table
            log.warning("no report of %s (%s); python -m icnet.report makes it again", folder, _named_line(error))
        found = kinds_below(folder)
        statuses = [status for status, kind in FAILURES.items() if kind in found]
        if statuses:
            sys.exit(min(statuses))  # Hydra would only warn of any other exception here


def refuse_search_of_one_run() -> None:
    """Raise ``UserError`` where Hydra would leave the sweeper out, and train once with what is no trial's values."""
    about = HydraConfig.get()
    sweeper = about.runtime.choices[SWEEPER]
    if about.mode == RunMode.RUN and sweeper != "basic":
        raise UserError(f"{SWEEPER}={sweeper} searches in several runs, and this would be one; give -m too")


@contextmanager
def search_given_up() -> Iterator[None]:
    """End a search that its sweeper gives up with one line and its table: Hydra would show a traceback instead.

    Optuna's gives up after the last trial if all of them failed, and at a trial that cannot be composed.
    """
    _under_way.set(None)
    try:
        yield
    except Exception as error:
        begun = _under_way.get()
        if begun is None or begun[1].hydra.runtime.choices[SWEEPER] == "basic":
            raise
        table, config = begun
        reason = one_line(error) or type(error).__name__
        print_error(f"{SWEEPER}={config.hydra.runtime.choices[SWEEPER]} gave up: {reason}")
        if any(hydra_folders_below(Path(config.hydra.sweep.dir))):
            table.on_multirun_end(config)  # exits with a status of its own if a trial failed
        sys.exit(USER_MISTAKE)


def _quiet_optuna() -> None:
    """Keep from the terminal that a failed trial, whose error is told, has no value, and what others begin with."""
    sweeper = logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl")
    sweeper.addFilter(lambda record: "Got 'None'" not in record.getMessage())
    for name in ("alembic", "optuna.storages"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _named_line(error: Exception) -> str:
    return flatten(f"{type(error).__name__}: {error}")
