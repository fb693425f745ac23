"""What all exported files have in common, whatever runs them: metadata, a fixed size or batch, a head."""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from icnet.data.labels import ClassTable
from icnet.deploy.runtimes.heads import HEADS
from icnet.deploy.runtimes.segmenter import Segmenter
from icnet.deploy.trained_network import class_table
from icnet.errors import UserError
from icnet.models.modules import ImageNormalizer

REQUIRED_METADATA = ("names", "palette", "mean", "std", "normalize", "head")
"""What an exported file has to say about itself; ``icnet.deploy.export`` writes it."""

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
"""What each of an exported file's entries holds that is JSON, where it has it."""


class ExportedSegmenter(Segmenter):
    """Runs an exported file; what computes is a subclass's.

    A file with a fixed input size gets images resized to it and its scores resized back; one with a fixed batch gets
    chunks, the last one filled up. Labels without logits (``export.head=argmax``) come out as one-hot scores, so that
    everything downstream works alike; their "probabilities" mean nothing, of course, but for ``confidence``.

    Args:
        path: The file.
        meta: Its metadata, text by key.
        shape: (N, 3, H, W) of its input; what is open has anything but an integer above 0.

    Attributes:
        head: A key of ``HEADS``.
        normalizes: Whether uint8 images go in.
        batch: Images that go in at once; None for any number.

    Raises:
        UserError: If metadata are missing or damaged.
    """

    on_cpu = True
    """Whether images reach ``outputs`` on the CPU, wherever they are; otherwise they stay on their device."""

    def __init__(self, path: Path, meta: Mapping[str, str], shape: Sequence[object]) -> None:
        missing = [key for key in REQUIRED_METADATA if key not in meta]
        if missing:
            raise UserError(f"{path} lacks the metadata {', '.join(missing)}; give a file written by export.py")
        super().__init__(_classes(meta, path), dict(meta), path)
        self.head = meta["head"]
        self.labels_only = HEADS[self.head].labels_only
        self.knows_confidence = not self.labels_only or "confidence" in HEADS[self.head].outputs
        self.min_side = int(meta.get("min_side", 64))  # version 0.1 knew ICNet alone
        self.divisor = int(meta.get("divisor", 1))
        self.normalizes = meta["normalize"] == "true"
        # No submodule: Lightning would move it to the images' device, and some runtimes compute on the CPU.
        self._normalizer_on = ImageNormalizer(json.loads(meta["mean"]), json.loads(meta["std"])).to
        self.batch, _, self._height, self._width = (
            side if isinstance(side, int) and side > 0 else None for side in shape
        )

    @abstractmethod
    def outputs(self, x: Tensor) -> Sequence[Tensor]:
        """Compute what the graph gives.

        Args:
            x: (N, 3, H, W) as the graph takes it: uint8 RGB where it normalises, or else normalised float32; on the
                CPU where ``on_cpu`` is set.

        Returns:
            The outputs of the head, on the same device.
        """

    def follow(self, device: torch.device) -> None:  # noqa: B027 (most have nothing to do)
        """Compute where the images are, from now on."""

    @override
    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        scores = torch.cat([HEADS[self.head].scores(found, len(self.classes)) for found in self._run(image)])
        if scores.shape[-2:] != image.shape[-2:]:
            scores = F.interpolate(scores, tuple(image.shape[-2:]), mode="bilinear")
        return scores.to(image.device)

    @override
    @torch.inference_mode()
    def labels(self, image: Tensor) -> Tensor:
        if not self.labels_only or self._size(image) != tuple(image.shape[-2:]):
            return super().labels(image)
        # Scores made of labels, as many as there are classes, would take longer than some networks.
        found = torch.cat([outputs[0].to(torch.uint8) for outputs in self._run(image)])
        if found.shape[-2:] != image.shape[-2:]:
            found = F.interpolate(found.unsqueeze(1), tuple(image.shape[-2:]), mode="nearest-exact").squeeze(1)
        return found.to(image.device)

    def _size(self, image: Tensor) -> tuple[int, int]:
        """Return (height, width) of what goes into the graph for an image."""
        return self._height or image.shape[-2], self._width or image.shape[-1]

    def prepared(self, image: Tensor) -> Iterator[Tensor]:
        """Yield (N, 3, H, W) uint8 images as the graph takes them: its size, its numbers, its batch.

        The last chunk is filled up with its last image.
        """
        x, size = image.cpu() if self.on_cpu else image, self._size(image)
        if size != tuple(image.shape[-2:]):
            if not self.resizes:
                raise UserError(
                    f"{self.path} takes images of {size[0]}x{size[1]} and this one is of {image.shape[2]}x"
                    f"{image.shape[3]} (height x width); give such images, or let them be resized by leaving out "
                    "resize=false"
                )
            x = F.interpolate(x.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
        if not self.normalizes:
            x = self._normalizer_on(x.device)(x)
        for chunk in x.split(self.batch or len(x)):
            missing = (self.batch or 0) - len(chunk)
            filled = torch.cat([chunk, chunk[-1:].expand(missing, -1, -1, -1)]) if missing > 0 else chunk
            yield filled.contiguous()

    def _run(self, image: Tensor) -> Iterator[Sequence[Tensor]]:
        """Compute the graph's outputs for one chunk of (N, 3, H, W) uint8 images after the other."""
        self.follow(image.device)
        left = len(image)
        for chunk in self.prepared(image):
            yield [output[:left] for output in self.outputs(chunk)]
            left -= len(chunk)


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
    raise UserError(f"{path} lacks or damages the metadata {', '.join(damaged)}; give a file written by export.py")
