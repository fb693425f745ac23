"""What is known of the files of a split, kept from one start to the next for as long as none of them changes."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from icnet.data.dataset import SegmentationDataset
from icnet.run import files

VARIABLE = "ICNET_CACHE"
VERSION = 1  # of what is kept and how it is found out; another one makes everything be looked at again

_memory: dict[str, "Known"] = {}  # for a machine where nothing can be kept, within one process
_MOST_IN_MEMORY = 8


@dataclass
class Known:
    """What is known of each of a split's N samples; rows of 0 where nothing is.

    Args:
        size: (N, 2) int32, (height, width) of images that fit their mask, by their headers.
        sound: (N,) bool, whether the image's file was found to be whole.
        counted: (N,) bool, whether the mask was decoded.
        pixels: (N, C) int64, pixels of each class in the mask.
        ignored: (N,) int64, its other pixels.
    """

    size: np.ndarray
    sound: np.ndarray
    counted: np.ndarray
    pixels: np.ndarray
    ignored: np.ndarray

    @classmethod
    def nothing(cls, samples: int, classes: int) -> "Known":
        """Return what is known of files that nobody has looked at."""
        return cls(
            np.zeros((samples, 2), np.int32),
            np.zeros(samples, bool),
            np.zeros(samples, bool),
            np.zeros((samples, classes), np.int64),
            np.zeros(samples, np.int64),
        )

    @property
    def extent(self) -> tuple[int, int, int]:
        """How many samples something is known of: sizes, sound images, counted masks."""
        return int((self.size[:, 0] > 0).sum()), int(self.sound.sum()), int(self.counted.sum())


def fingerprint(dataset: SegmentationDataset, about: Mapping[str, Any]) -> str:
    """Return what changes when a file of a split, or the way in which it is read, does.

    Args:
        dataset: The split. Of its files, paths, sizes in bytes and times of change count.
        about: Whatever else decides how they are read, as plain values.

    Returns:
        64 hexadecimal digits.
    """
    classes = dataset.classes
    head = [VERSION, classes.names, classes.palette, {key: str(value) for key, value in about.items()}]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for sample in dataset.samples:
        for path in (sample.image, sample.mask):
            digest.update(_state(path).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _state(path: Path | None) -> str:
    if path is None:
        return "none\n"
    try:
        found = os.stat(path)
    except OSError:  # a broken link: whoever reads it says so
        return f"{os.path.abspath(path)}\n"
    return f"{os.path.abspath(path)} {found.st_size} {found.st_mtime_ns}\n"


def folders() -> Iterator[Path]:
    """Yield the folders where something may be kept, the best first: never the data's own, which may be read-only."""
    given = os.environ.get(VARIABLE)
    if given:
        yield Path(given).expanduser()
        return
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icnet"
    yield Path(tempfile.gettempdir()) / f"icnet-{os.getuid()}"


def load(key: str, samples: int, classes: int) -> Known:
    """Return what is known; nothing, where nothing was kept or it cannot be read.

    Args:
        key: See ``fingerprint``.
        samples: N.
        classes: C.
    """
    fresh = Known.nothing(samples, classes)
    for folder in folders():
        found = _read(folder / f"{key}.npz")
        if found and all(getattr(found, one.name).shape == getattr(fresh, one.name).shape for one in fields(Known)):
            return found
    return _memory.get(key, fresh)


def _read(path: Path) -> Known | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            return Known(**{one.name: kept[one.name] for one in fields(Known)})
    except Exception:  # missing, cut off, another's: numpy raises many kinds
        return None


def keep(key: str, known: Known) -> None:
    """Keep what is known, in the first folder that takes it; where none does, in this process alone."""
    content = io.BytesIO()
    np.savez_compressed(content, **vars(known))
    for folder in folders():
        with contextlib.suppress(OSError):
            files.write_bytes(folder / f"{key}.npz", content.getvalue(), sync=False)
            return
    while len(_memory) >= _MOST_IN_MEMORY:
        _memory.pop(next(iter(_memory)))
    _memory[key] = known


@contextlib.contextmanager
def alone(key: str) -> Iterator[None]:
    """Let the processes of one machine look through the same data one after the other, so that only the first has to.

    Where no lock can be had, they all look.
    """
    with contextlib.ExitStack() as stack:
        for folder in folders():
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((folder / f"lock_{key[0]}").open("w"))  # a few for all, none to clear up
                fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the system when the process ends, however it ends
                break
        yield
