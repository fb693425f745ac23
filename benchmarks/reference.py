"""The reference implementation, imported from a clone of it."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor


def import_reference(path: Path, *names: str) -> list[Any]:
    """Import ``module:attribute`` names from a clone of liminn/ICNet-pytorch.

    Nothing of it is changed. Modules that it imports and that are missing here are stood in for while it is imported:
    torchsummary, of which it calls nothing; of torchvision, the three transforms that it calls; and a file of its own
    that its repository lacks.
    """
    if not (path / "models" / "icnet.py").is_file():
        sys.exit(f"error: --reference {path} is no clone of liminn/ICNet-pytorch; it holds no models/icnet.py")
    with _stand_ins(path):
        sys.path.insert(0, str(path.resolve()))
        try:
            pairs = [name.split(":") for name in names]
            return [getattr(importlib.import_module(module), attribute) for module, attribute in pairs]
        finally:
            sys.path.remove(str(path.resolve()))


@contextlib.contextmanager
def _stand_ins(path: Path) -> Iterator[None]:
    transforms = _module("torchvision.transforms", Compose=Compose, ToTensor=ToTensor, Normalize=Normalize)
    wanted = [_module("torchsummary", summary=None)] if find_spec("torchsummary") is None else []
    if find_spec("torchvision") is None:
        wanted += [_module("torchvision", transforms=transforms), transforms]
    if not (path / "dataset" / "customization.py").is_file():
        wanted.append(_module("dataset.customization", CustomizedDataset=None))
    sys.modules.update({module.__name__: module for module in wanted})
    try:
        yield
    finally:  # others ask whether these packages are installed, and must not find them
        for module in wanted:
            del sys.modules[module.__name__]


def _module(name: str, **content: object) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    return module


class Compose:
    """Stands in for torchvision's: applies one transform after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        """Apply them."""
        for transform in self.transforms:
            image = transform(image)
        return image


class ToTensor:
    """Stands in for torchvision's: (H, W, 3) uint8 to (3, H, W) float32 from 0 to 1, by the same operations."""

    def __call__(self, image: Any) -> Tensor:
        """Convert."""
        return torch.from_numpy(np.array(image).transpose(2, 0, 1)).contiguous().to(torch.float32).div(255)


class Normalize:
    """Stands in for torchvision's: subtracts the mean and divides by the standard deviation of each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = mean
        self.std = std

    def __call__(self, image: Tensor) -> Tensor:
        """Normalise a copy."""
        mean, std = (torch.tensor(values, dtype=image.dtype).view(-1, 1, 1) for values in (self.mean, self.std))
        return image.clone().sub_(mean).div_(std)
