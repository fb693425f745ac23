"""Decoded samples on disk: what a training reads instead of PNG and JPEG files, which cost most of a sample's time.

A folder for each split and kind of labels::

    index.json          what each sample was decoded from
    NAME.image.npy      (H, W, 3) uint8 RGB
    NAME.mask.npy       (H, W) uint8 train ids

The arrays are mapped into memory, so that a crop reads the pages that it shows and no more. A file is there whole or
not at all, and the index says which sources it came from (path, size and time of change), so packing goes on where it
was interrupted, and a changed source is packed again, alone.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import mmap
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from rich.filesize import decimal

from icnet.data.base import SamplePaths
from icnet.data.parallel import in_threads
from icnet.errors import UserError
from icnet.run import files

log = logging.getLogger(__name__)

Decoded = tuple[np.ndarray, np.ndarray]
"""(H, W, 3) uint8 RGB and (H, W) uint8 train ids of a sample."""
Stamp = list[str | int]
"""Path, size in bytes and time of change in nanoseconds of the image, and of the mask if there is one."""

INDEX = "index.json"
LOCK = "lock"
VERSION = 2
LONGEST_NAME = 200  # of a file, of the 255 bytes that file systems take, as others are added to it
SAVE_EVERY = 5.0  # seconds between two states of the index while packing


class PackedSamples:
    """The decoded samples of one split.

    Args:
        folder: Where they lie; made if missing.
        samples: Where their sources lie.
        decode: Returns a sample by its index, from the sources.
        labels: What the train ids depend on beside the mask files, as bytes; the samples are packed anew if it changes.
        title: How messages call the split.
        root: The folder of the data set as it is spelled in ``samples``, which do not change where another spelling
            leads to the same; empty if they have none.
    """

    def __init__(
        self, folder: Path, samples: Sequence[SamplePaths], decode: Callable[[int], Decoded], labels: bytes, title: str,
        root: str = "",
    ) -> None:  # fmt: skip
        self.folder = folder
        self.samples = samples
        self.decode = decode
        self.title = title
        self.root = root
        self._labels = hashlib.sha256(labels).hexdigest()

    def __getitem__(self, index: int) -> Decoded:
        """Return a sample, mapped into memory and not to be written to.

        Raises:
            UserError: If a file of it has gone or was cut off since it was packed.
        """
        try:
            return _mapped(self._image(index)), _mapped(self._mask(index))
        except (OSError, ValueError, TypeError):
            raise UserError(
                f"{self._image(index)} or its mask is missing or damaged; delete both, to have them packed again"
            ) from None

    def pack(self, threads: int) -> None:
        """Decode what is not there, or not as its sources are now. Several processes may call this at once.

        Args:
            threads: How many samples to decode at the same time.

        Raises:
            UserError: If a source cannot be used, or there is not enough space; what is done already stays.
        """
        if not self._missing(self._stamps(), self._read_index()):
            return  # so that a folder which is packed already may be read-only
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._pack(threads)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise self._no_space(self._bytes_left()) from None
            raise UserError(
                f"{self.folder} cannot be written ({error.strerror}); choose another folder with data.cache_folder, "
                "or data.cache=off"
            ) from None

    def _pack(self, threads: int) -> None:
        stamps, index = self._stamps(), self._read_index()
        missing = self._missing(stamps, index)
        if not missing:
            return
        files.remove_unfinished(self.folder)
        started = time.perf_counter()
        first_bytes = self._pack_one(missing[0])
        index[self.samples[missing[0]].name] = stamps[missing[0]]
        rest = missing[1:]
        needed, seconds = first_bytes * len(rest), (time.perf_counter() - started) * len(rest) / threads
        replaced = sum(_size(self._image(number)) + _size(self._mask(number)) for number in rest)
        if needed - replaced > shutil.disk_usage(self.folder).free:
            self._write_index(index)
            raise self._no_space(needed - replaced)
        log.info(
            "%s: packing %d of %d samples into %s, about %s and %.0f s with %d threads",
            self.title, len(missing), len(self.samples), self.folder, decimal(needed), seconds, threads,
        )  # fmt: skip
        saved = time.monotonic()
        try:
            for number in self._packed(rest, threads):
                index[self.samples[number].name] = stamps[number]
                if time.monotonic() - saved > SAVE_EVERY:
                    self._write_index(index)
                    saved = time.monotonic()
        finally:
            with contextlib.suppress(OSError):  # of a full disk; another reason is told already
                self._write_index(index)

    def _stamps(self) -> list[Stamp]:
        return [_stamp(sample, self.root) for sample in self.samples]

    def _missing(self, stamps: Sequence[Stamp], index: Mapping[str, Stamp]) -> list[int]:
        """Return the numbers of the samples that are not there, or not as their sources are now."""
        return [
            number
            for number, (sample, stamp) in enumerate(zip(self.samples, stamps, strict=True))
            if index.get(sample.name) != stamp or not (self._image(number).exists() and self._mask(number).exists())
        ]

    def _packed(self, numbers: Sequence[int], threads: int) -> Iterator[int]:
        """Pack samples in parallel; yields the number of each when it is done."""

        def pack(number: int) -> int:
            self._pack_one(number)
            return number

        yield from in_threads(pack, numbers, f"packing {self.title}", progress=True, threads=threads)

    def _pack_one(self, number: int) -> int:
        """Decode a sample and write its arrays; returns their bytes."""
        image, mask = self.decode(number)
        for path, array in ((self._image(number), image), (self._mask(number), mask)):
            with files.atomic_file(path, sync=False, tidy=False) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        return image.nbytes + mask.nbytes

    def _image(self, number: int) -> Path:
        return self.folder / f"{_file_name(self.samples[number].name)}.image.npy"

    def _mask(self, number: int) -> Path:
        return self.folder / f"{_file_name(self.samples[number].name)}.mask.npy"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process pack at a time; the others wait. The lock ends with its process, however that ends."""
        with (self.folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("%s: waiting for another process that is packing into %s", self.title, self.folder)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read_index(self) -> dict[str, Stamp]:
        try:
            content = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            if (content["version"], content["labels"]) == (VERSION, self._labels):
                return dict(content["samples"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or not one that can be believed
        return {}

    def _write_index(self, samples: Mapping[str, Stamp]) -> None:
        content = {"version": VERSION, "labels": self._labels, "samples": samples}
        files.write_text(self.folder / INDEX, json.dumps(content))

    def _bytes_left(self) -> int:
        """Estimate the bytes that are missing from those that are there."""
        index = self._read_index()
        done = [n for n, sample in enumerate(self.samples) if sample.name in index and self._image(n).exists()]
        sizes = [self._image(n).stat().st_size + self._mask(n).stat().st_size for n in done]
        sizes = sizes or [sum(array.nbytes for array in self.decode(0))]
        return sum(sizes) * (len(self.samples) - len(done)) // len(sizes)

    def _no_space(self, needed: int) -> UserError:
        free = shutil.disk_usage(self.folder).free
        return UserError(
            f"{self.folder} has no room for the rest of {self.title}: about {decimal(needed)} are needed and "
            f"{decimal(free)} free; make room, choose another folder with data.cache_folder, or data.cache=off"
        )


class SamplesInMemory:
    """Decoded samples in the memory of this process, which its loader workers share as long as nobody writes to them.

    Args:
        samples: Where their sources lie.
        decode: Returns a sample by its index, from the sources.
        title: How messages call the split.
    """

    def __init__(self, samples: Sequence[SamplePaths], decode: Callable[[int], Decoded], title: str) -> None:
        self.samples = samples
        self.decode = decode
        self.title = title
        self._decoded: list[Decoded] = []

    def __getitem__(self, index: int) -> Decoded:
        """Return a sample."""
        return self._decoded[index]

    def pack(self, threads: int) -> None:
        """Decode all samples.

        Args:
            threads: How many to decode at the same time.

        Raises:
            UserError: If a source cannot be used, or memory does not suffice.
        """
        if self._decoded or not self.samples:
            return
        first = self.decode(0)
        needed = (first[0].nbytes + first[1].nbytes) * len(self.samples)
        free = _free_memory()
        if free is not None and needed > free:
            raise UserError(
                f"data.cache=memory needs about {decimal(needed)} for {self.title} and {decimal(free)} are free; use "
                "data.cache=packed"
            )
        log.info("%s: decoding %d samples into memory, about %s", self.title, len(self.samples), decimal(needed))
        numbers, title = range(len(self.samples)), f"reading {self.title}"
        self._decoded = list(in_threads(self.decode, numbers, title, progress=True, threads=threads))


def _mapped(path: Path) -> np.ndarray:
    """Map an array's file into memory, as ``numpy.load`` does in four times the time.

    Raises:
        OSError: There is no such file.
        ValueError: It does not begin as an array's does.
        TypeError: It is shorter than its array.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return np.ndarray(shape, dtype, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), file.tell())


def _file_name(sample: str) -> str:
    """Return what a sample's files are called, whatever is in its name and however long that is."""
    name = quote(sample, safe="")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 65]}-{hashlib.sha256(name.encode()).hexdigest()}"


def _stamp(sample: SamplePaths, root: str) -> Stamp:
    found: Stamp = []
    for path in (sample.image, sample.mask):
        if path is not None:
            try:
                status = path.stat()
            except OSError as error:
                raise UserError(
                    f"{path} cannot be read ({error.strerror}); restore the file or remove it from the set"
                ) from None
            inside = path.relative_to(root) if root and path.is_relative_to(root) else path.absolute()
            found += [str(inside), status.st_size, status.st_mtime_ns]
    return found


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _free_memory() -> int | None:
    """Return the bytes that can be had without swapping (Linux); None if nobody tells."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return None
