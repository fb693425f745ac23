"""The files that the demo leaves: pictures, videos, the legend and the table of confidence."""

import contextlib
import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from icnet.data import drawing
from icnet.data.labels import ClassTable
from icnet.deploy.demo.frames import Frame
from icnet.deploy.demo.inputs import Source, is_moving
from icnet.deploy.demo.video_file import VideoFile
from icnet.errors import UserError

LEGEND = "legend.png"
CONFIDENCE = "confidence.csv"
OVERLAY = "overlay"


@dataclass(frozen=True)
class Job:
    """An input and what its results are called.

    Args:
        source: The input.
        name: The beginning of its results' names.
    """

    source: Source
    name: str

    def file(self, kind: str) -> str:
        """Return the name of a result, such as ``photo_labels.png`` for ``labels``."""
        return f"{self.name}_{kind}.{'mp4' if is_moving(self.source) else 'png'}"


class Results:
    """Writes results into a folder, one input after the other.

    Args:
        folder: The folder; it is made.
        confidence: Whether there is a table of confidence.

    Raises:
        UserError: If something can't be written.
    """

    def __init__(self, folder: Path, *, confidence: bool) -> None:
        self.folder = folder
        self._video: VideoFile | None = None
        self._table: TextIO | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"output={folder} cannot be made a folder ({error.strerror}); choose another with output=FOLDER"
            ) from error
        if confidence:
            self._to_table(("input", "frame", "confidence"))

    def write(self, job: Job, frame: Frame, pictures: Mapping[str, np.ndarray], confidence: float | None) -> None:
        """Write what an image became, or a frame.

        Args:
            job: The input.
            frame: Its picture.
            pictures: (H, W, 3) or (H, W) uint8 for each kind of result; only the overlay of a frame.
            confidence: Its mean, 0-1, for the table; None where there is none.

        Raises:
            UserError: If it can't be written.
        """
        for kind, picture in pictures.items():
            path = self.folder / job.file(kind)
            if is_moving(job.source):
                if self._video is None:
                    self._video = VideoFile(path, frame.fps, (picture.shape[0], picture.shape[1]))
                self._video.write(picture, frame.seconds)
            else:
                _write_image(path, picture)
        if confidence is not None:
            self._to_table((job.source, frame.number if is_moving(job.source) else "", f"{confidence:.6f}"))

    def end_input(self) -> None:
        """End the video that is being written, if there is one.

        Raises:
            UserError: If it is not whole.
        """
        if self._video is not None:
            video, self._video = self._video, None
            video.finish()

    def legend(self, classes: ClassTable, present: Collection[int]) -> None:
        """Draw the names and colours of the classes that occurred."""
        path = self.folder / LEGEND
        _write_image(path, drawing.legend(classes, present))
        try:
            drawing.write_key(path, classes, drawing.shown_names(classes))
        except OSError as error:
            raise UserError(f"{path} has no key ({error}); choose another folder with output=FOLDER") from error

    def close(self) -> None:
        """End all files, whatever happened before."""
        if self._video is not None:
            self._video.close()
        if self._table is not None:
            with contextlib.suppress(OSError):  # what could not be written was told by the row
                self._table.close()

    def _to_table(self, row: Sequence[object]) -> None:
        path = self.folder / CONFIDENCE
        try:
            if self._table is None:
                self._table = path.open("w", newline="", encoding="utf-8")
            csv.writer(self._table).writerow(row)
            self._table.flush()  # a full disk is to be heard of here
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}); choose another folder with output=FOLDER"
            ) from error


def refuse_to_overwrite(jobs: Sequence[Job], folder: Path, kinds: Collection[str]) -> None:
    """Raise ``UserError`` if a result would overwrite an input.

    Files are compared, not names: links and file systems that ignore case give one file several.

    Args:
        jobs: The inputs.
        folder: Of the results.
        kinds: Of the results that an image has.
    """
    given = {_identity(job.source): job.source for job in jobs if isinstance(job.source, Path) and job.source.exists()}
    results = [job.file(kind) for job in jobs for kind in ((OVERLAY,) if is_moving(job.source) else kinds)]
    for target in (folder / file for file in (*results, LEGEND, CONFIDENCE)):
        if target.exists() and _identity(target) in given:
            raise UserError(
                f"{target} would overwrite the input {given[_identity(target)]}; choose another folder with "
                "output=FOLDER"
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _write_image(path: Path, picture: np.ndarray) -> None:
    try:
        drawing.save(path, picture)
    except OSError as error:
        raise UserError(f"{path} cannot be written; choose another folder with output=FOLDER") from error
