"""OpenVINO's models, ``.xml`` with ``.bin``, run by OpenVINO on the CPU."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self, override

from icnet.deploy.runtimes.exported_segmenter import ExportedSegmenter
from icnet.deploy.runtimes.onnx_seal import CONTENT_SHA256, UNSEALED
from icnet.errors import UserError

OPENVINO_SUFFIX = ".xml"
RUNTIME_INFO = "icnet"
"""Below which key of a model's runtime information the metadata stand."""

_BEFORE = f'<{CONTENT_SHA256} value="'.encode()  # how OpenVINO writes the entry


class OpenVINOSegmenter(ExportedSegmenter):
    """Runs a model in float32, with as many threads as torch uses.

    Args:
        path: The ``.xml`` file that ``export.py`` wrote; its ``.bin`` lies beside it.

    Raises:
        UserError: If openvino is missing, or one of the files is missing, damaged or not from ``export.py``.
    """

    runtime = "openvino"

    def __init__(self, path: Path) -> None:
        for file in (path, path.with_suffix(".bin")):
            if not file.is_file():
                raise UserError(f"there is no file {file}; give the path of an .xml file with its .bin beside it")
        refuse_changed(path)
        openvino = import_openvino()
        try:
            model = openvino.Core().read_model(path)
            meta = model.get_rt_info([RUNTIME_INFO]).value if model.has_rt_info([RUNTIME_INFO]) else {}
            # Without the hint it computes in bfloat16 where the CPU can, which costs labels.
            options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
            compiled = openvino.compile_model(model, "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
        except Exception as error:  # openvino raises RuntimeError for all that is wrong
            reason = " ".join(str(error).split())[-200:]  # it begins with places in its source
            raise UserError(
                f"{path} can't be opened by openvino {openvino.__version__} ({reason}); export it again"
            ) from (error)
        shape = [side.get_length() if side.is_static else None for side in model.input(0).get_partial_shape()]
        super().__init__(path, meta, shape)
        self._compiled = compiled

    @classmethod
    @override
    def open(cls, path: Path, device: torch.device) -> Self:
        return cls(path)

    @override
    def outputs(self, x: Tensor) -> Sequence[Tensor]:
        found = self._compiled([x.numpy()], share_outputs=False)  # copies: what is shared is written over
        return [torch.from_numpy(found[output]) for output in self._compiled.outputs]


def block_telemetry() -> None:
    """Keep OpenVINO's conversion, and NNCF, from reporting to Google Analytics who used what, unasked."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def import_openvino() -> Any:
    """Return the package ``openvino``.

    Raises:
        UserError: If it is missing.
    """
    block_telemetry()
    try:
        import openvino
    except ImportError as error:
        raise UserError("an OpenVINO model (.xml) takes openvino; run 'pip install openvino'") from error
    return openvino


def seal(path: Path) -> None:
    """Write the SHA-256 of both files into the ``.xml``, whose entry ``CONTENT_SHA256`` is ``UNSEALED`` yet."""
    content = path.read_bytes()
    path.write_bytes(content.replace(_BEFORE + UNSEALED.encode(), _BEFORE + _digest(path, content), 1))


def refuse_changed(path: Path) -> None:
    """Compare a pair of files with the hash in the ``.xml``; files without one, such as those of others, pass.

    Raises:
        UserError: If the files are not what was exported.
    """
    before, found, after = path.read_bytes().partition(_BEFORE)
    told, rest = after[: len(UNSEALED)], after[len(UNSEALED) :]
    if found and told != _digest(path, b"".join((before, found, UNSEALED.encode(), rest))):
        raise UserError(
            f"{path} and its .bin are not as export.py wrote them: their SHA-256 is not the one in the file; copy both "
            f"or export them again, or, if another program changed them on purpose, have that remove {CONTENT_SHA256}"
        )


def _digest(path: Path, content: bytes) -> bytes:
    digest = hashlib.sha256(content)
    with path.with_suffix(".bin").open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest().encode()
