"""Tables and pages made from what runs left in their folders; ``python -m icnet.report --help``."""

import logging
from pathlib import Path

from icnet.report.formats import print_scores
from icnet.report.run_page import write_report
from icnet.run.exports import read_scores
from icnet.run.reader import is_run

__all__ = ["report_export", "write_report_or_warn", "write_report"]

log = logging.getLogger(__name__)


def write_report_or_warn(folder: Path) -> None:
    """Write a finished run's page; what goes wrong with it costs a line in the log and nothing else."""
    try:
        write_report(folder)
    except Exception as error:  # the run is done
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning("no report of %s (%s); 'python -m icnet.report %s' makes it again", folder, reason, folder)


def report_export(path: Path) -> None:
    """Print what an exported file scored, if it was scored; where it lies in a run's folder, show it on the page."""
    scores = read_scores(path)
    if scores:
        print_scores(scores)
        if is_run(path.parent):
            write_report_or_warn(path.parent)
