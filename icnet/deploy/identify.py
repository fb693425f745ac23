"""What a file of weights is, in lines to read: ``python -m icnet.models FILE``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from icnet.deploy.trained_network import check_suffix, told_classes, trained_on
from icnet.errors import UserError
from icnet.models import network_title
from icnet.models.checkpoints import Checkpoint, UnknownLayout, load_weights, misfits, read_checkpoint
from icnet.models.modules import ImageNormalizer
from icnet.models.nearest import OURS, Match, backbone_matches, nearest_layouts, outline
from icnet.models.network import describe_sides
from icnet.models.pruning import describe_cost
from icnet.models.published import LAYOUTS, without_wrapper

SHOWN = 3  # keys of many


@dataclass(frozen=True)
class Identity:
    """What can be said of a file.

    Args:
        lines: To read.
        problem: Why nothing opens the file, as one line; empty if it can be used.
    """

    lines: list[str]
    problem: str = ""


def identify(path: Path) -> Identity:
    """Look at a file: its layout, network, classes and input, what is loaded and what is not, how it is used.

    Raises:
        UserError: If the file is missing, broken, holds code or no tensors, or a network that is unknown here.
    """
    check_suffix(path)
    try:
        return _of_network(read_checkpoint(path))
    except UnknownLayout as unknown:
        backbones = backbone_matches(unknown.tensors)
        if backbones:
            return _of_backbone(path, backbones, unknown.tensors)
        lines = [f"{path}: {len(unknown.tensors)} tensors, nearest to"]
        for match in nearest_layouts(unknown.tensors):
            suit = f"{match.fitting} suit by name and shape, {match.alike} by shape"
            lines.append(f"  {match.layout}, {match.model}: {suit}")
            lines.append(f"    differing: {_short(match.differing)}")
            lines.append(f"    missing, by our names: {_short(match.missing)}")
        return Identity(lines, str(unknown))


def _of_network(checkpoint: Checkpoint) -> Identity:
    described = checkpoint.network
    net = outline(described)
    own, path = net.state_dict(), checkpoint.path
    missing, unexpected, misshaped = misfits(own, checkpoint.state_dict)
    loads = [value for key, value in checkpoint.state_dict.items() if key in own and key not in misshaped]
    words = (f"name={described.name}", *(f"{key}={value}" for key, value in described.options.items()))
    parameters = sum(parameter.numel() for parameter in net.parameters())
    layout = f"{OURS}: ours, of version {checkpoint.meta.get('version', 'unknown')}"
    if checkpoint.kind in LAYOUTS:
        layout = f"{checkpoint.kind}: {LAYOUTS[checkpoint.kind].keys}"
    lines = [
        str(path),
        _line("layout", layout),
        _line("network", f"{network_title(described)} ({', '.join(words)})"),
        _line("classes", _classes(checkpoint)),
        _line("trained on", trained_on(checkpoint.meta)),
        _line("input", f"{describe_input(net.normalizer())}; sides of {describe_sides(net.min_side, net.divisor)}"),
        _line("loads", f"{_tensors(loads)}; the network has {parameters / 1e6:.1f} M parameters"),
        _line("missing", _short(missing)),
        _line("left over", _short([*unexpected, *checkpoint.unused])),
    ]
    if described.widths:
        full = outline(replace(described, widths={}))
        lines.insert(-2, _line("pruned", f"{len(described.widths)} modules; {describe_cost(net, full)}"))
    if missing or unexpected or misshaped:
        try:
            load_weights(net, checkpoint.state_dict, path)
        except UserError as error:
            return Identity(lines, str(error))
    resume = ", resume=" if checkpoint.resumable else ""
    return Identity([*lines, _line("opens as", f"ckpt=, model.weights={resume}")])


def _of_backbone(path: Path, matches: list[Match], tensors: Mapping[str, Tensor]) -> Identity:
    unused = matches[0].unused
    loads = [value for key, value in tensors.items() if without_wrapper(key) not in unused]
    return Identity(
        [
            str(path),
            _line("layout", " and ".join(dict.fromkeys(match.layout for match in matches))),
            _line("network", f"the backbone of {', '.join(match.model for match in matches)}"),
            _line("loads", _tensors(loads)),
            _line("missing", _short([])),
            _line("left over", _short(unused)),
            _line("opens as", f"model={matches[0].model} model.backbone_weights="),
        ]
    )


def _classes(checkpoint: Checkpoint) -> str:
    told = told_classes(checkpoint)
    if told is None:
        return f"{checkpoint.num_classes}, not named"
    taken = "" if checkpoint.meta.get("classes") else ", not named and taken for Cityscapes'"
    return f"{len(told)}{taken}: {', '.join(told.names)}"


def describe_input(normalizer: ImageNormalizer) -> str:
    """Say what a normalizer makes of RGB images, by what it makes of black, red, green and blue ones."""
    probe = torch.zeros(4, 3, 1, 1, dtype=torch.uint8)
    probe[1:, :, 0, 0] = 255 * torch.eye(3, dtype=torch.uint8)
    made = normalizer(probe)[:, :, 0, 0].double()
    gain = (made[1:] - made[0]) / 255  # (channel in, channel out)
    if gain.count_nonzero() != 3 or not (gain.count_nonzero(0) == 1).all():
        return "RGB images, of whose channels the network makes others"
    order = "".join("RGB"[channel] for channel in gain.abs().argmax(0).tolist())
    scale = gain.sum(0)
    mean, std = (" ".join(f"{value:.5g}" for value in values.tolist()) for values in (-made[0] / scale, 1 / scale))
    return f"{order}, (pixel - mean) / std, of pixels from 0 to 255 with mean {mean} and std {std}"


def _tensors(tensors: Iterable[Tensor]) -> str:
    kept = list(tensors)
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in kept if value.is_floating_point()})
    return f"{len(kept)} tensors" + (f" of {' and '.join(kinds)}" if kinds else "")


def _short(names: Iterable[str]) -> str:
    given = list(names)
    more = f" and {len(given) - SHOWN} more" if len(given) > SHOWN else ""
    return f"{', '.join(given[:SHOWN])}{more}" if given else "nothing"


def _line(name: str, text: str) -> str:
    return f"  {name:<12}{text}"
