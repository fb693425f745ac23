"""Ending a script from outside without leaving anything behind."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

HEEDED = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def tidied_up() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, end the block as Ctrl-C does, so that no temporary file is left.

    A training has handlers of its own, which save.
    """

    def end(number: int, frame: Any) -> None:
        for other in heeded:
            signal.signal(other, signal.SIG_IGN)  # a second one would stop the tidying
        sys.exit(128 + number)  # the shell's convention

    heeded = [number for number in HEEDED if signal.getsignal(number) == signal.SIG_DFL]  # not what nohup ignores
    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, signal.SIG_DFL)
