"""One face over everything that segments an image, whatever runs it; ``icnet.deploy.RUNTIMES`` lists what does."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from icnet.data.labels import ClassTable
from icnet.deploy.runtimes.foreign import Told
from icnet.deploy.trained_network import model_title, trained_on
from icnet.errors import UserError


class Segmenter(nn.Module, ABC):
    """Segments uint8 RGB images.

    Args:
        classes: The classes in channel order.
        meta: What is known about the model: a checkpoint's description or an ``.onnx`` file's metadata.
        path: The file it came from; None if it was built in memory.

    Attributes:
        sha256: The file's SHA-256 as hexadecimal digits, from when an evaluation opened it: a training may write
            another one meanwhile. Empty otherwise.

    Shape:
        (N, 3, H, W) uint8 RGB to (N, C, H, W) floating point logits on the image's device.
    """

    runtime: str
    """How reports call what runs it."""

    labels_only = False
    """Whether the logits are made of labels, so that nothing but which is the largest means anything."""

    knows_confidence = True
    """Whether the largest of their softmax is the probability of the label all the same."""

    min_side = 1
    """Shortest side of an image in pixels; smaller ones are enlarged."""

    resizes = True
    """Whether images of another size than a file's fixed one are resized; otherwise they are refused."""

    divisor = 1
    """What both sides of an image have to be a multiple of."""

    def __init__(self, classes: ClassTable, meta: dict[str, Any], path: Path | None) -> None:
        super().__init__()
        self.classes = classes
        self.meta = meta
        self.path = path
        self.sha256 = ""

    @classmethod
    @abstractmethod
    def open(cls, path: Path, device: torch.device) -> Self:
        """Open a file.

        Args:
            path: What is to be opened; it may be missing.
            device: Where a network runs that can choose; images come from there, and logits go back there.

        Raises:
            UserError: If the file is missing, broken or none of this runtime's.
        """

    @classmethod
    def open_with(cls, path: Path, device: torch.device, provider: str, told: Told | None = None) -> Self:
        """Open a file and choose what computes, for runtimes that have several.

        Args:
            path: As for ``open``.
            device: As for ``open``.
            provider: ``auto`` for what suits the device; others are the runtime's.
            told: What is told of a file that says nothing of itself.

        Raises:
            UserError: If this runtime has no such provider, or takes files alone that say what they are; or see
                ``open``.
        """
        if told is not None:
            raise UserError(
                f"classes={told.file} is for .onnx files of other programs and not for {path}; leave it out"
            )
        if provider != "auto":
            raise UserError(f"provider={provider} is for .onnx files and not for {path}; leave it at auto")
        return cls.open(path, device)

    def compile_network(self) -> None:
        """Compile what computes, from the next image on, for runtimes that can.

        Raises:
            UserError: If this runtime cannot.
        """
        raise UserError(f"compile=true is for checkpoints and not for {self.path}; leave it out")

    @classmethod
    def suffix_of(cls, head: bytes) -> str:
        """Tell by the first bytes of a file, at most 512, whether it is one of this runtime's.

        Returns:
            The suffix that such a file has; empty if it is none, or nothing can be told.
        """
        return ""

    @property
    def data(self) -> dict[str, Any]:
        """The ``data`` group of the configuration it was trained with, as far as the file tells; may be empty."""
        data = self.meta.get("data") or {}
        return json.loads(data) if isinstance(data, str) else dict(data)  # an .onnx file's metadata are text

    @property
    def trained_on(self) -> str:
        """The data that it was trained on, such as ``cityscapes`` or ``street (synthetic)``."""
        return trained_on(self.meta)

    @property
    def network(self) -> str:
        """How reports call the network, such as ``icnet_resnet18``; its file's name where that does not tell."""
        if "model" in self.meta or "backbone" in self.meta:
            return model_title(self.meta)
        return self.path.stem if self.path else "network"

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Segment; see the class for shapes."""

    def labels(self, image: Tensor) -> Tensor:
        """Label images where nothing but the labels is wanted; some files know them without any scores.

        Args:
            image: (N, 3, H, W) uint8 RGB.

        Returns:
            (N, H, W) uint8, the positions of the largest scores that a call gives.
        """
        return likeliest(self(image))


def likeliest(scores: Tensor) -> Tensor:
    """Return the positions of the largest of (N, C, H, W) scores, the first of equals: (N, H, W) uint8.

    Like ``argmax``, which takes four times as long where the channels are not the innermost dimension, as in what most
    runtimes give: 412 instead of 107 ms for 19 classes at 1024x2048 on two cores (torch 2.13).
    """
    return scores.max(1).indices.to(torch.uint8)
