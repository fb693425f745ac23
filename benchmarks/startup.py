"""Time how long the commands take to answer ``--help``, beside a Python that does nothing.

    python -m benchmarks.startup

The reference has nothing to compare with: its scripts take no ``--help`` and start to work at once.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import common

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("train.py", "eval.py", "export.py", "demo.py")


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="rounds; in each, everything runs once in turn")
    args = parser.parse_args()

    def call(*arguments: str) -> Callable[[int], object]:
        return lambda turn: subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)

    contenders = {"python -c pass": call("-c", "pass")}
    contenders |= {f"{script} --help": call(script, "--help") for script in COMMANDS}
    common.print_table("start-up", common.take_turns(contenders, args.repeats), baseline=None)


if __name__ == "__main__":
    main()
