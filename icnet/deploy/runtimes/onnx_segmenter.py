"""Exported ``.onnx`` files, run by ONNX Runtime."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self, override

from icnet.deploy.runtimes.exported_segmenter import REQUIRED_METADATA, ExportedSegmenter
from icnet.deploy.runtimes.foreign import Told, foreign_metadata
from icnet.deploy.runtimes.onnx_seal import refuse_changed
from icnet.deploy.runtimes.onnx_session import AUTO, CPU, ONNX_SUFFIX, Place, choose_place, open_session
from icnet.errors import UserError

log = logging.getLogger(__name__)


class OnnxSegmenter(ExportedSegmenter):
    """Runs an exported ``.onnx`` file with ONNX Runtime.

    With the provider ``auto``, and with several devices, it computes where the images are: a session is opened anew
    when the first one comes from another device. Images and logits travel by way of the CPU.

    Args:
        path: A file written by ``export.py``.
        device: Where the images are.
        provider: What computes, a key of ``PROVIDERS``; ``auto`` for what is there for the device.
        told: What is told of a file that is not from ``export.py``, see ``foreign_metadata``.

    Raises:
        UserError: If onnxruntime is missing or lacks the provider, or the file is missing or damaged, or is not from
            ``export.py`` and nothing is told of it or something that does not suit it, or is and something is told.
    """

    def __init__(
        self, path: Path, device: torch.device | None = None, provider: str = AUTO, told: Told | None = None
    ) -> None:  # fmt: skip
        if not path.is_file():
            raise UserError(f"there is no file {path}; give the path of an .onnx file written by export.py")
        refuse_changed(path)
        device = device or torch.device("cpu")
        wanted = choose_place(provider, device)
        place, session = _open(path, wanted, provider)
        port = session.get_inputs()[0]
        meta = session.get_modelmeta().custom_metadata_map
        self._foreign = not any(key in meta for key in REQUIRED_METADATA)
        if self._foreign:
            meta = foreign_metadata(path, session, told)
        elif told is not None:
            raise UserError(f"{path} names its classes itself; leave out classes={told.file}")
        super().__init__(path, meta, port.shape)
        self._file, self._provider, self._device, self._wanted = path, provider, device, wanted
        self._session, self._input, self.runtime = session, port.name, place.runtime

    @classmethod
    @override
    def open(cls, path: Path, device: torch.device) -> Self:
        return cls(path, device)

    @classmethod
    @override
    def open_with(cls, path: Path, device: torch.device, provider: str, told: Told | None = None) -> Self:
        return cls(path, device, provider, told)

    @classmethod
    @override
    def suffix_of(cls, head: bytes) -> str:
        # The key of ir_version, which is written first; the length that a .safetensors file begins with has zeros.
        return ONNX_SUFFIX if head.startswith(b"\x08") and head[4:8] != bytes(4) else ""

    @override
    def outputs(self, x: Tensor) -> list[Tensor]:
        if not self._foreign:
            return [torch.from_numpy(output) for output in self._session.run(None, {self._input: x.numpy()})]
        try:
            first, *_ = self._session.run(None, {self._input: x.numpy()})
            if first.size == 0:
                raise ValueError("nothing is left of them")
        except Exception as error:  # onnxruntime raises many kinds of its own
            reason = " ".join(str(error).split())[-200:]
            raise UserError(
                f"{self._file} does not compute images of {x.shape[2]}x{x.shape[3]} ({reason}); bring them to a size "
                "that it takes with eval.short_side"
            ) from error
        return [self._checked(torch.from_numpy(first))]

    def _checked(self, output: Tensor) -> Tensor:
        """Hold an output of a file that says nothing of itself to what is told of it."""
        count = len(self.classes)
        if not self.labels_only:
            if output.shape[1] != count:
                raise UserError(f"{self._file} gives {output.shape[1]} channels for {count} classes; list as many")
            return output
        labels = output.squeeze(1) if output.ndim == 4 else output
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= count:
            wrong = lowest if lowest < 0 else highest
            raise UserError(f"{self._file} gives the label {wrong} and {count} classes are listed; list all of its own")
        return labels

    @override
    def follow(self, device: torch.device) -> None:
        if device == self._device:
            return
        self._device, before = device, self._wanted
        self._wanted = choose_place(self._provider, device)
        if self._wanted != before:
            place, self._session = _open(self._file, self._wanted, self._provider)
            self.runtime = place.runtime


def _open(path: Path, place: Place, provider: str) -> tuple[Place, Any]:
    """Open a session; where the place was not asked for and does not start, on the CPU."""
    try:
        return place, open_session(path, place)
    except UserError as error:
        if provider != AUTO or place == CPU:
            raise
        log.warning("%s runs on the CPU: %s", path.name, error)
        return CPU, open_session(path)
