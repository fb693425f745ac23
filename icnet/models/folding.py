"""Folding batch normalisation into the convolutions, for networks that no longer learn."""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from icnet.models.icnet import ICNet


def fold_batchnorm(net: ICNet) -> ICNet:
    """Fold every batch normalisation into the convolution before it.

    Args:
        net: A network; it stays as it is.

    Returns:
        A copy in evaluation mode that gives the same logits up to rounding, without batch normalisation.

    Raises:
        ValueError: If a batch normalisation follows no convolution that it could be folded into.
    """
    folded = copy.deepcopy(net).eval()
    for module in folded.modules():
        children = dict(module.named_children())
        for name, conv in children.items():
            # conv and bn, conv1 and bn1, or neighbours in a Sequential
            follower = str(int(name) + 1) if name.isdecimal() else name.replace("conv", "bn")
            norm = children.get(follower)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, follower, nn.Identity())
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if left:
        raise ValueError(f"no convolution found to fold {', '.join(left)} into")
    return folded
