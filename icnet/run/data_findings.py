"""The schema of ``data.json``, which ``python -m icnet.data`` leaves; the only place that writes the file.

``docs/data-check.md`` shows it as tables, which ``python -m icnet.run.data_findings`` prints; a test holds both
together.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from icnet.run import files
from icnet.run.schema import entry, plain, tables

FILE = "data.json"
PAGE = "data.html"
SAMPLES = "samples"  # folder of the pictures of samples


@dataclass(kw_only=True)
class ClassFindings:
    """One class in the labels of a split."""

    name: str = entry("the class")
    color: list[int] = entry("red, green and blue", "0-255")
    pixels: int = entry("its pixels in the decoded masks", "pixels")
    pixel_share: float | None = entry("its share in the labelled pixels", "0-1")
    images: int = entry("decoded masks in which it occurs", "images")
    image_share: float | None = entry("its share in the decoded masks", "0-1")


@dataclass(kw_only=True)
class SplitFindings:
    """One split."""

    name: str = entry("the split")
    samples: int = entry("images", "images")
    unlabelled: int = entry("images without a mask", "images")
    decoded: int = entry("samples that were decoded, all or `check.sample`", "images")
    sizes: dict[str, int] = entry("width x height to the number of images of that size, the most frequent first")
    image_formats: dict[str, int] = entry("format and channels, such as `PNG RGB`, to the number of images")
    mask_formats: dict[str, int] = entry("the same of masks")
    ignored_share: float | None = entry("share of the decoded masks' pixels that are ignored", "0-1")
    missing: list[str] = entry("classes that occur in no decoded mask")
    classes: list[ClassFindings] = entry("all classes, in the order of their train ids")


@dataclass(kw_only=True)
class Suspicion:
    """A mask that can be trained on but may not be what it should be."""

    split: str = entry("the split")
    mask: str = entry("the file")
    reason: str = entry("what is suspicious about it")


@dataclass(kw_only=True)
class Duplicate:
    """The same image in two splits."""

    first: str = entry("one file")
    second: str = entry("the other one")


@dataclass(kw_only=True)
class SuggestedWeights:
    """Class weights that follow from the training labels."""

    rule: str = entry("what `loss.class_weights` may be for them: `median` or `enet`")
    formula: str = entry("how they are computed")
    source: str = entry("where the formula comes from")
    weights: list[float] = entry("one for each class, 0 where a class never occurs")


@dataclass(kw_only=True)
class DataFindings:
    """What was found in a data set."""

    data: str = entry("the data set's name; drawn scenes are called synthetic")
    root: str | None = entry("its folder, as it was given")
    version: str = entry("version of this project")
    problems: list[str] = entry("what a training would end at, one line each")
    warnings: list[str] = entry("what a training says loudly before its first step, one line each")
    splits: list[SplitFindings] = entry("the splits that were looked at")
    duplicates: list[Duplicate] = entry("pairs of files in two splits that hold the same image")
    suspicious: list[Suspicion] = entry("masks that may not be what they should be")
    class_weights: list[SuggestedWeights] = entry("suggestions for `loss.class_weights`, from the training split")
    pictures: list[str] = entry("pictures of samples beside their labels, as paths below the file's folder")


SECTIONS = (
    ("The file", DataFindings),
    ("An entry of `splits`", SplitFindings),
    ("An entry of `classes`", ClassFindings),
    ("An entry of `duplicates`", Duplicate),
    ("An entry of `suspicious`", Suspicion),
    ("An entry of `class_weights`", SuggestedWeights),
)
"""Headings of ``docs/data-check.md`` and the dataclasses that stand below them."""


def write_findings(folder: Path, findings: DataFindings) -> Path:
    """Write what was found into a folder, whole or not at all; returns the file."""
    path = folder / FILE
    files.write_text(path, json.dumps(plain(findings), indent=2) + "\n")
    return path


if __name__ == "__main__":
    print(tables(SECTIONS))
