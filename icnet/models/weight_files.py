"""Reading files of weights: ``.ckpt``, ``.pth``, ``.safetensors``, ``.caffemodel``. Nothing in them is ever run.

Pickles are loaded with ``weights_only``. A file that holds pickled objects is refused, unless they lie beside a
``state_dict`` of tensors, which is read alone then. Damaged files are refused; see ``icnet.models.integrity``.
"""

import json
import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icnet.errors import UserError
from icnet.models.caffe import CAFFE_SUFFIX, read_caffemodel
from icnet.models.integrity import ZIP_HEAD, is_archive, no_checkpoint, refuse_damaged, refuse_rest, warn_unchecked

log = logging.getLogger(__name__)

META_KEY = "icnet"  # where our checkpoints keep the plain description of what they are
NET_PREFIX = "net."  # what the LightningModule puts in front of the network's keys
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model")
"""Where the tensors lie in a file that has more: in all of ours and most others', in pytorch-semseg's, as torch's
tutorial on checkpoints calls it, and as many training scripts do."""


def load_file(path: Path) -> Any:
    """Load a file onto the CPU without running anything in it.

    Raises:
        UserError: If the file is missing, damaged, not a checkpoint, or holds pickled code.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}; give the path of an existing .ckpt or .pth file")
    try:
        refuse_damaged(path)
        if path.suffix == CAFFE_SUFFIX:
            warn_unchecked(path, "is in Caffe's format")
            return read_caffemodel(path)
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        if is_archive(path):
            return torch.load(path, map_location="cpu", weights_only=True)
        with path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
            refuse_rest(path, file.tell())
        return content
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        tensors = _state_dict_beside_objects(path)
        if tensors is not None:
            return tensors
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named or (_is_pickle_or_zip(path) and "Unsupported" in str(error)):
            code = f" ({named.group(1)})" if named else ""
            raise UserError(
                f"{path} holds pickled code{code} and was not loaded; "
                "give a file of plain tensors, such as one saved by torch.save(model.state_dict(), path)"
            ) from error
        raise no_checkpoint(path) from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); change its permissions or copy it") from error
    except Exception as error:  # damaged files make the readers raise anything from IndexError to struct.error
        raise no_checkpoint(path) from error


def _load_safetensors(path: Path) -> dict[str, Any]:
    """Return the tensors; those of a file that describes a network of ours as in a ``.ckpt``."""
    from safetensors import safe_open
    from safetensors.torch import load_file as load_safetensors

    tensors = load_safetensors(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if META_KEY not in metadata:
        return tensors
    meta = json.loads(metadata[META_KEY])
    return {META_KEY: meta, "state_dict": {f"{NET_PREFIX}{key}": value for key, value in tensors.items()}}


class _LeftOut:
    """Stands for any class or function that a file names: it takes what it would be given and keeps nothing."""

    def __new__(cls, *_: object) -> "_LeftOut":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _state_dict_beside_objects(path: Path) -> dict[str, Any] | None:
    """Read the tensors of an archive that lie beside pickled objects, as in mmsegmentation's.

    torch's ``weights_only`` reader is given a placeholder for the name of each class or function that it would refuse,
    so that none of them is imported or called.

    Returns:
        The tensors alone, under ``state_dict``; None if the file is not of this form.
    """
    if not is_archive(path):
        return None
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        with torch.serialization.safe_globals([(_LeftOut, name) for name in names]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # as many kinds as in load_file, whose error is the better one
        return None
    if not isinstance(content, dict) or META_KEY in content:
        return None
    tensors = next((content[key] for key in WRAPPERS if key in content), None)
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        return None
    log.warning("%s holds pickled objects (%s), which were left out: its tensors alone were read", path, short(names))
    return {"state_dict": tensors}


def short(names: Sequence[str]) -> str:
    """Name the first three, for messages."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _is_pickle_or_zip(path: Path) -> bool:
    # A saved web page or a Git LFS pointer is neither, but torch.load tries to unpickle it all the same.
    with path.open("rb") as file:
        return file.read(4).startswith((b"\x80", ZIP_HEAD))


def named_tensors(content: Any, path: object, wanted: str) -> Mapping[str, Tensor]:
    """Return the state dict that a file's content is, or that lies in it under one of ``WRAPPERS``."""
    tensors = content
    if isinstance(content, Mapping):
        tensors = next((content[key] for key in WRAPPERS if key in content), None if META_KEY in content else content)
    if not isinstance(tensors, Mapping):
        raise UserError(f"{path} holds a {type(tensors).__name__}, not named tensors; give {wanted}")
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path} holds a {type(value).__name__} under the key {key!r}, not only named tensors; give {wanted}"
            )
        if not _is_dense(value):
            raise UserError(
                f"{path} holds {key} as a tensor that is complex, sparse, quantised or without numbers; give {wanted} "
                "in floating point"
            )
    return tensors


def _is_dense(value: Tensor) -> bool:
    """Tell whether a tensor has a real number in each of its places; ``torch.load`` makes others too."""
    is_usual = value.layout == torch.strided and value.device.type == "cpu"
    return is_usual and not value.is_quantized and not value.is_complex()
