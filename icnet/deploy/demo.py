"""Segmenting image and video files into pictures that people look at."""

import glob
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from icnet.data import drawing
from icnet.data.images import read_image
from icnet.data.listing import IMAGE_SUFFIXES, tell_left_out, walk
from icnet.deploy.api import Model
from icnet.errors import UserError
from icnet.run.environment import device_name

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
LEGEND = "legend.png"
FALLBACK_FPS = 25.0  # for videos that don't say


@dataclass
class Demo:
    """Segments files and writes what comes out.

    Per image that is ``<name>_overlay.png``, ``<name>_labels.png`` (colours) and ``<name>_ids.png`` (train ids), per
    video ``<name>_overlay.mp4``, and once ``legend.png`` with the classes that occurred.

    Args:
        model: What segments.
        output: The folder to write to.
        alpha: Opacity of the colours on the overlay, 0-1.
    """

    model: Model
    output: Path
    alpha: float = 0.5
    images: int = field(default=0, init=False)  # images and frames done
    seconds: list[float] = field(default_factory=list, init=False)  # per image, from uint8 pixels to labels
    total_seconds: float = field(default=0.0, init=False)  # with reading, drawing and writing
    _present: set[int] = field(default_factory=set, init=False)

    def run(self, inputs: Sequence[Path]) -> None:
        """Segment files under a progress bar.

        Args:
            inputs: Images and videos, see ``find_inputs``.

        Raises:
            UserError: If a file can't be read, or a result can't be written or would overwrite an input.
        """
        names = result_names(inputs)
        self._refuse_to_overwrite(inputs, names)
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"output={self.output} cannot be made a folder ({error.strerror}); choose another with output=FOLDER"
            ) from error
        start = time.perf_counter()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[speed]}")) as progress:
            bar = progress.add_task("images", total=sum(map(_frame_count, inputs)), speed="")

            def advance() -> None:
                self.images += 1
                rate = self.images / (time.perf_counter() - start)
                progress.update(bar, advance=1, speed=f"{rate:.2f} images/s")

            for path, name in zip(inputs, names, strict=True):
                (self._video if _is_video(path) else self._image)(path, name, advance)
            progress.update(bar, total=self.images)  # some videos miscount their frames
        self._legend(self.output / LEGEND)
        self.total_seconds = time.perf_counter() - start

    def summary(self) -> str:
        """Say how many images were done by what at which speed, with and without reading and writing."""
        # The first image pays for memory, kernels and caches; it counts only if there is no other.
        timed = self.seconds[1:] or self.seconds
        return (
            f"{self.images} images; network {len(timed) / sum(timed):.2f} images/s ({self.model.runtime}) "
            f"on {device_name(self.model.device)}, "
            f"with reading and writing {self.images / self.total_seconds:.2f} images/s; "
            f"model trained on {self.model.trained_on}; results in {self.output}"
        )

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Label one image.

        Args:
            image: (H, W, 3) uint8 RGB of any size.

        Returns:
            (H, W) uint8 train ids.
        """
        start = time.perf_counter()
        mask = self.model(image)
        self.seconds.append(time.perf_counter() - start)  # the copy to the CPU has waited for the device
        self._present.update(np.flatnonzero(np.bincount(mask.ravel())).tolist())
        return mask

    def _legend(self, path: Path) -> None:
        classes = self.model.classes
        _write_image(path, drawing.legend(classes, self._present))
        try:
            drawing.write_key(path, classes, drawing.shown_names(classes))
        except OSError as error:
            raise UserError(f"{path} has no key ({error}); choose another folder with output=FOLDER") from error

    def _refuse_to_overwrite(self, inputs: Sequence[Path], names: Sequence[str]) -> None:
        """Compare files, not names: links and file systems that ignore case give one file several."""
        given = {_identity(path): path for path in inputs if path.exists()}
        results = [file for path, name in zip(inputs, names, strict=True) for file in _result_files(path, name)]
        for target in (self.output / file for file in (*results, LEGEND)):
            if target.exists() and _identity(target) in given:
                raise UserError(
                    f"{target} would overwrite the input {given[_identity(target)]}; "
                    "choose another folder with output=FOLDER"
                )

    def _image(self, path: Path, name: str, advance: Callable[[], None]) -> None:
        image = read_image(path)
        mask = self.segment(image)
        overlay, labels, ids = (self.output / file for file in _result_files(path, name))
        _write_image(overlay, self.model.overlay(image, mask, self.alpha))
        _write_image(labels, self.model.colorize(mask))
        _write_image(ids, mask)
        advance()

    def _video(self, path: Path, name: str, advance: Callable[[], None]) -> None:
        source = _open_video(path)
        (target,) = (self.output / file for file in _result_files(path, name))
        writer: cv2.VideoWriter | None = None
        try:
            for frame in _frames(source):
                if writer is None:
                    fps = source.get(cv2.CAP_PROP_FPS)
                    codec = cv2.VideoWriter.fourcc(*"mp4v")
                    height, width = frame.shape[:2]
                    writer = cv2.VideoWriter(str(target), codec, fps if fps > 0 else FALLBACK_FPS, (width, height))
                    if not writer.isOpened():
                        raise UserError(f"{target} cannot be written; choose another folder with output=FOLDER")
                mask = self.segment(frame)
                writer.write(self.model.overlay(frame, mask, self.alpha)[..., ::-1])
                advance()
        finally:
            source.release()
            if writer is not None:
                writer.release()
        if writer is None:
            raise UserError(f"{path} is not a readable video; give a file that OpenCV plays, such as H.264 in .mp4")


def find_inputs(text: str, output: Path) -> list[Path]:
    """Find the images and videos that the user means.

    Args:
        text: A file, a folder (with everything below it) or a glob, where ``**`` means any depth.
        output: The folder of results; it is left out if it lies below the given folder, and refused if inputs lie in
            it: they could be overwritten, or be results of an earlier run.

    Returns:
        The files in alphabetical order.

    Raises:
        UserError: If there are none, or the folder of results is one of inputs.
    """
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
            f"input={text} {wanted}; give an image, a video, a folder or a quoted glob of {', '.join(taken)} files"
        )
    folders = {folder for path in found for folder in (path.parent.resolve(), path.resolve().parent)}
    if results in folders or (place.is_dir() and results == place.resolve()):
        raise UserError(
            f"output={output} is a folder that input={text} takes files from; give another one with output=FOLDER, "
            "so that nothing is overwritten and no result taken for an input"
        )
    return found


def result_names(inputs: Sequence[Path]) -> list[str]:
    """Name the results of each input: its file name without suffix, and as much more as keeps all names different.

    Args:
        inputs: Different files.

    Returns:
        One name per input: ``x``; where that is taken twice ``a_x`` and ``b_x`` by folder; then ``x_png``, ``x_jpg``;
        then numbers.
    """
    resolved = [path.resolve() for path in inputs]
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


def _result_files(path: Path, name: str) -> list[str]:
    """Return the names of the files that an input becomes."""
    kinds = ("overlay.mp4",) if _is_video(path) else ("overlay.png", "labels.png", "ids.png")
    return [f"{name}_{kind}" for kind in kinds]


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _frame_count(path: Path) -> int:
    if not _is_video(path):
        return 1
    source = _open_video(path)
    count = int(source.get(cv2.CAP_PROP_FRAME_COUNT))
    source.release()
    return max(count, 1)


def _open_video(path: Path) -> cv2.VideoCapture:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # says nothing; ours is the one line about a bad file
    return cv2.VideoCapture(str(path))


def _frames(source: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        found, frame = source.read()
        if not found:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _write_image(path: Path, picture: np.ndarray) -> None:
    try:
        drawing.save(path, picture)
    except OSError as error:
        raise UserError(f"{path} cannot be written; choose another folder with output=FOLDER") from error
