"""The table at the end of a multirun."""

import logging
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from icnet.report.formats import print_failures, print_table
from icnet.report.sweep_page import write_table
from icnet.report.table import sweep_title, tabulate
from icnet.run.paths import failures_below
from icnet.run.reader import read_sweep

log = logging.getLogger(__name__)

EXIT_STATUS = {"died": 1, "failed": 2}
"""Of the command, by what the line of a failed job begins with."""


class SweepTable(Callback):
    """Make the table when Hydra has finished a multirun; failed jobs, wherever they ran, decide the exit status."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget how jobs of an earlier sweep into this folder failed; keep the configuration for ``command``."""
        HydraConfig.instance().set_config(config)
        _quiet_optuna()
        for path in failures_below(Path(config.hydra.sweep.dir)):
            path.unlink(missing_ok=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table and write ``report.md``, ``.csv`` and ``.html``; ``config`` has ``hydra.sweep.dir``."""
        HydraConfig.instance().cfg = None
        folder = Path(config.hydra.sweep.dir)
        try:
            table = tabulate(read_sweep(folder), sweep_title(folder))
            print_table(table)
            try:
                print(f"the table as a page: {write_table(table, folder)}")
            finally:
                print_failures(table)
        except Exception as error:  # the runs are done, and nothing may be lost for the sake of their table
            log.warning("no report of %s (%s); python -m icnet.report makes it again", folder, _one_line(error))
        status = [status for path in failures_below(folder) if (status := _status(path))]
        if status:
            sys.exit(min(status))  # Hydra would only warn of any other exception here


def _quiet_optuna() -> None:
    """Keep from the terminal that a failed trial, whose error is told, has no value, and what others begin with."""
    sweeper = logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl")
    sweeper.addFilter(lambda record: "Got 'None'" not in record.getMessage())
    for name in ("alembic", "optuna.storages"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _status(path: Path) -> int | None:
    try:
        return EXIT_STATUS.get(path.read_text(encoding="utf-8").split(":", 1)[0])
    except OSError:
        return None
