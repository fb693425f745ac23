"""What runs a model: one ``Segmenter`` for each form of file, all with the same face.

A runtime of your own is a ``Segmenter`` with an entry in ``RUNTIMES``::

    RUNTIMES[".toy"] = ToySegmenter
"""

from pathlib import Path

import torch

from icnet.deploy.runtimes.foreign import Told
from icnet.deploy.runtimes.om_segmenter import OM_SUFFIX, OmSegmenter
from icnet.deploy.runtimes.onnx_segmenter import OnnxSegmenter
from icnet.deploy.runtimes.onnx_session import ONNX_SUFFIX
from icnet.deploy.runtimes.openvino_segmenter import OPENVINO_SUFFIX, OpenVINOSegmenter
from icnet.deploy.runtimes.pt2_segmenter import PT2_SUFFIX, Pt2Segmenter
from icnet.deploy.runtimes.segmenter import Segmenter
from icnet.deploy.runtimes.torch_segmenter import TorchSegmenter
from icnet.deploy.trained_network import TORCH_SUFFIXES
from icnet.errors import UserError

__all__ = ["RUNTIMES", "Segmenter", "open_segmenter"]

RUNTIMES: dict[str, type[Segmenter]] = {
    **dict.fromkeys(TORCH_SUFFIXES, TorchSegmenter),
    ONNX_SUFFIX: OnnxSegmenter,
    PT2_SUFFIX: Pt2Segmenter,
    OPENVINO_SUFFIX: OpenVINOSegmenter,
    OM_SUFFIX: OmSegmenter,
}
"""What runs a model, by the suffix of its file."""


def open_segmenter(
    path: Path, device: torch.device, provider: str = "auto", *, compiled: bool = False, told: Told | None = None,
    resize: bool = True,
) -> Segmenter:  # fmt: skip
    """Open a model by its file's suffix.

    Args:
        path: A file whose suffix is in ``RUNTIMES``.
        device: Where a network runs that can choose; logits come back to the image's device.
        provider: What ONNX Runtime computes with: ``auto`` for what is there for the device, or a key of
            ``onnx_session.PROVIDERS``.
        compiled: Whether torch compiles a checkpoint's network.
        told: What is told of an ``.onnx`` file that says nothing of itself.
        resize: Whether images of another size than a file's fixed one are resized; otherwise they are refused.

    Raises:
        UserError: If the file is missing, unknown or broken, has no such provider, or cannot be compiled.
    """
    if path.suffix not in RUNTIMES:
        raise UserError(f"{path} is no model; give a file that ends in {', '.join(RUNTIMES)}")
    segmenter = RUNTIMES[path.suffix].open_with(path, device, provider, told)
    segmenter.resizes = resize
    if compiled:
        segmenter.compile_network()
    return segmenter
