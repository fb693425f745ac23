"""Tables and pages made from what runs left in their folders; ``python -m icnet.report --help``."""

import logging
from pathlib import Path

from icnet.report.run_page import write_report

__all__ = ["write_report_or_warn", "write_report"]

log = logging.getLogger(__name__)


def write_report_or_warn(folder: Path) -> None:
    """Write a finished run's page; what goes wrong with it costs a line in the log and nothing else."""
    try:
        write_report(folder)
    except Exception as error:  # the run is done
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning("no report of %s (%s); 'python -m icnet.report %s' makes it again", folder, reason, folder)
