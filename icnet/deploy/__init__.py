"""Trained networks at work: inference, ONNX export, the demo.

A runtime of your own is a ``Segmenter`` with an entry in ``RUNTIMES``::

    RUNTIMES[".toy"] = ToySegmenter
"""

from pathlib import Path

import torch

from icnet.deploy.onnx_segmenter import OnnxSegmenter
from icnet.deploy.onnx_session import ONNX_SUFFIX
from icnet.deploy.segmenter import Segmenter
from icnet.deploy.torch_segmenter import TorchSegmenter
from icnet.deploy.trained_network import TORCH_SUFFIXES
from icnet.errors import UserError

__all__ = ["RUNTIMES", "Segmenter", "open_segmenter"]

RUNTIMES: dict[str, type[Segmenter]] = {
    **dict.fromkeys(TORCH_SUFFIXES, TorchSegmenter),
    ONNX_SUFFIX: OnnxSegmenter,
}
"""What runs a model, by the suffix of its file."""


def open_segmenter(path: Path, device: torch.device) -> Segmenter:
    """Open a model by its file's suffix.

    Args:
        path: A file whose suffix is in ``RUNTIMES``.
        device: Where a network runs; an ``.onnx`` file runs on the CPU and returns its logits to the image's device.

    Raises:
        UserError: If the file is missing, unknown or broken.
    """
    if path.suffix not in RUNTIMES:
        raise UserError(f"{path} is no model; give a file that ends in {', '.join(RUNTIMES)}")
    return RUNTIMES[path.suffix].open(path, device)
