"""What the tensors of a file belong to, or are nearest to, of everything that is known here."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from icnet.errors import UserError
from icnet.models import NETWORKS, network_options, rebuild_network
from icnet.models.checkpoints import Translate, misfits
from icnet.models.network import NetworkDescription, SegmentationNetwork
from icnet.models.published import LAYOUTS, Layout, without_wrapper

OURS = "icnet"
"""What is called the layout of our own checkpoints, beside those in ``LAYOUTS``."""
BACKBONE = "ImageNet weights"
"""How the layouts are called that networks translate for ``imagenet_backbone``; the network's name follows."""
NEAREST = 3  # layouts that are shown


@dataclass(frozen=True)
class Match:
    """How well tensors suit a network, or its part that has ImageNet weights, if they are in a certain layout.

    Args:
        layout: The layout's name.
        model: What ``model=`` calls the network.
        fitting: Number of tensors whose name and shape suit.
        alike: Number of tensors whose shape the network has too, whatever their names.
        similarity: ``fitting`` and ``alike``, both among all tensors of either side, 0-1.
        differing: The file's names of tensors that do not suit, with their shapes.
        missing: Our names of tensors that are not there, with their shapes.
        unused: The file's names of tensors that the layout has and the network has no use for.
    """

    layout: str
    model: str
    fitting: int
    alike: int
    similarity: tuple[float, float]
    differing: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]


def backbone_matches(tensors: Mapping[str, Tensor]) -> list[Match]:
    """Return the parts of networks that a file's tensors, under their names in it, are the ImageNet weights of."""
    found = (match for match in _matches(tensors) if match.layout.startswith(BACKBONE))
    return [match for match in found if not match.differing and not match.missing]


def nearest_layouts(tensors: Mapping[str, Tensor]) -> list[Match]:
    """Return the three layouts that are most similar to a file's tensors, each with the network that suits best.

    Names with their shapes count first, shapes alone where those are equal. Shapes that depend on the number of classes
    are compared without it.

    Args:
        tensors: Under their names in the file.
    """
    best: dict[str, Match] = {}
    for match in _matches(tensors):
        if match.layout not in best or match.similarity > best[match.layout].similarity:
            best[match.layout] = match
    return sorted(best.values(), key=lambda match: match.similarity, reverse=True)[:NEAREST]


def _matches(tensors: Mapping[str, Tensor]) -> Iterator[Match]:
    """Compare tensors with every layout of every network that is known."""
    tensors = {without_wrapper(key): value for key, value in tensors.items()}
    read = {OURS: _Reading(tensors, lambda given: given)}
    for described, net in _networks():
        model, own = net.title(described.name, described.options), net.state_dict()
        for name, layout in LAYOUTS.items():
            if name not in read:
                read[name] = _Reading(tensors, layout.translate)
            if _describes(layout, own, described):
                yield _compared(name, model, tensors, read[name], own, net.classifiers)
        yield _compared(OURS, model, tensors, read[OURS], own, net.classifiers)
        backbone, name = net.imagenet_backbone(), f"{BACKBONE} of {described.name}"
        if backbone is not None:
            if name not in read:
                read[name] = _Reading(tensors, net.translate_imagenet)
            yield _compared(name, model, tensors, read[name], backbone.state_dict(), ())


class _Reading:
    """A file's tensors, read as if they were in a layout: under our names, which each to the file's, and the unused."""

    def __init__(self, tensors: Mapping[str, Tensor], translate: Translate) -> None:
        self.translated = translate(tensors)
        self.names = {ours: key for key, value in tensors.items() for ours in translate({key: value})}
        used = set(self.names.values())
        self.unused = tuple(key for key in tensors if key not in used)


def outline(described: NetworkDescription) -> SegmentationNetwork:
    """Build a network without memory for its tensors, on the ``meta`` device."""
    with torch.device("meta"):
        return rebuild_network(described)


def _networks() -> Iterator[tuple[NetworkDescription, SegmentationNetwork]]:
    """Yield each network with every choice of each of its options, if that gives it other tensors.

    They have no memory for their tensors.
    """
    for name, kind in NETWORKS.items():
        seen: list[dict[str, torch.Size]] = []
        choices = [{key: value} for key, option in kind.options.items() for value in option.choices]
        for choice in ({}, *choices):
            options = network_options(name, choice)
            described = NetworkDescription(name, options, 1)
            net = outline(described)
            shapes = {key: value.shape for key, value in net.state_dict().items()}
            if shapes not in seen:
                seen.append(shapes)
                yield described, net


def _describes(layout: Layout, own: Mapping[str, Tensor], described: NetworkDescription) -> bool:
    """Tell whether a layout's files hold this network: then it is told by our names of its tensors."""
    try:
        found = layout.describe(own, "")
        return (found.name, network_options(found.name, found.options)) == (described.name, described.options)
    except UserError:
        return False


def _compared(
    layout: str, model: str, tensors: Mapping[str, Tensor], read: _Reading, own: Mapping[str, Tensor],
    classifiers: tuple[str, ...],
) -> Match:  # fmt: skip
    translated = read.translated
    missing, unexpected, misshaped = misfits(own, translated)
    wrong = {
        key for key in misshaped
        if not key.startswith(classifiers) or translated[key].shape[1:] != own[key].shape[1:]
    }  # fmt: skip
    fitting = [key for key in own if key in translated and key not in wrong]
    if layout in LAYOUTS and all(key in tensors for key in fitting):
        fitting = []  # nothing has a name of this layout, what suits has ours
    differing = []
    for key, value in translated.items():
        named = f"{read.names[key]} {tuple(value.shape)}"
        if key in wrong:
            differing.append(f"{named} instead of {tuple(own[key].shape)}")
        elif key not in own:
            differing.append(f"{named} is unknown")
    lacking = tuple(f"{key} {tuple(own[key].shape)}" for key in missing)
    shapes = [Counter(value.shape for value in side.values()) for side in (translated, own)]
    alike = (shapes[0] & shapes[1]).total()
    every_name = max(len(fitting) + len(missing) + len(unexpected) + len(wrong), 1)
    similarity = len(fitting) / every_name, alike / max((shapes[0] | shapes[1]).total(), 1)
    return Match(layout, model, len(fitting), alike, similarity, tuple(differing), lacking, read.unused)
