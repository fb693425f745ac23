"""Which files below a folder are images: in any case of their suffix, hidden ones passed over, left out ones told."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path, PurePath

from icnet.errors import UserError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
"""What is taken as an image, in upper and lower case, wherever files are looked for: in training as in the demo."""

MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
"""What is taken as a label mask; whether one of them can hold labels, ``icnet.data.masks`` says."""


def is_image(path: PurePath | str) -> bool:
    """Tell by its suffix whether a file is an image."""
    return PurePath(path).suffix.lower() in IMAGE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Tell whether a name is one that folders don't show, such as macOS's ``._photo.jpg`` beside ``photo.jpg``."""
    return name.startswith(".")


def walk(folder: Path) -> Iterator[str]:
    """Yield the files below a folder in the order of their names, those of each folder before its subfolders.

    Links to folders are followed, but not back to a folder that they lie in. Hidden files and folders are left out.

    Args:
        folder: Where to look; one that does not exist is empty.

    Yields:
        Paths relative to ``folder``, with ``/`` between their parts.

    Raises:
        UserError: If a folder cannot be read.
    """
    return _walk(str(folder), "", ())


def _walk(place: str, inside: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    try:
        status = os.stat(place)
        own = status.st_dev, status.st_ino
        if own in above:
            return
        with os.scandir(place) as listed:
            entries = sorted((entry for entry in listed if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"the folder {place} cannot be read ({error.strerror}); change its permissions") from None
    folders = [entry.name for entry in entries if entry.is_dir()]
    yield from (f"{inside}{entry.name}" for entry in entries if not entry.is_dir())
    for name in folders:
        yield from _walk(os.path.join(place, name), f"{inside}{name}/", (*above, own))


def tell_left_out(place: Path | str, files: Collection[str], wanted: str) -> None:
    """Say in the log, once for each place, which files of it are not used.

    Args:
        place: Where they were found.
        files: Their paths.
        wanted: What is taken instead, such as ``images (.png, .jpg)``.
    """
    if files:
        suffixes = Counter(PurePath(file).suffix or "no suffix" for file in files)
        kinds = ", ".join(f"{count} with {suffix}" for suffix, count in suffixes.most_common(3))
        more = ", ..." if len(suffixes) > 3 else ""
        say_once(f"{place}: {len(files)} file(s) left out ({kinds}{more}), the first is {min(files)}; taken: {wanted}")


@cache
def say_once(line: str) -> None:
    """Write a warning into the log, but not again in this process: data sets are listed several times in a run."""
    log.warning(line)
