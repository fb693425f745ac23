"""``python -m icnet.models FILE``: what a file of weights is, and ``--to`` writes it in another form."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from icnet.deploy.convert import FORMS, convert
from icnet.deploy.identify import identify
from icnet.errors import UserError

USER_MISTAKE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m icnet.models",
        description="Say what a file of weights is: layout, network, classes, input, what of it is loaded and what is "
        "not. Of an unknown one, the three layouts that are nearest and the first keys that differ.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a checkpoint, or ImageNet weights of a backbone")
    parser.add_argument(
        "--to", nargs=2, metavar=("FORM", "OUT"),
        help=f"write the checkpoint's network into the new file OUT instead; FORM is one of {', '.join(FORMS)}",
    )  # fmt: skip
    parser.add_argument("--half", action="store_true", help="with --to: weights in float16, a file of half the size")
    given = parser.parse_args(argv)
    try:
        if given.to:
            form, out = given.to
            print(convert(given.file, form, Path(out), half=given.half))
            return 0
        if given.half:
            raise UserError("--half rounds what --to writes; give --to FORM OUT too")
        found = identify(given.file)
        print("\n".join(found.lines))
        if found.problem:
            raise UserError(found.problem)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_MISTAKE
    return 0


if __name__ == "__main__":
    sys.exit(main())
