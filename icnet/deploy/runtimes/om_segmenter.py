"""Ascend's offline models, ``.om``, run by the vendor's ``ais_bench``.

Not run on hardware: written against ais_bench's ``infer/interface.py`` (github.com/Ascend, tools of the inference
toolkit) and the vendor's pages about atc and AIPP.
"""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self, override

from icnet.deploy.runtimes.exported_segmenter import ExportedSegmenter
from icnet.errors import UserError
from icnet.models.integrity import sha256

OM_SUFFIX = ".om"


class OmSegmenter(ExportedSegmenter):
    """Runs an offline model on the NPU that the images are on, or else on the first.

    An ``.om`` file says nothing of itself: its classes and sizes stand in ``NAME.om.json``, which ``export.py`` wrote.
    Uint8 RGB goes in, in rows of pixels (N, H, W, 3), as AIPP's RGB888_U8 takes it; images travel by way of the CPU.

    Args:
        path: The file that atc made of what ``export.py`` wrote.
        index: Which NPU.

    Raises:
        UserError: If ais_bench or a file is missing, atc compiled another input, or nothing runs the file here.
    """

    def __init__(self, path: Path, index: int = 0) -> None:
        told = path.with_name(f"{path.name}.json")
        for file in (path, told):
            if not file.is_file():
                raise UserError(
                    f"there is no file {file}; give an {OM_SUFFIX} file with what export.py wrote beside it"
                )
        facts = _read(told)
        hashed = facts["files"].get(path.name)
        if hashed and hashed["sha256"] != sha256(path):
            raise UserError(f"{path} is not the file that {told.name} tells of; copy both, or export them again")
        graph = facts["graph"]
        meta = facts["metadata"] | {"normalize": "true"}  # the chip does it
        super().__init__(path, meta, (graph["batch"], 3, graph["height"], graph["width"]))
        self._index, self._session = index, open_session(path, index)
        self.runtime = f"ais_bench (npu:{index})"
        (port,) = self._session.get_inputs()
        wanted = (graph["batch"], graph["height"], graph["width"], 3)
        if prod(port.shape) != prod(wanted):
            raise UserError(
                f"{path} takes {list(port.shape)} and {told.name} tells of {list(wanted)}; compile it again"
            )

    @classmethod
    @override
    def open(cls, path: Path, device: torch.device) -> Self:
        return cls(path, _index_of(device))

    @override
    def follow(self, device: torch.device) -> None:
        if device.type == "npu" and _index_of(device) != self._index and self.path is not None:
            self._session.free_resource()
            self._index = _index_of(device)
            self._session = open_session(self.path, self._index)
            self.runtime = f"ais_bench (npu:{self._index})"

    @override
    def outputs(self, x: Tensor) -> Sequence[Tensor]:
        rows = x.permute(0, 2, 3, 1).contiguous().numpy()
        return [torch.from_numpy(found) for found in self._session.infer([rows], mode="static")]


def open_session(path: Path, index: int) -> Any:
    """Open an offline model on an NPU.

    Raises:
        UserError: If ais_bench is missing, or does not open the file.
    """
    try:
        from ais_bench.infer.interface import InferSession
    except ImportError as error:
        raise UserError(
            f"running an {OM_SUFFIX} file takes CANN and the packages ais_bench and aclruntime ({error}); "
            "install them from the releases of ais_bench (Ascend's tools; not on PyPI)"
        ) from error
    try:
        return InferSession(device_id=index, model_path=str(path))
    except Exception as error:  # aclruntime raises RuntimeError for all that is wrong
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} can't be opened on npu:{index} ({reason}); look at 'npu-smi info', source CANN's set_env.sh, or "
            "compile it for this chip"
        ) from error


def _index_of(device: torch.device) -> int:
    return (device.index or 0) if device.type == "npu" else 0


def _read(path: Path) -> Mapping[str, Any]:
    """Read a file of facts, with what this runtime takes from it."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        graph, metadata = facts["graph"], facts["metadata"]
        whole = all(isinstance(graph[key], int) for key in ("batch", "height", "width"))
        whole = whole and all(isinstance(value, str) for value in metadata.values())
        whole = whole and all(isinstance(entry["sha256"], str) for entry in facts["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path} does not tell of a model; give the file that export.py wrote")
    return facts
