"""Exported ``.onnx`` files, run by ONNX Runtime."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self, override

from icnet.deploy.runtimes.exported_segmenter import ExportedSegmenter
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
        port = session.get_inputs()[0]
        super().__init__(path, session.get_modelmeta().custom_metadata_map, port.shape)
        self._file, self._provider, self._device, self._wanted = path, provider, device, wanted
        self._session, self._input, self.runtime = session, port.name, place.runtime

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
    def outputs(self, x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in self._session.run(None, {self._input: x.numpy()})]

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
