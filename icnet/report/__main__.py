"""``python -m icnet.report PATH...``: tables and pages, at any time, from what runs left in their folders."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from icnet.errors import UserError
from icnet.report.formats import print_failures, print_table
from icnet.report.run_page import write_report
from icnet.report.sweep_page import write_table
from icnet.report.table import sweep_title, tabulate
from icnet.run.reader import is_run, read_all

USER_MISTAKE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Make what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m icnet.report",
        description="One multirun folder: its table (report.md, report.csv, report.html). One run folder: its page "
        "(report.html). Several folders: their comparison (comparison.md, .csv, .html).",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="folder of a run or of a multirun")
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help="where the files go; default: the folder itself, or for several the one they have in common",
    )  # fmt: skip
    given = parser.parse_args(argv)
    try:
        _make(given.paths, given.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_MISTAKE
    return 0


def _make(paths: Sequence[Path], output: Path | None) -> None:
    runs = read_all(paths)
    if len(paths) == 1 and is_run(paths[0]):
        print(f"the page of the run: {write_report(paths[0], output)}")
        return
    if len(paths) == 1:
        title, folder, name = sweep_title(paths[0]), paths[0], "report"
    else:
        folder = Path(os.path.commonpath([path.resolve() for path in paths]))
        title, name = "Comparison", "comparison"
    table = tabulate(runs, title, sweep=len(paths) == 1)
    print_table(table)
    print(f"the table as a page: {write_table(table, output or folder, name)}")
    print_failures(table)


if __name__ == "__main__":
    sys.exit(main())
