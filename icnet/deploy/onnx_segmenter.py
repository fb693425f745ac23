"""Exported ``.onnx`` files, run by ONNX Runtime."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self, override

from icnet.data.labels import ClassTable
from icnet.deploy.onnx_seal import refuse_changed
from icnet.deploy.onnx_session import AUTO, CPU, HEADS, ONNX_SUFFIX, Place, choose_place, open_session
from icnet.deploy.segmenter import Segmenter
from icnet.deploy.trained_network import class_table
from icnet.errors import UserError
from icnet.models.modules import ImageNormalizer

log = logging.getLogger(__name__)

REQUIRED_METADATA = ("names", "palette", "mean", "std", "normalize", "head")
"""What an ``.onnx`` file has to say about itself; ``icnet.deploy.export`` writes it."""

METADATA: dict[str, Callable[[Any], bool]] = {
    "names": lambda value: _is_list(value, str) and bool(value),
    "palette": lambda value: _is_list(value, list) and all(_is_colour(colour) for colour in value),
    "categories": lambda value: _is_list(value, str),
    "mean": lambda value: _is_list(value, (int, float)) and len(value) == 3,
    "std": lambda value: _is_list(value, (int, float)) and len(value) == 3 and 0 not in value,
    "normalize": lambda value: isinstance(value, bool),
    "min_side": lambda value: isinstance(value, int) and value > 0,
    "divisor": lambda value: isinstance(value, int) and value > 0,
    "data": lambda value: isinstance(value, dict),
    "model": lambda value: isinstance(value, dict) and "name" in value and isinstance(value.get("options"), dict),
}
"""What each of an ``.onnx`` file's entries holds that is JSON, where it has it."""


class OnnxSegmenter(Segmenter):
    """Runs an exported ``.onnx`` file with ONNX Runtime.

    With the provider ``auto``, and with several devices, it computes where the images are: a session is opened anew
    when the first one comes from another device. Images and logits travel by way of the CPU.

    A file with a fixed input size gets images resized to it and its logits resized back; one with a fixed batch gets
    chunks, the last one filled up. Labels (``export.head=argmax``) come out as one-hot logits, so that everything
    downstream works alike; their "probabilities" mean nothing, of course.

    Args:
        path: A file written by ``export.py``.
        device: Where the images are.
        provider: What computes, a key of ``PROVIDERS``; ``auto`` for what is there for the device.

    Raises:
        UserError: If onnxruntime is missing or lacks the provider, or the file is missing, damaged or not from
            ``export.py``.
    """

    def __init__(self, path: Path, device: torch.device | None = None, provider: str = AUTO) -> None:
        if not path.is_file():
            raise UserError(f"there is no file {path}; give the path of an .onnx file written by export.py")
        refuse_changed(path)
        device = device or torch.device("cpu")
        wanted = choose_place(provider, device)
        place, session = _open(path, wanted, provider)
        meta = dict(session.get_modelmeta().custom_metadata_map)
        missing = [key for key in REQUIRED_METADATA if key not in meta]
        if missing:
            raise UserError(f"{path} lacks the metadata {', '.join(missing)}; give an .onnx file written by export.py")
        super().__init__(_classes(meta, path), meta, path)
        self._file, self._provider, self._device, self._wanted = path, provider, device, wanted
        self._session, self.runtime = session, place.runtime
        self.labels_only = meta["head"] == "argmax"
        self.min_side = int(meta.get("min_side", 64))  # version 0.1 knew ICNet alone
        self.divisor = int(meta.get("divisor", 1))
        # Not kept as a module: Lightning would move it to the images' device, and all of this is computed on the CPU.
        outside = meta["normalize"] != "true"
        self._normalize = (
            ImageNormalizer(json.loads(meta["mean"]), json.loads(meta["std"])).forward if outside else None
        )
        # Dynamic sides have a name instead of a number.
        batch, _, height, width = session.get_inputs()[0].shape
        self._batch = batch if isinstance(batch, int) else None
        self._height = height if isinstance(height, int) else None
        self._width = width if isinstance(width, int) else None

    @classmethod
    @override
    def open(cls, path: Path, device: torch.device) -> Self:
        return cls(path, device)

    @classmethod
    @override
    def open_with(cls, path: Path, device: torch.device, provider: str) -> Self:
        return cls(path, device, provider)

    @classmethod
    @override
    def suffix_of(cls, head: bytes) -> str:
        # The key of ir_version, which is written first; the length that a .safetensors file begins with has zeros.
        return ONNX_SUFFIX if head.startswith(b"\x08") and head[4:8] != bytes(4) else ""

    @override
    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        self._follow(image.device)
        given = image.shape[-2:]
        wanted = (self._height or given[0], self._width or given[1])
        x = image.cpu()
        if wanted != tuple(given):
            x = F.interpolate(x.float(), wanted, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
        if self._normalize is not None:
            x = self._normalize(x)
        logits = torch.cat([self._run(chunk) for chunk in x.split(self._batch or len(x))])
        if wanted != tuple(given):
            logits = F.interpolate(logits, tuple(given), mode="bilinear")
        return logits.to(image.device)

    def _follow(self, device: torch.device) -> None:
        """Compute where the images are from now on, if that is another place."""
        if device == self._device:
            return
        self._device, before = device, self._wanted
        self._wanted = choose_place(self._provider, device)
        if self._wanted != before:
            place, self._session = _open(self._file, self._wanted, self._provider)
            self.runtime = place.runtime

    def _run(self, x: Tensor) -> Tensor:
        missing = (self._batch or len(x)) - len(x)
        if missing:
            x = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)])
        (result,) = self._session.run(None, {self._session.get_inputs()[0].name: x.contiguous().numpy()})
        out = torch.from_numpy(result)[: len(x) - missing]
        if self.labels_only:
            return F.one_hot(out.long(), len(self.classes)).permute(0, 3, 1, 2).float()
        return out


def _open(path: Path, place: Place, provider: str) -> tuple[Place, Any]:
    """Open a session; where the place was not asked for and does not start, on the CPU."""
    try:
        return place, open_session(path, place)
    except UserError as error:
        if provider != AUTO or place == CPU:
            raise
        log.warning("%s runs on the CPU: %s", path.name, error)
        return CPU, open_session(path)


def _is_list(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, list) and all(isinstance(part, kind) for part in value)


def _is_colour(value: list[Any]) -> bool:
    return len(value) == 3 and _is_list(value, int) and all(0 <= part <= 255 for part in value)


def _holds(text: str, holds: Callable[[Any], bool]) -> bool:
    try:
        return holds(json.loads(text))
    except ValueError:
        return False


def _classes(meta: Mapping[str, str], path: Path) -> ClassTable:
    """Read the classes out of a file's metadata, and refuse all of it that cannot be read."""
    damaged = [key for key, holds in METADATA.items() if key in meta and not _holds(meta[key], holds)]
    if meta["head"] not in HEADS:
        damaged.append("head")
    if not damaged:
        try:
            return class_table(*(json.loads(meta.get(key, "[]")) for key in ("names", "palette", "categories")))
        except ValueError:
            damaged = ["names", "palette", "categories"]  # not as many of one as of the other
    raise UserError(
        f"{path} lacks or damages the metadata {', '.join(damaged)}; give an .onnx file written by export.py"
    )
