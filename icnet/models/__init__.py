"""Networks by name. A new one is one entry here, or ``NETWORKS["toy"] = Toy`` from outside."""

from collections.abc import Mapping
from typing import Any

from icnet.errors import UserError
from icnet.models.icnet import ICNet
from icnet.models.icnet_lite0 import ICNetLite0
from icnet.models.icnet_mmseg import ICNetMMSeg
from icnet.models.icnet_paper import ICNetPaper
from icnet.models.icnet_zh320 import ICNetZH320
from icnet.models.network import NetworkDescription, Option, SegmentationNetwork
from icnet.models.pruning import narrow

__all__ = [
    "NETWORKS",
    "Option",
    "SegmentationNetwork",
    "build_network",
    "name_in_files",
    "network_class",
    "network_options",
    "network_title",
    "rebuild_network",
]

NETWORKS: dict[str, type[SegmentationNetwork]] = {
    "icnet": ICNet,
    "icnet_lite0": ICNetLite0,
    "icnet_mmseg": ICNetMMSeg,
    "icnet_zh320": ICNetZH320,
    "icnet_paper": ICNetPaper,
}
"""The classes by the name that ``model.name`` and a checkpoint's description give them."""


def network_class(name: str) -> type[SegmentationNetwork]:
    """Return the class of a network.

    Raises:
        UserError: If there is none of this name.
    """
    if name not in NETWORKS:
        raise UserError(f"model.name={name} is unknown; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def name_in_files(name: str) -> str:
    """Return what files call a network of this name, such as ``ICNet``.

    Raises:
        UserError: If there is none of this name.
    """
    return network_class(name).name_in_files or name


def network_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete and check a network's options.

    Args:
        name: A name in ``NETWORKS``.
        given: Some of its options.

    Returns:
        All of its options in the order of their declaration, with the default where none was given.

    Raises:
        UserError: If the network or an option is unknown, or a value is not allowed.
    """
    known = network_class(name).options
    options = {key: option.default for key, option in known.items()}
    for key, value in given.items():
        named = f"model.{key}={value}" if key == "backbone" else f"model.options.{key}={value}"
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"{named} is no option of {name}; {has}")
        option = known[key]
        if isinstance(option.default, tuple) and isinstance(value, list):  # what YAML and JSON make of a tuple
            value = tuple(value)
        if option.choices and value not in option.choices:
            raise UserError(f"{named} is unknown; choose one of {', '.join(map(str, option.choices))}")
        wanted = (int, float) if type(option.default) is float else (type(option.default),)
        if option.default is not None and type(value) not in wanted:
            raise UserError(
                f"{named} is of the type {type(value).__name__}; "
                f"give a value of the type {wanted[-1].__name__}, such as {option.default}"
            )
        options[key] = value
    return options


def build_network(name: str, num_classes: int, **options: Any) -> SegmentationNetwork:
    """Build a network with fresh weights.

    Args:
        name: A name in ``NETWORKS``.
        num_classes: Number of classes.
        options: Those of the network's options that differ from their defaults.

    Raises:
        UserError: See ``network_options``.
    """
    return network_class(name)(num_classes, **network_options(name, options))


def rebuild_network(described: NetworkDescription) -> SegmentationNetwork:
    """Build the network that a checkpoint describes, as narrow as it is, with fresh weights.

    Raises:
        UserError: See ``network_options``; or if the widths are none of the network's.
    """
    net = build_network(described.name, described.num_classes, **described.options)
    narrow(net, described.widths)
    return net


def network_title(described: NetworkDescription) -> str:
    """Return what reports call a network, such as ``icnet_resnet50``, or ``icnet_resnet50_pruned``.

    Raises:
        UserError: If there is none of its name.
    """
    title = network_class(described.name).title(described.name, described.options)
    return f"{title}_pruned" if described.widths else title
