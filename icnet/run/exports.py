"""The facts beside an exported file, ``NAME.json``, as far as they are read again: what a lower precision costs."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from icnet.run.results import ByClass
from icnet.run.schema import entry, record

SCORES = "scores"
"""The key of the facts that holds ``ExportScores``."""


@dataclass(kw_only=True)
class Measured:
    """One of the two files that are compared."""

    miou: float | None = entry("mean over the classes of `iou`", "0-1")
    iou: ByClass | None = entry("class to intersection over union; null where a class occurs nowhere", "0-1")
    bytes: int | None = entry("size of its files", "bytes")
    latency_ms: float | None = entry("median of a few calls on this machine's CPU, both files in turns", "ms")


@dataclass(kw_only=True)
class Trial:
    """What was scored on the way to the file."""

    in_float: list[str] | None = entry("the layers that stayed in float32")
    miou: float | None = entry("mIoU with these", "0-1")


@dataclass(kw_only=True)
class ExportScores:
    """The same network in float32 and in a lower precision, both by the official metric."""

    precision: str | None = entry("of the file, such as `int8`")
    data: str | None = entry("the data set's name")
    split: str | None = entry("the split that was scored")
    images: int | None = entry("images in it", "images")
    calibration_images: int | None = entry("training images that it was calibrated on", "images")
    calibration_folder: str | None = entry("where these lie")
    max_drop: float | None = entry("by how much mIoU was allowed to fall", "points")
    label_agreement: float | None = entry("share of the pixels with the same label before and after", "0-1")
    before: Measured | None = entry("in float32")
    after: Measured | None = entry("in the file's precision")
    in_float: list[str] | None = entry("the layers that stayed in float32, by their names in the graph")
    tried: list[Trial] | None = entry("what was scored on the way, where mIoU fell by more than `max_drop` at first")

    def rows(self) -> list[tuple[str, float | None, float | None]]:
        """Return mIoU and IoU of each class (0-1) before and after."""
        before, after = self.before or Measured(), self.after or Measured()
        classes = [(name, value, (after.iou or {}).get(name)) for name, value in (before.iou or {}).items()]
        return [("mIoU", before.miou, after.miou), *classes]

    def title(self) -> str:
        """Say what was compared on what."""
        return f"{self.precision} against float32 on {self.data}, {self.split}, {self.images} images"


def facts_file(path: Path) -> Path:
    """Return the file of facts beside an export: its name with ``.json``."""
    return path.with_name(f"{path.name}.json")


def read_scores(path: Path) -> ExportScores | None:
    """Read what is told of an exported file's scores; None if there is nothing, or the file is another one by now."""
    try:
        facts = json.loads(facts_file(path).read_text(encoding="utf-8"))
        scores = record(ExportScores, facts[SCORES])
        known = {told["sha256"] for told in facts["files"].values()}  # under other names where both were renamed
        return scores if hashlib.sha256(path.read_bytes()).hexdigest() in known else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # the file is none of an export, or another program's


def scores_in(folder: Path) -> Iterator[tuple[str, ExportScores]]:
    """Yield name and scores of each exported file in a folder."""
    for file in sorted(folder.glob("*.*.json")):
        path = file.with_suffix("")
        if scores := read_scores(path):
            yield path.name, scores
