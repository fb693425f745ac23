"""One face over everything that segments an image: our checkpoints, reference ``.pth`` files, exported ``.onnx``."""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icnet.data.labels import ClassTable
from icnet.deploy.onnx_session import ONNX_SUFFIX, open_session
from icnet.deploy.trained_network import TORCH_SUFFIXES, class_table, read_network
from icnet.errors import UserError
from icnet.models.folding import fold_batchnorm
from icnet.models.modules import ImageNormalizer
from icnet.models.network import SegmentationNetwork

REQUIRED_METADATA = ("names", "palette", "mean", "std", "normalize", "head")
"""What an ``.onnx`` file has to say about itself; ``icnet.deploy.export`` writes it."""


class Segmenter(nn.Module, ABC):
    """Segments uint8 RGB images, whatever runs it.

    Args:
        classes: The classes in channel order.
        meta: What is known about the model: a checkpoint's description or an ``.onnx`` file's metadata.
        path: The file it came from; None if it was built in memory.

    Shape:
        (N, 3, H, W) uint8 RGB to (N, C, H, W) floating point logits on the image's device.
    """

    runtime: str
    min_side = 1  # shortest side of an image in pixels
    divisor = 1  # what both sides have to be a multiple of

    def __init__(self, classes: ClassTable, meta: dict[str, Any], path: Path | None) -> None:
        super().__init__()
        self.classes = classes
        self.meta = meta
        self.path = path

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Segment; see the class for shapes."""


class TorchSegmenter(Segmenter):
    """Runs a network in evaluation mode, on any device that ``.to(device)`` moves it to.

    The given network stays as it is: a copy gets its batch normalisation folded into the convolutions and channels-last
    weights. On one CPU core, a 1024x2048 image took a ResNet-50 ICNet 2.6 s before, 2.4 s with either and 2.3 s with
    both (best of 3, torch 2.13); the logits differ by rounding, at most 7e-6 of their standard deviation.

    Args:
        net: The network.
        normalizer: What turns uint8 images into its input.
        classes: The classes in channel order.
        meta: What is known about the model.
        path: The checkpoint's file, if there is one.
    """

    runtime = "torch"

    def __init__(
        self, net: SegmentationNetwork, normalizer: ImageNormalizer, classes: ClassTable,
        meta: dict[str, Any] | None = None, path: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(classes, meta or {}, path)
        self.net = fold_batchnorm(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.normalizer = copy.deepcopy(normalizer)
        self.min_side, self.divisor = net.min_side, net.divisor
        self.eval().requires_grad_(False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "TorchSegmenter":
        super()._apply(fn, recurse)
        if next(self.net.parameters()).device.type not in ("cpu", "cuda"):  # NPUs choose their own layout
            self.net.to(memory_format=torch.contiguous_format)
        return self

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        """Segment; see the base class for shapes."""
        if image.device.type in ("cpu", "cuda"):
            image = image.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.net(self.normalizer(image))
        return logits


class OnnxSegmenter(Segmenter):
    """Runs an exported ``.onnx`` file with ONNX Runtime on the CPU.

    A file with a fixed input size gets images resized to it and its logits resized back; one with a fixed batch gets
    chunks, the last one filled up. Labels (``export.head=argmax``) come out as one-hot logits, so that everything
    downstream works alike; their "probabilities" mean nothing, of course.

    Args:
        path: A file written by ``export.py``.

    Raises:
        UserError: If onnxruntime is missing, or the file is missing, broken or not from ``export.py``.
    """

    runtime = "onnxruntime"

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"there is no file {path}; give the path of an .onnx file written by export.py")
        session = open_session(path)
        meta = dict(session.get_modelmeta().custom_metadata_map)
        missing = [key for key in REQUIRED_METADATA if key not in meta]
        if missing:
            raise UserError(f"{path} lacks the metadata {', '.join(missing)}; give an .onnx file written by export.py")
        described = (json.loads(meta.get(key, "[]")) for key in ("names", "palette", "categories"))
        super().__init__(class_table(*described), meta, path)
        self._session = session
        self._argmax = meta["head"] == "argmax"
        self.min_side = int(meta.get("min_side", 64))  # version 0.1 knew ICNet alone
        self.divisor = int(meta.get("divisor", 1))
        self._normalizer = (
            None if meta["normalize"] == "true" else ImageNormalizer(json.loads(meta["mean"]), json.loads(meta["std"]))
        )
        # Dynamic sides have a name instead of a number.
        batch, _, height, width = session.get_inputs()[0].shape
        self._batch = batch if isinstance(batch, int) else None
        self._height = height if isinstance(height, int) else None
        self._width = width if isinstance(width, int) else None

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        """Segment; see the base class for shapes."""
        given = image.shape[-2:]
        wanted = (self._height or given[0], self._width or given[1])
        x = image.cpu()
        if wanted != tuple(given):
            x = F.interpolate(x.float(), wanted, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
        if self._normalizer is not None:
            x = self._normalizer(x)
        logits = torch.cat([self._run(chunk) for chunk in x.split(self._batch or len(x))])
        if wanted != tuple(given):
            logits = F.interpolate(logits, tuple(given), mode="bilinear")
        return logits.to(image.device)

    def _run(self, x: Tensor) -> Tensor:
        missing = (self._batch or len(x)) - len(x)
        if missing:
            x = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)])
        (result,) = self._session.run(None, {self._session.get_inputs()[0].name: x.contiguous().numpy()})
        out = torch.from_numpy(result)[: len(x) - missing]
        if self._argmax:
            return F.one_hot(out.long(), len(self.classes)).permute(0, 3, 1, 2).float()
        return out


def open_segmenter(path: Path, device: torch.device) -> Segmenter:
    """Open a model by its file's suffix.

    Args:
        path: ``.onnx``, or anything that ``read_network`` takes.
        device: Where a network runs; an ``.onnx`` file runs on the CPU and returns its logits to the image's device.

    Raises:
        UserError: If the file is missing, unknown or broken.
    """
    if path.suffix == ONNX_SUFFIX:
        return OnnxSegmenter(path)
    if path.suffix not in TORCH_SUFFIXES:
        raise UserError(f"{path} is no model; give a file that ends in {', '.join((*TORCH_SUFFIXES, ONNX_SUFFIX))}")
    model = read_network(path)
    meta = {**model.checkpoint.meta, "model": asdict(model.checkpoint.network)}
    return TorchSegmenter(model.net, model.normalizer, model.classes, meta, path).to(device)
