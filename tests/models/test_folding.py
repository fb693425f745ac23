import pytest
import torch
from torch import nn

from icnet.models.folding import fold_batchnorm
from icnet.models.icnet import ICNet
from icnet.models.modules import ConvBNReLU
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


class Plain(SegmentationNetwork):
    """Runs the modules that it is given, in turn."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__(2)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, image):
        for part in self.children():
            image = part(image)
        return image


def check_folding(net: nn.Module, pairs: list[tuple[str, str]]) -> None:
    net = randomised(net.eval().requires_grad_(False))
    image = torch.randn(1, 3, 20, 30)
    assert list(net.batchnorm_pairs()) == pairs
    torch.testing.assert_close(fold_batchnorm(net)(image), net(image), atol=1e-5, rtol=1e-5)


def test_neighbours_are_those_that_run_in_turn():
    """A module that stands in several places of a ``Sequential`` is listed once by ``named_children``."""
    relu, norm, conv = nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
    check_folding(Plain(body=nn.Sequential(nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1), relu, norm)), [])
    check_folding(
        Plain(body=nn.Sequential(conv, norm, conv, norm, relu, norm)), [("body.0", "body.1"), ("body.2", "body.3")]
    )


def test_convolution_that_is_used_elsewhere_too_stays_there():
    trunk = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    check_folding(Plain(alone=trunk[0], both=trunk, norm=trunk[1]), [("both.0", "both.1")])


def test_norm_without_running_statistics_is_not_folded():
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    image = torch.randn(1, 3, 20, 30)
    net = Plain(body=nn.Sequential(nn.Conv2d(3, 3, 1), norm)).eval()
    assert list(net.batchnorm_pairs()) == []
    assert torch.equal(fold_batchnorm(net)(image), net(image))


class Tapped(nn.Sequential):
    """Gives the convolution's output to more than the norm."""

    def forward(self, x):
        y = self[0](x)
        return y + self[1](y)


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x) + 1


def test_classes_that_compute_otherwise_are_not_folded():
    check_folding(Plain(body=Tapped(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))), [])
    check_folding(Plain(body=nn.Sequential(Doubled(3, 3, 1), nn.BatchNorm2d(3))), [])


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_conv_bn_relu_is_folded_in_any_network(kernel):
    check_folding(Plain(block=ConvBNReLU(3, 4, kernel)), [("block.conv", "block.bn")])
