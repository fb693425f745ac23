"""Parts of a network that training leaves as they are: their weights, and their BatchNorm statistics."""

from collections.abc import Iterator, Sequence

from torch import nn

from icnet.errors import UserError
from icnet.models.network import SegmentationNetwork


def check_parts(kind: type[SegmentationNetwork], parts: Sequence[str]) -> None:
    """Refuse what is no part of a network.

    Args:
        kind: Its class, which names its parts.
        parts: What is to be frozen.

    Raises:
        UserError: If it does not have one of them.
    """
    for part in parts:
        if part not in kind.parts:
            known = f"choose from {', '.join(kind.parts)}" if kind.parts else "it names no parts; leave it out"
            raise UserError(f"optim.freeze={part} is no part of {kind.__name__}; {known}")


def freeze(net: SegmentationNetwork, parts: Sequence[str]) -> None:
    """Keep the weights of parts: no gradient is computed for them, so no optimizer changes them, nor decays them.

    Args:
        net: The network.
        parts: Names in ``net.parts``.

    Raises:
        UserError: If nothing is left to train.
    """
    beginnings = _beginnings(net, parts)
    for name, parameter in net.named_parameters():
        if name.startswith(beginnings):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise UserError(f"optim.freeze=[{','.join(parts)}] leaves nothing to train; leave one of them out")


def keep_statistics(net: SegmentationNetwork, parts: Sequence[str]) -> None:
    """Put what has running statistics, such as BatchNorm, in evaluation mode where it is frozen.

    Args:
        net: The network, in training mode.
        parts: Names in ``net.parts``.
    """
    for module in frozen_modules(net, parts):
        if hasattr(module, "running_mean"):
            module.eval()


def frozen_modules(net: SegmentationNetwork, parts: Sequence[str]) -> Iterator[nn.Module]:
    """Yield the modules of parts; found by name each time, as a conversion to SyncBatchNorm replaces some."""
    beginnings = _beginnings(net, parts)
    return (module for name, module in net.named_modules() if f"{name}.".startswith(beginnings))


def _beginnings(net: SegmentationNetwork, parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(beginning for part in parts for beginning in net.parts[part])
