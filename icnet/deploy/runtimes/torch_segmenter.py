"""Checkpoints and ``.pth`` files, run by torch."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self, override

from icnet.data.labels import ClassTable
from icnet.deploy.runtimes.segmenter import Segmenter
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError
from icnet.models.folding import fold_batchnorm
from icnet.models.modules import ImageNormalizer
from icnet.models.network import SegmentationNetwork

log = logging.getLogger(__name__)

MOST_COMPILED = 8
"""Sizes that are compiled; torch itself gives up behind as many (``recompile_limit`` of 2.13)."""

COMPILES_ON = ("cpu", "cuda")


class TorchSegmenter(Segmenter):
    """Runs a network in evaluation mode, on any device that ``.to(device)`` moves it to.

    The given network stays as it is: a copy gets its batch normalisation folded into the convolutions and channels-last
    weights. On one CPU core, a 1024x2048 image took a ResNet-50 ICNet 2.6 s before, 2.4 s with either and 2.3 s with
    both (best of 3, torch 2.13); the logits differ by rounding, at most 7e-6 of their standard deviation.

    After ``compile_network`` torch compiles all of it for each size of image when the first one comes, which takes a
    minute or so, for up to ``MOST_COMPILED`` sizes.

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
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._compiled_for: set[tuple[object, ...]] = set()
        self._says_no_more = False
        self.eval().requires_grad_(False)

    @classmethod
    @override
    def open(cls, path: Path, device: torch.device) -> Self:
        model = read_network(path)
        meta = {**model.checkpoint.meta, "model": model.checkpoint.network.plain()}
        return cls(model.net, model.normalizer, model.classes, meta, path).to(device)

    @classmethod
    @override
    def suffix_of(cls, head: bytes) -> str:
        if head.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive, or a pickle from before torch 1.6
            return ".ckpt"
        return ".safetensors" if head[8:9] == b"{" else ""  # behind the header's length

    @override
    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if next(self.net.parameters()).device.type not in ("cpu", "cuda"):  # NPUs choose their own layout
            self.net.to(memory_format=torch.contiguous_format)
        return self

    @override
    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        if image.device.type in ("cpu", "cuda"):
            image = image.contiguous(memory_format=torch.channels_last)
        if self._compiled is not None and self._is_compiled_for(image):
            try:
                return self._compiled(image)
            except Exception as error:  # torch has an exception for a compiler that fails, with the reason in it
                if not hasattr(error, "inner_exception"):
                    raise
                cause = error.inner_exception
                text = next((line for line in str(cause).splitlines() if line.strip()), "")
                raise UserError(
                    f"compile=true does not work here ({type(cause).__name__}: {text[:200]}); on CPUs install a C++ "
                    "compiler such as g++, or leave it out"
                ) from error
        return self._logits(image)

    def _logits(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(self.normalizer(image))
        return logits

    @override
    def compile_network(self) -> None:
        self._compiled = torch.compile(self._logits, dynamic=False)
        self.runtime = f"{type(self).runtime} (compiled)"

    def _is_compiled_for(self, image: Tensor) -> bool:
        """Tell whether images like this one are compiled for, now if they are new, and say so."""
        kind = image.device.type
        if kind not in COMPILES_ON:
            raise UserError(f"compile=true is for {' and '.join(COMPILES_ON)} and not for {kind}; leave it out")
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        new = (image.shape, image.device, precision)
        if new in self._compiled_for:
            return True
        count, size = len(self._compiled_for), "x".join(map(str, image.shape[2:]))
        if count == MOST_COMPILED:
            if not self._says_no_more:
                log.warning("images of %s and other new sizes are not compiled: it has been done for %d", size, count)
            self._says_no_more = True
            return False
        self.net.check_size(image)  # or it would look like the compiler's mistake
        log.info("compiling for %d x %s, size %d of %d at most", len(image), size, count + 1, MOST_COMPILED)
        self._compiled_for.add(new)
        return True
