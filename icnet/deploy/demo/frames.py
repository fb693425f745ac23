"""Pictures out of images, videos and cameras, one after the other."""

import logging
import os
import time
from collections.abc import Generator
from dataclasses import dataclass

import cv2
import numpy as np

from icnet.data.images import read_image
from icnet.deploy.demo.inputs import Camera, Source, is_moving
from icnet.errors import UserError

log = logging.getLogger(__name__)

FALLBACK_FPS = 25.0  # for videos and cameras that don't say


@dataclass(frozen=True)
class Frame:
    """A picture and when it was.

    Args:
        image: (H, W, 3) uint8 RGB.
        number: Of the picture in its input, from 0.
        fps: Frames per second of a video or a camera; 0 for an image.
        seconds: Of a camera, since its first picture; None where the frames are evenly spaced.
    """

    image: np.ndarray
    number: int = 0
    fps: float = 0.0
    seconds: float | None = None


def read_frames(source: Source, limit: int | None = None) -> Generator[Frame, None, None]:
    """Read an input.

    Args:
        source: An image, a video or a camera.
        limit: How many frames to take of a video or a camera; None for all of them.

    Yields:
        The image, or the frames in their order, each an array of its own.

    Raises:
        UserError: If the file or the camera can't be read, or the camera fails later; after the frames before.
    """
    if not isinstance(source, Camera) and not is_moving(source):
        yield Frame(read_image(source))
        return
    capture = _open(source)
    try:
        fps, stated = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number, start = 0, 0.0
        while limit is None or number < limit:
            found, picture = capture.read()
            if not found:
                _check_end(source, number, stated)
                return
            now = time.perf_counter()
            start = start or now
            image = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            seconds = now - start if isinstance(source, Camera) else None
            yield Frame(image, number, fps if fps > 0 else FALLBACK_FPS, seconds)
            number += 1
    finally:
        capture.release()


def count_frames(source: Source, limit: int | None = None) -> int | None:
    """Return how many frames ``read_frames`` will yield, as far as the file tells; None for a camera without limit."""
    if isinstance(source, Camera):
        return limit
    if not is_moving(source):
        return 1
    capture = _open(source)
    count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 1)
    capture.release()
    return count if limit is None else min(count, limit)


def _open(source: Source) -> cv2.VideoCapture:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # says nothing; ours is the one line about a bad file
    if not isinstance(source, Camera):
        return cv2.VideoCapture(str(source))
    told = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(source.index)
    finally:
        cv2.utils.logging.setLogLevel(told)
    if not capture.isOpened():
        raise UserError(
            f"input={source} is not there or in use by another program; connect it, give the number of another one, or "
            "the permission to use it (on Linux those of /dev/video*)"
        )
    return capture


def _check_end(source: Source, number: int, stated: int) -> None:
    """Tell an end from a failure."""
    if isinstance(source, Camera):
        raise UserError(f"{source} gave no more pictures after {number} frames; look whether it is still connected")
    if not number:
        raise UserError(f"{source} is not a readable video; give a file that OpenCV plays, such as H.264 in .mp4")
    if number < stated:
        log.warning("%s says that it has %d frames; %d could be read", source, stated, number)
