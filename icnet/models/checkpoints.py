"""Reading weights: our own checkpoints, published ICNet ``.pth`` files and ImageNet backbones.

Every file is loaded with ``weights_only``: a file that holds code is refused, never run. All key layouts are
translated to this project's before anything else sees them.
"""

import hashlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icnet.errors import UserError
from icnet.models.backbone import BLOCKS

META_KEY = "icnet"  # where our checkpoints keep the plain description of what they are
NET_PREFIX = "net."  # what the LightningModule puts in front of the network's keys
RUN_STATE = ("loops", "optimizer_states", "pytorch-lightning_version")  # what Lightning cannot resume without
OPTIONAL = ".num_batches_tracked"  # counts that nothing reads; files written before torch 0.4.1 lack them
CLASSIFIERS = ("classifier.", "cff_24.aux_classifier.", "cff_12.aux_classifier.")

# liminn/ICNet-pytorch and its Ascend port, to ours.
_REFERENCE_RULES = (
    (r"^pretrained\.conv1\.0\.", "backbone.stem.0.conv."),
    (r"^pretrained\.conv1\.1\.", "backbone.stem.0.bn."),
    (r"^pretrained\.conv1\.3\.", "backbone.stem.1.conv."),
    (r"^pretrained\.conv1\.4\.", "backbone.stem.1.bn."),
    (r"^pretrained\.conv1\.6\.", "backbone.stem.2.conv."),
    (r"^pretrained\.bn1\.", "backbone.stem.2.bn."),
    (r"^pretrained\.", "backbone."),
    (r"^conv_sub1\.", "sub1."),
    (r"^head\.(cff_\d+)\.conv_(low|high)\.0\.", r"\1.\2.conv."),
    (r"^head\.(cff_\d+)\.conv_(low|high)\.1\.", r"\1.\2.bn."),
    (r"^head\.(cff_\d+)\.conv_low_cls\.", r"\1.aux_classifier."),
    (r"^head\.conv_cls\.", "classifier."),
)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds, in this project's terms.

    Args:
        path: The file.
        kind: ``icnet`` for our own, ``reference`` for a ``.pth`` of the base implementation or its Ascend port.
        state_dict: The network's tensors under our names, on the CPU.
        meta: Our own checkpoints' description (``model``, ``classes``, ``data``, ``optim``, ``version``); empty for
            others.
        resumable: Whether the file also holds the state of a training run.
    """

    path: Path
    kind: str
    state_dict: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)
    resumable: bool = False

    @property
    def backbone(self) -> str:
        """The backbone that the tensors belong to, told by their names."""
        if "model" in self.meta:
            return str(self.meta["model"]["backbone"])  # read_checkpoint has looked whether it is known
        counts = tuple(
            len({key.split(".")[2] for key in self.state_dict if key.startswith(f"backbone.layer{n}.")})
            for n in range(1, 5)
        )
        bottleneck = any(key.endswith("conv3.weight") for key in self.state_dict)
        for name, (block, blocks) in BLOCKS.items():
            if blocks == counts and (block.expansion == 4) == bottleneck:
                return name
        raise UserError(
            f"{self.path} has a backbone of {counts} blocks, which is no ResNet known here; "
            f"known are {', '.join(BLOCKS)}"
        )

    @property
    def num_classes(self) -> int:
        """The number of classes that the classifier's tensor has."""
        if "classifier.weight" not in self.state_dict:
            raise UserError(f"{self.path} holds no classifier; give a checkpoint of a whole ICNet")
        return int(self.state_dict["classifier.weight"].shape[0])


def sha256(path: Path) -> str:
    """Return the file's SHA-256 as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_file(path: Path) -> Any:
    """Load a ``.pth``, ``.ckpt`` or ``.safetensors`` file onto the CPU without running anything in it.

    Raises:
        UserError: If the file is missing, truncated, not a checkpoint, or holds pickled code.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}; give the path of an existing .ckpt or .pth file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as load_safetensors

            return load_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named or (_is_pickle_or_zip(path) and "Unsupported" in str(error)):
            code = f" ({named.group(1)})" if named else ""
            raise UserError(
                f"{path} holds pickled code{code} and was not loaded; "
                "give a file of plain tensors, such as one saved by torch.save(model.state_dict(), path)"
            ) from error
        raise _broken(path) from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); change its permissions or copy it") from error
    except Exception as error:  # damaged files make the readers raise anything from IndexError to struct.error
        raise _broken(path) from error


def _is_pickle_or_zip(path: Path) -> bool:
    # A saved web page or a Git LFS pointer is neither, but torch.load tries to unpickle it all the same.
    with path.open("rb") as file:
        return file.read(4).startswith((b"\x80", b"PK\x03\x04"))


def _broken(path: Path) -> UserError:
    return UserError(
        f"{path} ({path.stat().st_size} bytes) is truncated or not a checkpoint; copy or download it again"
    )


def from_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a state dict of the base implementation (or its Ascend port) to our names.

    ``module.`` in front (DataParallel) and the unused ``fc`` are dropped.
    """
    translated = {}
    for key, value in state_dict.items():
        name = key.removeprefix("module.")
        if name.startswith("pretrained.fc."):
            continue
        for pattern, replacement in _REFERENCE_RULES:
            name, hits = re.subn(pattern, replacement, name)
            if hits:
                break
        translated[name] = value
    return translated


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a whole network's checkpoint, ours or the base implementation's.

    Raises:
        UserError: If the file is not one of these; see also ``load_file``.
    """
    content = load_file(path)
    tensors = _named_tensors(content, path, "an ICNet checkpoint")
    if META_KEY in content:
        own = {key.removeprefix(NET_PREFIX): value for key, value in tensors.items() if key.startswith(NET_PREFIX)}
        resumable = all(key in content for key in RUN_STATE)
        return Checkpoint(path, "icnet", own, _checked_meta(content[META_KEY], path), resumable)
    keys = [key.removeprefix("module.") for key in tensors]
    if not any(key.startswith(("pretrained.", "head.cff_")) for key in keys):
        raise UserError(
            f"{path} is no ICNet checkpoint (its first keys: {', '.join(keys[:3]) or 'none'}); give a .ckpt written by "
            "train.py or a .pth with the keys pretrained.*, conv_sub1.*, head.*"
        )
    return Checkpoint(path, "reference", from_reference(tensors))


def _named_tensors(content: Any, path: object, wanted: str) -> Mapping[str, Tensor]:
    """Return the state dict that a file's content is, or that lies in it under ``state_dict``, as in all of ours."""
    tensors = content
    if isinstance(content, Mapping):
        tensors = content.get("state_dict", None if META_KEY in content else content)
    if not isinstance(tensors, Mapping):
        raise UserError(f"{path} holds a {type(tensors).__name__}, not named tensors; give {wanted}")
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path} holds a {type(value).__name__} under the key {key!r}, not only named tensors; give {wanted}"
            )
    return tensors


def _checked_meta(meta: Any, path: Path) -> dict[str, Any]:
    """Return our description of a checkpoint, provided that it names a backbone if it has anything on the model."""
    described = isinstance(meta, Mapping)
    if described and "model" in meta:
        described = isinstance(meta["model"], Mapping) and str(meta["model"].get("backbone")) in BLOCKS
    if not described:
        raise UserError(
            f"{path} does not say which backbone it has, of {', '.join(BLOCKS)}; give a file as train.py wrote it"
        )
    return dict(meta)


def read_backbone(source: str) -> dict[str, Tensor]:
    """Read ImageNet weights of a deep-stem ResNet in the key layout of timm's ``resnet50s.gluon_in1k``.

    Args:
        source: A ``.pth`` or ``.safetensors`` file, or a hub id such as ``timm/resnet50s.gluon_in1k``.

    Returns:
        Tensors under the names of our ``ResNet``; the ImageNet classifier ``fc`` is left out.

    Raises:
        UserError: If the source can't be read.
    """
    content = load_file(Path(source) if Path(source).exists() else _from_hub(source))
    state_dict = _named_tensors(content, source, "a backbone's state dict")
    named = {f"pretrained.{key.removeprefix('module.')}": value for key, value in state_dict.items()}
    return {key.removeprefix("backbone."): value for key, value in from_reference(named).items()}


def _from_hub(source: str) -> Path:
    if source.count("/") != 1 or Path(source).suffix in {".pth", ".pt", ".ckpt", ".safetensors"}:
        raise UserError(
            f"model.backbone_weights={source} is no file; give a .pth or .safetensors file, "
            "or a hub id such as timm/resnet50s.gluon_in1k"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(
            f"model.backbone_weights={source} is no file and huggingface_hub, which could look it up as a hub id, "
            "is not installed; give a file or run 'pip install huggingface_hub'"
        ) from error
    try:
        return Path(hf_hub_download(source, "model.safetensors"))
    except Exception as error:  # the hub raises many kinds; all mean the same to the user
        raise UserError(
            f"model.backbone_weights={source} is no file and could not be downloaded from the hub "
            f"({type(error).__name__}); check the id and the connection, or give a file"
        ) from error


def load_weights(module: nn.Module, state_dict: Mapping[str, Tensor], source: object) -> None:
    """Load a state dict strictly.

    Args:
        module: The network or backbone.
        state_dict: Its tensors, all of them and no others; ``num_batches_tracked`` may be missing.
        source: The file, for the error.

    Raises:
        UserError: Listing missing, unexpected and mis-shaped keys in short; the module is left as it was.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state_dict and not key.endswith(OPTIONAL)]
    unexpected = [key for key in state_dict if key not in own]
    shapes = [
        f"{key} {tuple(state_dict[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state_dict and state_dict[key].shape != own[key].shape
    ]
    problems = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shapes))
        if keys
    ]
    if problems:
        raise UserError(
            f"{source} does not fit this network: {'; '.join(problems)}; "
            "choose the model and class count it was made with"
        )
    module.load_state_dict(own | dict(state_dict))


def load_for_finetuning(net: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Load everything that fits a network which may have another number of classes.

    Args:
        net: An ICNet with the checkpoint's backbone.
        checkpoint: Where the weights come from.

    Returns:
        The names of the classifiers that keep their fresh weights; empty if the class counts agree.

    Raises:
        UserError: If anything but the classifiers differs.
    """
    own = net.state_dict()
    kept = [
        key
        for key, value in own.items()
        if key.startswith(CLASSIFIERS)
        and key in checkpoint.state_dict
        and checkpoint.state_dict[key].shape != value.shape
    ]
    load_weights(net, {**checkpoint.state_dict, **{key: own[key] for key in kept}}, checkpoint.path)
    return kept
