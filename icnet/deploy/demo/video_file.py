"""A video that is being written, and that plays however its writing ends."""

import shutil
from pathlib import Path

import cv2
import numpy as np

from icnet.errors import UserError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

RESERVE = 1 << 20
INDEX_ENTRY = 16
"""Bytes that are left free for the end of a video: FFmpeg holds back 256 KiB, and the index, without which nothing
plays, comes last, with at most so many bytes for each frame."""


class VideoFile:
    """Writes pictures to an ``.mp4`` file.

    OpenCV says nothing of a write that fails, and a file without its end doesn't play. So the disk is looked at before
    each picture, and the file is ended while there is room for that.

    Args:
        path: The file.
        fps: Frames per second.
        size: (H, W) of the pictures.

    Attributes:
        frames: How many were written.

    Raises:
        UserError: If it can't be written.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self.path, self.fps, self.frames = path, fps, 0
        height, width = size
        self._picture_bytes = height * width * 3
        self._check_room()
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
        if not self._writer.isOpened():
            raise UserError(f"{path} cannot be written; choose another folder with output=FOLDER")

    def write(self, picture: np.ndarray, seconds: float | None = None) -> None:
        """Write a picture.

        Args:
            picture: (H, W, 3) uint8 RGB.
            seconds: When it is to be seen, since the first one: it is repeated as often as it takes to get there, so
                that a camera's video runs as fast as the world did. None for the next frame.

        Raises:
            UserError: If there is no room for it; what was written before plays once it is closed.
        """
        copies = 1 if seconds is None else max(1, round(seconds * self.fps) + 1 - self.frames)
        frame = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        for _ in range(copies):
            self._check_room()
            self._writer.write(frame)
            self.frames += 1

    def close(self) -> None:
        """End the file; one without a frame is removed."""
        self._writer.release()
        if not self.frames:
            self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """End the file and look whether everything is there.

        Raises:
            UserError: If it doesn't hold what was written, as over a quota, which can't be seen before.
        """
        self.close()
        written = cv2.VideoCapture(str(self.path))
        found = int(written.get(cv2.CAP_PROP_FRAME_COUNT))
        written.release()
        if found != self.frames:
            raise UserError(
                f"{self.path} could not be written whole ({found} of {self.frames} frames); make room, or choose "
                "another folder with output=FOLDER"
            )

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if resource is not None:
            limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
            if limit != resource.RLIM_INFINITY:
                free = min(free, limit - (self.path.stat().st_size if self.frames else 0))
        if free < RESERVE + INDEX_ENTRY * self.frames + self._picture_bytes:
            held = f"more than the {self.frames} frames that it holds, which play" if self.frames else "a video"
            raise UserError(
                f"{self.path} has no room on its disk for {held}; make room, or choose another folder with "
                "output=FOLDER"
            )
