"""What the demo is given: images, videos and cameras, and how the results of each are called."""

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icnet.data.listing import IMAGE_SUFFIXES, tell_left_out, walk
from icnet.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
CAMERA = "camera:"


@dataclass(frozen=True)
class Camera:
    """A camera by its number, as the system counts them: ``input=camera:0``."""

    index: int

    def __str__(self) -> str:
        return f"{CAMERA}{self.index}"


Source = Path | Camera


def is_moving(source: Source) -> bool:
    """Tell whether frames come out of it, one after the other in time, and not a single image."""
    return isinstance(source, Camera) or source.suffix.lower() in VIDEO_SUFFIXES


def find_inputs(text: str, output: Path) -> list[Source]:
    """Find the images and videos, or the camera, that the user means.

    Args:
        text: A file, a folder (with everything below it), a glob, where ``**`` means any depth, or ``camera:0``.
        output: The folder of results; it is left out if it lies below the given folder, and refused if inputs lie in
            it: they could be overwritten, or be results of an earlier run.

    Returns:
        The files in alphabetical order, or the camera alone.

    Raises:
        UserError: If there are none, or the folder of results is one of inputs.
    """
    if text.startswith(CAMERA) and not os.path.lexists(text):
        return [_camera(text)]
    place, results = Path(text).expanduser(), output.resolve()
    taken = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    if place.is_file():
        found, wanted = [place], ""
    elif place.is_dir():
        below = place.resolve() in results.parents
        found = [place / file for file in walk(place)]
        found = [path for path in found if not (below and path.resolve().is_relative_to(results))]
        wanted = "holds no image or video"
    else:
        found = [Path(path) for path in glob.glob(str(place), recursive=True) if Path(path).is_file()]
        wanted = "matches no image or video" if glob.has_magic(text) else "does not exist"
    if wanted:  # a file that is named is tried whatever its suffix
        others = [str(path) for path in found if path.suffix.lower() not in taken]
        found = sorted(path for path in found if path.suffix.lower() in taken)
        if found:
            tell_left_out(f"input={text}", others, "images and videos")
    if not found:
        raise UserError(
            f"input={text} {wanted}; give an image, a video, a folder or a quoted glob of {', '.join(taken)} files, "
            f"or {CAMERA}0"
        )
    folders = {folder for path in found for folder in (path.parent.resolve(), path.resolve().parent)}
    if results in folders or (place.is_dir() and results == place.resolve()):
        raise UserError(
            f"output={output} is a folder that input={text} takes files from; give another one with output=FOLDER, "
            "so that nothing is overwritten and no result taken for an input"
        )
    return list(found)


def result_names(inputs: Sequence[Source]) -> list[str]:
    """Name the results of each input: its file name without suffix, and as much more as keeps all names different.

    Args:
        inputs: Different files, or a camera.

    Returns:
        One name per input: ``x``; where that is taken twice ``a_x`` and ``b_x`` by folder; then ``x_png``, ``x_jpg``;
        then numbers. ``camera_0`` for a camera.
    """
    paths = [Path(f"camera_{source.index}") if isinstance(source, Camera) else source for source in inputs]
    resolved = [path.resolve() for path in paths]
    common = Path(os.path.commonpath([path.parent for path in resolved])) if resolved else Path()
    names = [path.stem for path in resolved]
    longer = ["_".join(path.relative_to(common).with_suffix("").parts) for path in resolved]
    longest = [f"{name}_{path.suffix.removeprefix('.')}" for name, path in zip(longer, resolved, strict=True)]
    for alternative in (longer, longest):
        counts = Counter(name.casefold() for name in names)  # some file systems ignore case
        names = [more if counts[name.casefold()] > 1 else name for name, more in zip(names, alternative, strict=True)]
    taken: set[str] = set()
    for i, name in enumerate(names):
        number = 2
        while names[i].casefold() in taken:
            names[i] = f"{name}_{number}"
            number += 1
        taken.add(names[i].casefold())
    return names


def _camera(text: str) -> Camera:
    if not re.fullmatch(r"\d{1,4}", text.removeprefix(CAMERA), re.ASCII):
        raise UserError(f"input={text} is no camera; give its number, such as input={CAMERA}0")
    return Camera(int(text.removeprefix(CAMERA)))
