"""Folding batch normalisation into the convolutions, for networks that no longer learn."""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from icnet.models.network import SegmentationNetwork


def fold_batchnorm(net: SegmentationNetwork) -> SegmentationNetwork:
    """Fold every batch normalisation that the network names into the convolution before it.

    Args:
        net: A network; it stays as it is.

    Returns:
        A copy in evaluation mode that gives the same logits up to rounding, with fewer layers.
    """
    folded = copy.deepcopy(net).eval()
    for conv, norm in dict.fromkeys(folded.batchnorm_pairs()):
        fused: nn.Module = fuse_conv_bn_eval(folded.get_submodule(conv), folded.get_submodule(norm))  # type: ignore[type-var, arg-type]
        for name, module in ((conv, fused), (norm, nn.Identity())):
            above, _, child = name.rpartition(".")
            setattr(folded.get_submodule(above), child, module)
    return folded
