"""From a checkpoint's file to the network it holds and the classes it knows."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icnet.data import DATASETS
from icnet.data.labels import CITYSCAPES_CLASSES, ClassTable
from icnet.errors import UserError
from icnet.models import NETWORKS, network_title, rebuild_network
from icnet.models.checkpoints import Checkpoint, check_weights, load_weights, read_checkpoint
from icnet.models.modules import ImageNormalizer
from icnet.models.nearest import outline
from icnet.models.network import NetworkDescription, SegmentationNetwork

TORCH_SUFFIXES = (".ckpt", ".pth", ".pt", ".safetensors", ".caffemodel")


@dataclass(frozen=True)
class Network:
    """A network as its checkpoint describes it.

    Args:
        net: The network with its weights, in evaluation mode, on the CPU.
        normalizer: What turns uint8 images into its input.
        classes: The classes in channel order.
        checkpoint: Where it came from.
    """

    net: SegmentationNetwork
    normalizer: ImageNormalizer
    classes: ClassTable
    checkpoint: Checkpoint


def read_network(path: Path) -> Network:
    """Build the network that a checkpoint holds.

    Args:
        path: One of our ``.ckpt`` files, or a published one in a layout that is known.

    Raises:
        UserError: If the file is no such checkpoint.
    """
    check_suffix(path)
    checkpoint = read_checkpoint(path)
    described = checkpoint.network
    check_weights(outline(described).state_dict(), checkpoint.state_dict, path)  # before there is memory for them
    net = rebuild_network(described)
    load_weights(net, checkpoint.state_dict, path)
    return Network(net.eval().requires_grad_(False), net.normalizer(), _classes_of(checkpoint), checkpoint)


def check_suffix(path: Path) -> None:
    """Refuse a file that is no checkpoint by its name."""
    if path.suffix not in TORCH_SUFFIXES:
        raise UserError(f"{path} is no checkpoint; give a file that ends in {', '.join(TORCH_SUFFIXES)}")


def trained_on(meta: Mapping[str, Any]) -> str:
    """Name the data that a model was trained on; synthetic data is marked.

    Args:
        meta: A checkpoint's description, or an ``.onnx`` file's metadata.

    Returns:
        Such as ``cityscapes``, ``street (synthetic)``, or ``unknown data`` where the file does not tell.
    """
    data = meta.get("data") or {}
    if isinstance(data, str):  # .onnx metadata are text
        data = json.loads(data)
    name = data.get("name", "unknown data")
    title = meta.get("data_title") or data.get("title")
    return str(title or (name in DATASETS and DATASETS[name].title) or name)


def model_title(meta: Mapping[str, Any]) -> str:
    """Return what reports call a model's network, such as ``icnet_resnet50``.

    Args:
        meta: A checkpoint's description, or an ``.onnx`` file's metadata; those of version 0.1 name ICNet's backbone.
    """
    model = meta.get("model") or {"name": "icnet", "options": {"backbone": meta.get("backbone")}}
    if isinstance(model, str):  # .onnx metadata are text
        model = json.loads(model)
    kind = NETWORKS.get(model["name"])  # an .onnx file runs where its network is not known
    if kind is None:
        return str(model["name"])
    defaults = {key: option.default for key, option in kind.options.items()}
    options = defaults | dict(model["options"])
    return network_title(NetworkDescription(model["name"], options, 0, model.get("widths", {})))


def class_table(names: Iterable[str], palette: Iterable[Iterable[int]], categories: Iterable[str] = ()) -> ClassTable:
    """Build a class table from its description in a file.

    Args:
        names: The classes in channel order.
        palette: Red, green and blue (0-255) of each.
        categories: The category of each, or nothing.
    """
    colours = tuple((int(red), int(green), int(blue)) for red, green, blue in palette)
    return ClassTable(tuple(map(str, names)), colours, tuple(map(str, categories)))


def distinct_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """Make colours that differ well: hues a golden angle apart, in three brightnesses.

    Args:
        count: How many.

    Returns:
        One RGB colour (0-255) each; never black, which stands for ignored pixels.
    """
    import colorsys

    colours = []
    for i in range(count):
        rgb = colorsys.hsv_to_rgb((i * 0.618034) % 1, (0.85, 0.55)[i % 2], (0.95, 0.75, 0.55)[i % 3])
        colours.append(tuple(round(255 * value) for value in rgb))
    return tuple(colours)  # type: ignore[arg-type]


def told_classes(checkpoint: Checkpoint) -> ClassTable | None:
    """Return the classes that a checkpoint knows, in channel order; None if it does not tell.

    Published checkpoints do not; those with 19 classes were trained on Cityscapes.

    Raises:
        UserError: If it names other classes than it has.
    """
    described = checkpoint.meta.get("classes")
    count = checkpoint.num_classes
    if described:
        try:
            table = class_table(described["names"], described["palette"], described.get("categories") or ())
        except (AttributeError, KeyError, TypeError, ValueError):
            table = None
        if table is None or len(table) != count:
            raise UserError(f"{checkpoint.path} does not name and paint its {count} classes; give another file")
        return table
    return CITYSCAPES_CLASSES if count == len(CITYSCAPES_CLASSES) else None


def _classes_of(checkpoint: Checkpoint) -> ClassTable:
    count = checkpoint.num_classes
    return told_classes(checkpoint) or ClassTable(tuple(f"class_{i}" for i in range(count)), distinct_palette(count))
