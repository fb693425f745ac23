"""Writing a file whole or not at all: nobody ever reads half of one, and a full disk never costs the previous one."""

import contextlib
import glob
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".tmp"
"""Of unfinished files; their names are ``.NAME.PID.tmp``."""

ABANDONED_SECONDS = 60  # an unfinished file that was not written to for so long is of a process that was killed


@contextlib.contextmanager
def atomic_file(path: Path, *, sync: bool = True, tidy: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block has ended well; otherwise it is removed.

    Args:
        path: The file. Its folder is made if missing.
        sync: Whether to wait until the content is on the disk, so that a crash of the machine costs nothing either.
        tidy: Whether to remove what killed processes left of the same file, which takes milliseconds in a folder of
            thousands; see ``remove_unfinished``.

    Yields:
        The file, open for writing bytes.

    Raises:
        OSError: If the file cannot be written; an older one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    if tidy:
        _remove_abandoned(path)


def write_bytes(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file whole or not at all; see ``atomic_file``."""
    with atomic_file(path, sync=sync) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 whole or not at all; see ``atomic_file``."""
    write_bytes(path, text.encode())


def is_being_written(path: Path) -> bool:
    """Tell whether this is an unfinished file that a process is still writing."""
    try:
        return path.suffix == SUFFIX and time.time() - path.stat().st_mtime < ABANDONED_SECONDS
    except FileNotFoundError:  # renamed or removed in the meantime
        return True


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left in a folder that no other process is writing to."""
    for unfinished in folder.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed left of the same file."""
    for unfinished in path.parent.glob(f".{glob.escape(path.name)}.*{SUFFIX}"):
        if not is_being_written(unfinished):
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
