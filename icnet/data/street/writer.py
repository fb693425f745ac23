"""Writes drawn scenes into a folder that is laid out like Cityscapes: once, whole, and never others over them."""

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
from icnet.run.lock import Lock

NAME = "street (synthetic)"
"""How the data set is called in progress bars, logs and reports."""

VERSION = 1
"""The format version: raise it when the same seed no longer gives the same scenes, which are another data set then."""

_RECORD = "street.json"
_LOCK = ".street.lock"  # of the process that is drawing
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


def describes(root: Path, scenes: dict[str, int], height: int, width: int, seed: int) -> bool:
    """Tell whether a folder holds the scenes of these arguments of ``generate``, all of them drawn."""
    return _read_record(root) == _record(scenes, height, width, seed)


def holds_scenes(root: Path) -> bool:
    """Tell whether a folder holds scenes of some arguments, all of them drawn."""
    found = _read_record(root)
    return found is not None and not found.get("unfinished")


def generate(root: Path, scenes: dict[str, int], height: int, width: int, seed: int) -> None:
    """Draw the data set into a folder, unless it is there already.

    ``root/street.json`` is written last and tells what the folder holds. After an interruption everything is drawn
    anew; a scene that has gone is drawn again. Finished scenes of other parameters are somebody's data set, and files
    that this function did not make are never touched. Several processes may ask at once: one draws, the others wait.

    Args:
        root: The folder that will hold ``leftImg8bit/`` and ``gtFine/``; made if missing.
        scenes: Number of scenes per split.
        height: Rows of every picture.
        width: Columns of every picture.
        seed: Which scenes are drawn.

    Raises:
        UserError: If ``root`` holds scenes of other parameters or a data set of other origin, or cannot be written.
    """
    root = Path(root)
    wanted = _record(scenes, height, width, seed)
    plan = [(split, index) for split, count in scenes.items() for index in range(count)]

    def missing() -> list[tuple[str, int]]:
        return [place for place in plan if not all(path.is_file() for path in _paths(root, *place))]

    try:
        if _read_record(root) == wanted and not missing():
            return
        root.mkdir(parents=True, exist_ok=True)
        lock = Lock(root / _LOCK)
        lock.acquire(wait=True)
        try:
            found = _read_record(root)
            _refuse_others(root, found, wanted)
            if found == wanted:
                plan = missing()
            else:
                _start_over(root)
                _remove_stale(root, {path for split, index in plan for path in _paths(root, split, index)})
            with Progress(transient=True) as progress:
                for split, index in progress.track(plan, description=NAME):
                    _write_scene(root, split, index, height, width, scene_seed(seed, split, index))
            if found != wanted:
                _write_record(root, wanted)
        finally:
            lock.release()
    except OSError as error:
        raise UserError(
            f"data.root={root} cannot be written ({error.strerror or error}); the {NAME} data set needs a folder with "
            "write permission and free space; give another data.root or make this one writable"
        ) from error


def _record(scenes: dict[str, int], height: int, width: int, seed: int) -> dict[str, object]:
    """Return what ``street.json`` says of scenes that are drawn."""
    numbers = {"scenes": dict(scenes), "height": height, "width": width, "seed": seed}
    return {"name": NAME, "version": VERSION, **numbers, "note": _NOTE}


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


def _refuse_others(root: Path, found: dict[str, object] | None, wanted: dict[str, object]) -> None:
    """Raise ``UserError`` if the folder holds what must not be drawn over: another data set, or other scenes."""
    if found is None and any((root / folder).exists() for folder in ("leftImg8bit", "gtFine")):
        raise UserError(
            f"data.root={root} holds a leftImg8bit or gtFine folder but no {_RECORD} of the {NAME} data set; it is "
            "only drawn into an empty folder; give another data.root, or choose the Cityscapes data set"
        )
    if found is not None and not found.get("unfinished") and found != wanted:
        changed = [
            f"{key} {json.dumps(found.get(key))} instead of {json.dumps(wanted[key])}"
            for key in ("version", "scenes", "height", "width", "seed")
            if found.get(key) != wanted[key]
        ]
        raise UserError(
            f"data.root={root} holds other {NAME} scenes ({', '.join(changed)}), which runs may be using; give the "
            "data.street keys that they were drawn with, or another data.root"
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
