"""``.onnx`` files that say nothing of themselves: what their user tells, held to what their ports are."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icnet.data.classes_file import read_classes
from icnet.data.labels import ClassTable
from icnet.errors import UserError
from icnet.models.modules import IMAGENET_MEAN, IMAGENET_STD

log = logging.getLogger(__name__)

INPUTS = {"tensor(float)": False, "tensor(uint8)": True}
"""Kinds of input to whether the graph normalises by itself."""

LABELS = ("tensor(int64)", "tensor(int32)", "tensor(uint8)")


@dataclass(frozen=True)
class Told:
    """What a user tells of a file.

    Args:
        classes: Its classes in the order of channels or labels.
        file: Where they were read.
        mean: Of its input, per RGB channel, for images scaled to 0-1; None for ImageNet's.
        std: Likewise.
    """

    classes: ClassTable
    file: Path
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_told(
    classes: str | Path | None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Told | None:  # fmt: skip
    """Read what a user tells.

    Args:
        classes: A list of classes, see ``icnet.data.classes_file``; JSON is YAML too. None for nothing.
        mean: See ``Told``.
        std: See ``Told``.

    Raises:
        UserError: If the file cannot be read, or mean or std are given alone or are not three numbers.
    """
    for key, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if classes is None:
            raise UserError(f"{key}= is for .onnx files of other programs; give classes=FILE too, or leave it out")
        if len(values) != 3 or (key == "std" and min(values) <= 0):
            raise UserError(f"{key}={list(values)} is out of range; give three numbers{' above 0' * (key == 'std')}")
    if classes is None:
        return None
    file = Path(classes).expanduser()
    return Told(
        read_classes(file, "runtime.classes").classes,
        file,
        *(None if values is None else tuple(values) for values in (mean, std)),
    )


def describe_ports(session: Any) -> str:
    """Say what goes into a session and comes out, with names, kinds and shapes."""
    return f"takes {_ports(session.get_inputs())} and gives {_ports(session.get_outputs())}"


def foreign_metadata(path: Path, session: Any, told: Told | None) -> dict[str, str]:
    """Return the metadata that a file would have if ``export.py`` had written it.

    The input is (N, 3, H, W), float32 or uint8; the output (N, classes, h, w) float32 scores, or integer labels
    (N, h, w) or (N, 1, h, w). Of several outputs the first is taken, and that is said.

    Args:
        path: The file.
        session: It, opened by ONNX Runtime.
        told: What its user tells of it.

    Raises:
        UserError: If nothing is told, or the ports are others, or not for as many classes.
    """
    about = f"{path} {describe_ports(session)}"
    if told is None:
        raise UserError(
            f"{about}, and says nothing of its classes; name them with a list as classes.yaml: "
            "runtime.classes=FILE (in Python classes=FILE)"
        )
    inputs, outputs = session.get_inputs(), session.get_outputs()
    (port, output), count = (inputs[0], outputs[0]), len(told.classes)
    fits = len(inputs) == 1 and port.type in INPUTS and len(port.shape) == 4 and _may_be(port.shape[1], 3)
    scores = output.type == "tensor(float)" and len(output.shape) == 4
    labels = output.type in LABELS and (
        len(output.shape) == 3 or (len(output.shape) == 4 and _may_be(output.shape[1], 1))
    )
    if not fits or not (scores or labels):
        raise UserError(
            f"{about}; give a file that takes one float32 or uint8 image (N, 3, H, W) and gives float32 scores "
            "(N, classes, h, w) or integer labels (N, h, w)"
        )
    if scores and not _may_be(output.shape[1], count):
        raise UserError(f"{about}, and {told.file} lists {count} classes; list as many as it has channels")
    normalizes = INPUTS[port.type]
    if normalizes and (told.mean or told.std):
        raise UserError(f"{about}: uint8 images, which it normalises by itself; leave out mean and std")
    if len(outputs) > 1:
        log.warning("%s: of its outputs the first, %s, is taken", path.name, output.name)
    lists = {
        "names": told.classes.names,
        "palette": told.classes.palette,
        "categories": told.classes.categories,
        "mean": told.mean or IMAGENET_MEAN,
        "std": told.std or IMAGENET_STD,
        "normalize": normalizes,
    }
    text = {"head": "logits" if scores else "argmax", "min_side": "1", "divisor": "1", "classes": str(told.file)}
    return {key: json.dumps(value) for key, value in lists.items()} | text


def _may_be(side: object, wanted: int) -> bool:
    return not isinstance(side, int) or side == wanted  # what is open is a name or None


def _ports(ports: Sequence[Any]) -> str:
    return ", ".join(f"{port.name} {_kind(port.type)} ({', '.join(map(str, port.shape))})" for port in ports)


def _kind(name: str) -> str:
    inner = name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)
