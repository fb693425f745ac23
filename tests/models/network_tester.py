"""What every network passes."""

import copy
from typing import Any

import pytest
import torch

from icnet.errors import UserError
from icnet.models import NETWORKS, build_network, network_class, network_options
from icnet.models.folding import fold_batchnorm

ALL_NETWORKS = [
    name if name in {"icnet", "icnet_lite0"} else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS
]
"""For tests that hold for every network: two of them are among the fast tests."""

# Options that make a network small.
SMALL = {name: {"backbone": "resnet18"} for name in ("icnet", "icnet_mmseg", "icnet_zh320")}


def check_network(name: str, num_classes: int = 5, **options: Any) -> None:
    """Hold a network to what ``icnet.models.SegmentationNetwork`` promises, at its smallest size.

    Args:
        name: Its name in ``NETWORKS``.
        num_classes: Any number.
        options: Of the network; small ones save time.
    """
    kind = network_class(name)
    torch.manual_seed(0)
    net = build_network(name, num_classes, **options)
    assert net.num_classes == num_classes
    assert kind.title(name, network_options(name, options)).startswith(name)

    # Sizes: the smallest and one beside it, in both modes.
    side = kind.allowed_side(1)
    height, width = side, kind.allowed_side(side + 1)
    image = torch.randn(2, 3, height, width)
    outputs = net.train()(image)
    assert outputs.keys() == kind.loss_weights.keys()
    assert all(logits.shape[:2] == (2, num_classes) and logits.isfinite().all() for logits in outputs.values())
    assert any(weight > 0 for weight in kind.loss_weights.values())
    sum(logits.square().mean() for logits in outputs.values()).backward()
    assert [key for key, parameter in net.named_parameters() if parameter.grad is None] == []
    net.eval().requires_grad_(False)
    logits = net(image)
    assert logits.shape == (2, num_classes, height, width)
    for training in (False, True):
        with pytest.raises(UserError, match=f"{side - 1}x{width}"):
            net.train(training)(torch.zeros(1, 3, side - 1, width))
    net.eval()

    # Parameters: each is the backbone's or the head's, and each classifier there.
    split = [id(parameter) for parameter in (*net.backbone_parameters(), *net.head_parameters())]
    assert sorted(split) == sorted(id(parameter) for parameter in net.parameters())
    tensors = net.state_dict()
    for beginning in kind.classifiers:
        assert any(key.startswith(beginning) for key in tensors), beginning
    for part, beginnings in kind.parts.items():
        assert any(key.startswith(beginnings) for key, _ in net.named_parameters()), part
    other = build_network(name, num_classes + 1, **options).state_dict()
    assert other.keys() == tensors.keys()
    differing = {key for key, value in other.items() if value.shape != tensors[key].shape}
    assert differing
    assert all(key.startswith(kind.classifiers) for key in differing)

    # Round trips: through a state dict, folded, and ready to be exported.
    again = build_network(name, num_classes, **options)
    again.load_state_dict(tensors)
    assert torch.equal(again.eval()(image), logits)
    torch.testing.assert_close(fold_batchnorm(net)(image), logits, atol=1e-4, rtol=1e-4)
    for dynamic_size in (False, True):
        ready = copy.deepcopy(net)
        ready.prepare_export(dynamic_size=dynamic_size)
        torch.testing.assert_close(ready(image), logits)
    assert net.normalizer()(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)).flatten().tolist() == pytest.approx(
        [-mean / std for mean, std in zip(kind.mean, kind.std, strict=True)]
    )
