"""Writes drawn scenes into a folder that is laid out like Cityscapes, and keeps that folder whole and up to date."""

import contextlib
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from rich.progress import Progress

from icnet.data.street.scene import draw_scene
from icnet.errors import UserError
from icnet.run.files import is_being_written, write_bytes

NAME = "street (synthetic)"
"""How the data set is called in progress bars, logs and reports."""

VERSION = 1
"""The format version: raise it when the same seed no longer gives the same scenes, so that old folders are redrawn."""

_RECORD = "street.json"
_CITIES = {"train": "streetville", "val": "gardenham", "test": "laneborough"}
_OTHER_CITY = "roadwick"
_NOTE = "synthetic scenes drawn by icnet.data.street; this is not Cityscapes"
_OWN_FILE = re.compile(
    rf"\.?({'|'.join([*_CITIES.values(), _OTHER_CITY])})_\d{{6}}_000019_(leftImg8bit|gtFine_labelIds)\.png(\.\d+\.tmp)?"
)


def is_synthetic(root: Path) -> bool:
    """Tell whether a folder in the Cityscapes layout was drawn by ``generate``."""
    return (root / _RECORD).is_file()


def scene_seed(seed: int, split: str, index: int) -> int:
    """Return the seed of one scene; no two splits or indices share one.

    Args:
        seed: The seed of the data set.
        split: Name of the split.
        index: Number of the scene in its split.
    """
    words = np.random.SeedSequence([seed, zlib.crc32(split.encode()), index]).generate_state(2, np.uint64)
    return int(words[0]) << 64 | int(words[1])


def generate(root: Path, scenes: dict[str, int], height: int, width: int, seed: int) -> None:
    """Draw the data set into a folder, unless it is there already.

    ``root/street.json`` is written last and tells what the folder holds. With other parameters, or after an
    interruption, everything is drawn anew and scenes that no longer belong are removed; files that this function did
    not make are never touched.

    Args:
        root: The folder that will hold ``leftImg8bit/`` and ``gtFine/``; made if missing.
        scenes: Number of scenes per split.
        height: Rows of every picture.
        width: Columns of every picture.
        seed: Which scenes are drawn.

    Raises:
        UserError: If ``root`` holds a data set of other origin, or cannot be written.
    """
    root = Path(root)
    wanted = {"name": NAME, "version": VERSION, "scenes": dict(scenes), "height": height, "width": width, "seed": seed,
              "note": _NOTE}  # fmt: skip
    plan = [(split, index) for split, count in scenes.items() for index in range(count)]
    try:
        found = _read_record(root)
        if found == wanted and all(path.is_file() for split, index in plan for path in _paths(root, split, index)):
            return
        if found is None:
            _refuse_foreign(root)
        _start_over(root)
        _remove_stale(root, {path for split, index in plan for path in _paths(root, split, index)})
        with Progress(transient=True) as progress:
            for split, index in progress.track(plan, description=NAME):
                _write_scene(root, split, index, height, width, scene_seed(seed, split, index))
        _write_record(root, wanted)
    except OSError as error:
        raise UserError(
            f"data.root={root} cannot be written ({error.strerror or error}); the {NAME} data set needs a folder with "
            "write permission and free space; give another data.root or make this one writable"
        ) from error


def _paths(root: Path, split: str, index: int) -> tuple[Path, Path]:
    """Return where the image and the label map of a scene belong."""
    city = _CITIES.get(split, _OTHER_CITY)
    stem = f"{city}_{index:06d}_000019"
    return (
        root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png",
        root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png",
    )


def _write_scene(root: Path, split: str, index: int, height: int, width: int, seed: int) -> None:
    """Draw one scene and write its two files."""
    image, labels = draw_scene(seed, height, width)
    for path, pixels in zip(_paths(root, split, index), (image[..., ::-1], labels), strict=True):
        data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
        write_bytes(path, data, sync=False)  # hundreds of them, and drawn again if the machine crashes


def _write_record(root: Path, record: dict[str, object]) -> None:
    """Write ``street.json``."""
    write_bytes(root / _RECORD, (json.dumps(record, indent=2) + "\n").encode())


def _read_record(root: Path) -> dict[str, object] | None:
    """Return what ``street.json`` says, or None if there is none that this module wrote."""
    try:
        record = json.loads((root / _RECORD).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("name") == NAME else None


def _start_over(root: Path) -> None:
    """Claim the folder: leave a record that is ours but equals no parameters, so that an interruption is noticed."""
    root.mkdir(parents=True, exist_ok=True)
    _write_record(root, {"name": NAME, "version": VERSION, "unfinished": True, "note": _NOTE})


def _refuse_foreign(root: Path) -> None:
    """Raise ``UserError`` if the folder holds a data set that this module did not make."""
    for folder in ("leftImg8bit", "gtFine"):
        if (root / folder).exists() and _read_record(root) is None:  # another process may have begun just now
            raise UserError(
                f"data.root={root} holds a {folder} folder but no {_RECORD} of the {NAME} data set; it is only drawn "
                "into an empty folder or over itself; give another data.root, or choose the Cityscapes data set"
            )


def _own_files(root: Path) -> Iterator[Path]:
    """Yield the files below ``root`` that this module made, finished or not."""
    for folder in ("leftImg8bit", "gtFine"):
        for path in (root / folder).glob("*/*/*"):
            if _OWN_FILE.fullmatch(path.name):
                yield path


def _remove_stale(root: Path, keep: set[Path]) -> None:
    """Remove own files that do not belong to the new data set, and the folders that this empties."""
    for path in list(_own_files(root)):
        if path in keep or is_being_written(path):
            continue
        path.unlink(missing_ok=True)
        for folder in (path.parent, path.parent.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()
