"""Checkpoints of whole networks, our own and published ones: what they hold, and loading it into a network.

All key layouts are translated to this project's before anything else sees them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icnet.errors import UserError
from icnet.models import NETWORKS, network_options
from icnet.models.integrity import sha256
from icnet.models.network import NetworkDescription, SegmentationNetwork
from icnet.models.published import LAYOUTS, without_wrapper
from icnet.models.weight_files import META_KEY, NET_PREFIX, load_file, named_tensors, short

RUN_STATE = ("loops", "optimizer_states", "pytorch-lightning_version")  # what Lightning cannot resume without
Translate = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Gives tensors our names, each whatever the others are."""
MOST_CLASSES = 255  # label maps have a byte for each pixel, and 255 is what has no label
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
            UserError: If it is none that is known here, or has more classes than labels can tell.
        """
        if self.kind in LAYOUTS:
            told = LAYOUTS[self.kind].describe(self.state_dict, self.path)
            _check_class_count(told.num_classes, self.path)
            return replace(told, options=network_options(told.name, told.options))
        return _described(self.meta.get("model"), self.path)

    @property
    def num_classes(self) -> int:
        """The number of classes that the network tells apart."""
        return self.network.num_classes


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a whole network's checkpoint, ours or a published one.

    Raises:
        UserError: If the file is not one of these; see also ``load_file``.
    """
    content, digest = load_file(path), sha256(path)
    tensors = named_tensors(content, path, "a network's checkpoint")
    if META_KEY in content:
        own = {key.removeprefix(NET_PREFIX): value for key, value in tensors.items() if key.startswith(NET_PREFIX)}
        resumable = all(key in content for key in RUN_STATE)
        unused = tuple(key for key in tensors if not key.startswith(NET_PREFIX))
        return Checkpoint(path, "icnet", own, _checked_meta(content[META_KEY], path), resumable, digest, unused)
    keys = [without_wrapper(key) for key in tensors]
    for kind, layout in LAYOUTS.items():
        if any(key.startswith(layout.beginnings) for key in keys):
            translated, unused = layout.translate(tensors), left_out(tensors, layout.translate)
            if len(translated) + len(unused) < len(tensors):
                raise UserError(
                    f"{path} holds several tensors for one place of the network, such as with and without module.; "
                    "give the file of one network"
                )
            return Checkpoint(path, kind, translated, sha256=digest, unused=unused)
    raise UnknownLayout(
        f"{path} is no checkpoint of a network (its first keys: {', '.join(keys[:3]) or 'none'}); give a .ckpt "
        f"written by train.py or a .pth with the keys {' or '.join(layout.keys for layout in LAYOUTS.values())}",
        tensors,
    )


def left_out(tensors: Mapping[str, Tensor], translate: Translate) -> tuple[str, ...]:
    """Return the names of tensors that a translation has no use for."""
    return tuple(key for key, value in tensors.items() if not translate({key: value}))


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
    name, num_classes, widths = str(model["name"]), model.get("num_classes"), model.get("widths", {})
    options = model.get("options", {"backbone": model.get("backbone")})
    if type(num_classes) is not int or not isinstance(options, Mapping):
        raise UserError(f"{path} does not tell its network's options and class count; give a file as train.py wrote it")
    _check_class_count(num_classes, path)
    if not _are_widths(widths):
        raise UserError(f"{path} does not tell its network's widths; give a file as train.py wrote it")
    try:
        return NetworkDescription(name, network_options(name, options), num_classes, widths)
    except UserError as error:
        raise UserError(f"{path} holds a network that is unknown here: {error}") from error


def _check_class_count(count: int, path: object) -> None:
    if not 1 <= count <= MOST_CLASSES:
        raise UserError(
            f"{path} is of a network with {count} classes, and labels here are one of 1 to {MOST_CLASSES}; give a file "
            "of such a network"
        )


def _are_widths(given: Any) -> bool:
    pairs = given.values() if isinstance(given, Mapping) else [()]
    return all(isinstance(pair, (list, tuple)) and [type(side) for side in pair] == [int, int] for pair in pairs)


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
    check_weights(own, state_dict, source)
    module.load_state_dict(own | dict(state_dict))


def check_weights(own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], source: object) -> None:
    """Refuse a state dict that a module cannot load strictly.

    Args:
        own: The module's; it may be on the ``meta`` device.
        state_dict: See ``load_weights``.
        source: The file, for the error.

    Raises:
        UserError: See ``load_weights``.
    """
    missing, unexpected, misshaped = misfits(own, state_dict)
    shapes = [f"{key} {_form(state_dict[key])} instead of {_form(own[key])}" for key in misshaped]
    problems = [
        f"{len(keys)} {kind} ({short(keys)})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shapes))
        if keys
    ]
    if problems:
        raise UserError(
            f"{source} does not fit this network: {'; '.join(problems)}; "
            "choose the model and class count it was made with"
        )


def _form(value: Tensor) -> str:
    kind = "" if value.is_floating_point() else f" of {str(value.dtype).removeprefix('torch.')}"
    return f"{tuple(value.shape)}{kind}"


def misfits(own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Compare a state dict with that of the module which it is for.

    Args:
        own: The module's.
        state_dict: What is to be loaded.

    Returns:
        The names that are missing, those that are too many, and those of another shape or of integers instead of
        floating point.
    """
    missing = [key for key in own if key not in state_dict and not key.endswith(OPTIONAL)]
    unexpected = [key for key in state_dict if key not in own]
    misshaped = [
        key for key, value in own.items()
        if key in state_dict and (
            state_dict[key].shape != value.shape
            or (value.is_floating_point() and not state_dict[key].is_floating_point())
        )
    ]  # fmt: skip
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
