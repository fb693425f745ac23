"""Pictures as part of a page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icnet.run.extremes import read_mious
from icnet.run.paths import RunPaths, epoch_of, split_extreme

BUDGET = 2_700_000  # bytes of all pictures of a page; a third more as text, within 5 MB with the rest
WIDTHS = (1800, 1440, 1200, 960, 720, 480)  # pixels, tried in turn
MOST = 6  # pictures of a page


@dataclass(frozen=True)
class Picture:
    """A picture to show: its data URI, its size in pixels, what it shows, and the image's mIoU (0-1) if known."""

    uri: str
    width: int
    height: int
    kind: str
    name: str
    miou: float | None = None


def pictures(run: Path) -> list[Picture]:
    """Return the best and the worst images of a run, else those of its last validation, as far as they can be read."""
    paths = RunPaths(run)
    extremes = [(*parts, path) for path in paths.extremes.glob("*.jpg") if (parts := split_extreme(path))]
    if extremes:
        mious = read_mious(paths.extremes)
        shown = [
            (path, f"{kind} {number}", name, mious.get(path.name))
            for kind, number, name, path in sorted(extremes)
            if number <= MOST // 2  # as many of each
        ]
    else:
        shown = [(path, "", path.stem, None) for path in _latest(paths.pictures)]
    shown = shown[:MOST]
    made = []
    for path, kind, name, miou in shown:
        encoded = _shrink(path, BUDGET // len(shown))
        if encoded:
            made.append(Picture(*encoded, kind, name, miou))
    return made


def embed_all(paths: Sequence[Path]) -> list[Picture]:
    """Return pictures as parts of a page that stays within its budget; what is none is left out."""
    encoded = ((path, _shrink(path, BUDGET // len(paths))) for path in paths)
    return [Picture(*found, "", path.stem) for path, found in encoded if found]


def _latest(folder: Path) -> list[Path]:
    """Return the pictures of the highest epoch; all where names tell none."""
    paths = sorted(folder.glob("[!.]*.jpg"))
    last = max((epoch for path in paths if (epoch := epoch_of(path)) is not None), default=None)
    return [path for path in paths if epoch_of(path) == last]


def _shrink(path: Path, share: int) -> tuple[str, int, int] | None:
    """Return a picture as a data URI of at most about ``share`` bytes of JPEG, with its size; None if it is none."""
    import cv2

    picture = cv2.imread(str(path))
    if picture is None:
        return None
    for width in WIDTHS:
        height = max(1, round(picture.shape[0] * width / picture.shape[1]))
        smaller = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) if (
            width < picture.shape[1]
        ) else picture  # fmt: skip
        data = cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()
        if len(data) <= share:
            text = base64.b64encode(data).decode("ascii")
            return f"data:image/jpeg;base64,{text}", smaller.shape[1], smaller.shape[0]
    return None
