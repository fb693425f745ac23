import pytest
import torch
from torch import nn

from icnet.models.folding import fold_batchnorm
from icnet.models.icnet import ICNet
from icnet.models.network import SegmentationNetwork


@pytest.fixture
def net():
    torch.manual_seed(0)
    return randomised(ICNet(19, "resnet18").eval().requires_grad_(False))


def randomised(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
    return net


def test_folding_keeps_the_logits_and_leaves_no_batchnorm(net):
    image = torch.randn(1, 3, 96, 160)
    folded = fold_batchnorm(net)

    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    torch.testing.assert_close(folded(image), net(image), atol=1e-4, rtol=0)


class Unpaired(SegmentationNetwork):
    """A norm before its convolution, two neighbours outside of a ``Sequential``, and one foldable pair."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)])
        self.pair = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, image):
        first, second = self.layers
        return self.pair(first(second(self.conv(self.bn(image)))))


def test_folding_touches_only_what_the_network_pairs(net):
    net = randomised(Unpaired(2).eval().requires_grad_(False))
    image = torch.randn(1, 3, 20, 30)
    folded = fold_batchnorm(net)

    assert [type(module) for module in folded.pair] == [nn.Conv2d, nn.Identity, nn.ReLU]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 2
    torch.testing.assert_close(folded(image), net(image), atol=1e-5, rtol=1e-5)
