"""From configuration to the loss, and the weights in it."""

from collections.abc import Sequence

from icnet.config import LossConfig, TrainConfig
from icnet.data.dataset import SegmentationDataset
from icnet.data.labels import IGNORE_INDEX
from icnet.data.statistics import WEIGHTINGS
from icnet.errors import UserError
from icnet.factory.checking import count_labels
from icnet.models.network import SegmentationNetwork
from icnet.training.losses import CascadeLoss


def output_weights(loss: LossConfig, kind: type[SegmentationNetwork]) -> dict[str, float]:
    """Return the weight of each of a network's outputs: what is given, or else the network's own.

    Raises:
        UserError: If a weight is given for an output that the network does not have, or all are 0.
    """
    given = loss.given_weights()
    for name in given.keys() - kind.loss_weights.keys():
        key = f"weights.{name}" if name in loss.weights else f"{name}_weight"
        raise UserError(
            f"loss.{key}={given[name]} is for no output of {kind.__name__}; it has {', '.join(kind.loss_weights)}"
        )
    weights = {name: given.get(name, weight) for name, weight in kind.loss_weights.items()}
    if not any(weights.values()):
        raise UserError(f"the loss weights of {', '.join(weights)} are all 0; give one a number above 0")
    return weights


def class_weights(config: TrainConfig, train: SegmentationDataset | None) -> list[float] | None:
    """Return the loss's class weights: those that are given, or those that the training labels come to.

    Args:
        config: Of the run.
        train: The training set, all of whose labels are counted unless that was done before.

    Returns:
        One number for each class, 0 where a class never occurs; None for 1 everywhere.

    Raises:
        UserError: If a label mask cannot be read, or no label counts.
    """
    rule = config.loss.class_weights
    if not isinstance(rule, str) or train is None:
        return rule
    counted = count_labels(config, train)
    weights: list[float] = WEIGHTINGS[rule].weigh(counted.pixels, counted.ignored).tolist()
    return weights


def criterion(loss: LossConfig, net: SegmentationNetwork, class_weights: Sequence[float] | None = None) -> CascadeLoss:
    """Build the loss.

    Args:
        loss: What is given.
        net: The network, which has weights of its own for its outputs.
        class_weights: One for each class, as ``icnet.factory.class_weights`` returns them; None for those of ``loss``.

    Raises:
        UserError: If there are class weights, but not one per class; or see ``output_weights``.
    """
    weights = loss.class_weights if class_weights is None else class_weights
    if isinstance(weights, str):
        raise ValueError(f"loss.class_weights={weights} is not resolved; pass the numbers that it comes to")
    if weights is not None and len(weights) != net.num_classes:
        raise UserError(
            f"loss.class_weights has {len(weights)} numbers and the data {net.num_classes} classes; "
            "give one per class, or null"
        )
    return CascadeLoss(
        output_weights(loss, type(net)),
        ignore_index=IGNORE_INDEX,
        resize=loss.resize,
        class_weights=weights,
        ohem_threshold=loss.ohem_threshold,
        ohem_min_kept=loss.ohem_min_kept,
    )
