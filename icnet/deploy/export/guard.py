"""What a lower precision costs, measured on whole data, and bounded."""

import logging
import math
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icnet.data.images import IN_A_SET, read_image
from icnet.deploy.export.quantize import layers_in_float, quantize, quantize_within
from icnet.deploy.export.verify import open_exported
from icnet.deploy.runtimes.exported_segmenter import ExportedSegmenter
from icnet.deploy.runtimes.openvino_segmenter import OPENVINO_SUFFIX
from icnet.errors import UserError
from icnet.models.sizes import fitted
from icnet.run.exports import ExportScores, Measured, Trial
from icnet.run.results import EvaluationRecord

log = logging.getLogger(__name__)

CALLS = 7  # of each file, for its latency


@dataclass(frozen=True)
class Labelled:
    """What an evaluation found.

    Args:
        record: The official scores.
        labels: Of each image the (H, W) uint8 labels, as ``zlib`` compresses them.
    """

    record: EvaluationRecord
    labels: list[bytes]


@dataclass(frozen=True)
class ProvingGround:
    """What a network is calibrated and scored on.

    Args:
        training: Images to calibrate on.
        image_bits: Of 16-bit images, see ``icnet.data.images.read_image``.
        score: Evaluates a file as ``eval.py`` does, on the validation images at these positions; None for all.
        data: How reports call the data set.
        split: How the validation split is called.
        max_drop: By how many points mIoU may fall.
    """

    training: Sequence[Path]
    image_bits: int | None
    score: Callable[[Path, Sequence[int] | None], Labelled]
    data: str
    split: str
    max_drop: float

    def pixels(self, image: Path, opened: ExportedSegmenter) -> torch.Tensor:
        """Read an image for a file, (1, 3, H, W) uint8."""
        pixels = torch.from_numpy(read_image(image, IN_A_SET, self.image_bits)).permute(2, 0, 1)[None]
        return fitted(pixels, opened.min_side, opened.divisor)

    def folder(self) -> Path:
        """Return the folder that all training images lie in or below."""
        shared = set.intersection(*({*image.parents} for image in self.training))
        return max(shared, key=lambda folder: len(folder.parts))


def quantize_guarded(
    model: Any, floating: Path, path: Path, save: Callable[[Any, Path], None], ground: ProvingGround,
    *, symmetric: bool = False,
) -> ExportScores:  # fmt: skip
    """Write a graph in int8 and keep what that costs within bounds.

    Where mIoU falls by more than is allowed, the layers that cost most stay in float32.

    Args:
        model: The graph in float32 (``onnx.ModelProto``).
        floating: The file of that graph.
        path: The file to write, of the same kind.
        save: Writes a graph into such a file.
        ground: What to calibrate and score on.
        symmetric: As for ``quantize``.

    Returns:
        What was measured.

    Raises:
        UserError: If mIoU cannot be held; the table stands in the message. Or if nncf is missing.
    """
    opened = open_exported(floating)

    def prepare(image: Path) -> np.ndarray:
        return next(opened.prepared(ground.pixels(image, opened))).numpy()

    first, last = ground.training[0], ground.training[-1]
    folder = ground.folder()
    log.info(
        "int8: calibrating on %d images of %s, %s to %s", len(ground.training), folder, first.name, last.name
    )  # fmt: skip
    made = quantize(model, ground.training, prepare, symmetric=symmetric)
    save(made, path)
    before, after = ground.score(floating, None), ground.score(path, None)
    tried: list[Trial] = []
    if points(before, after) > ground.max_drop:
        log.warning(
            "int8: mIoU falls by %.2f points, more than export.max_drop=%g; looking for the layers that cost most",
            points(before, after), ground.max_drop,
        )  # fmt: skip

        def validate(graph: Any, positions: list[int]) -> tuple[float, list[float]]:
            whole, floats = len(positions) == len(before.labels), layers_in_float(graph)
            if whole and floats == layers_in_float(model):
                return before.record.miou or 0.0, [1.0] * len(positions)
            save(deepcopy(graph), path)  # NNCF goes on with the graph
            found = ground.score(path, None if whole else positions)
            if whole:
                tried.append(Trial(in_float=floats, miou=found.record.miou))
                log.info("int8: mIoU is %.2f %% with %s", 100 * (found.record.miou or 0), describe_float(floats))
            wanted = [before.labels[position] for position in positions]
            return found.record.miou or 0.0, [agreement([a], [b]) for a, b in zip(wanted, found.labels, strict=True)]

        made = quantize_within(
            model, ground.training, prepare, len(before.labels), validate, ground.max_drop / 100, symmetric=symmetric
        )  # fmt: skip
        save(made, path)
        after = ground.score(path, None)
    scores = replace(
        compare(floating, path, before, after, ground),
        in_float=layers_in_float(made),
        tried=tried,
        calibration_images=len(ground.training),
        calibration_folder=str(folder),
    )
    if not points(before, after) <= ground.max_drop:  # also refuses NaN
        raise UserError(refusal(scores))
    return scores


def compare(floating: Path, path: Path, before: Labelled, after: Labelled, ground: ProvingGround) -> ExportScores:
    """Return what two files of a network scored, their sizes and how long they take."""
    opened = [open_exported(file) for file in (floating, path)]
    latencies = latency(opened, ground.pixels(ground.training[0], opened[0]))
    sides = [
        Measured(miou=found.record.miou, iou=found.record.iou, bytes=size(file), latency_ms=milliseconds)
        for found, file, milliseconds in zip((before, after), (floating, path), latencies, strict=True)
    ]
    return ExportScores(
        precision="int8",
        data=ground.data,
        split=ground.split,
        images=len(before.labels),
        max_drop=ground.max_drop,
        label_agreement=agreement(before.labels, after.labels),
        before=sides[0],
        after=sides[1],
    )


def points(before: Labelled, after: Labelled) -> float:
    """Return by how many points mIoU falls; NaN where there is none, because nothing is labelled."""
    if before.record.miou is None or after.record.miou is None:
        return math.nan
    return 100 * (before.record.miou - after.record.miou)


def agreement(before: Sequence[bytes], after: Sequence[bytes]) -> float:
    """Return the share of pixels with the same label, of images as ``Labelled`` holds them."""
    same = pixels = 0
    for packed in zip(before, after, strict=True):
        one, other = (np.frombuffer(zlib.decompress(labels), np.uint8) for labels in packed)
        same += int((one == other).sum())
        pixels += one.size
    return same / pixels


def latency(opened: Sequence[ExportedSegmenter], image: torch.Tensor) -> list[float]:
    """Return the median time of a call of each, in milliseconds, without the first; in turns, so that all see the same.

    Args:
        opened: The files.
        image: (1, 3, H, W) uint8; where labels meet in it may matter, see ``label_at_borders``.
    """
    inputs = [next(one.prepared(image)) for one in opened]
    taken: list[list[float]] = [[] for _ in opened]
    for _ in range(CALLS + 1):
        for one, x, times in zip(opened, inputs, taken, strict=True):
            start = time.perf_counter()
            one.outputs(x)
            times.append(1000 * (time.perf_counter() - start))
    return [statistics.median(times[1:]) for times in taken]


def size(path: Path) -> int:
    """Return the bytes of an exported file, OpenVINO's with those of the weights beside it."""
    parts = {path, path.with_suffix(".bin")} if path.suffix == OPENVINO_SUFFIX else {path}
    return sum(file.stat().st_size for file in parts if file.is_file())


def describe_float(names: Sequence[str]) -> str:
    """Say which layers stay in float32."""
    return f"{', '.join(names)} in float32" if names else "every layer in int8"


def refusal(scores: ExportScores) -> str:
    """Say why a file was not kept, with what was tried."""
    _, before, after = scores.rows()[0]
    worst = sorted(scores.rows()[1:], key=lambda row: (row[2] or 0) - (row[1] or 0))[:5]
    lost = ", ".join(f"{name} {_percent(one)} to {_percent(other)}" for name, one, other in worst)
    tried = [f"{_percent(trial.miou)} with {describe_float(trial.in_float or [])}" for trial in scores.tried or []]
    told = f"most lost: {lost}{'; tried: ' if tried else ''}{'; '.join(tried)}"
    return (
        f"int8 takes mIoU from {_percent(before)} to {_percent(after)} %, by more than "
        f"export.max_drop={scores.max_drop:g} points, and was not kept ({told}); allow more, calibrate on more images "
        "with export.calibration_images, or give export.precision=fp16"
    )


def _percent(share: float | None) -> str:
    return "absent" if share is None or share != share else f"{100 * share:.2f}"
