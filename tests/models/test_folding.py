import pytest
import torch
from torch import nn

from icnet.models.folding import fold_batchnorm
from icnet.models.icnet import ICNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = ICNet(19, "resnet18").eval().requires_grad_(False)
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


def test_folding_refuses_a_norm_without_convolution(net):
    net.cff_12.low.conv = nn.Identity()
    with pytest.raises(ValueError, match=r"no convolution found to fold cff_12\.low\.bn into"):
        fold_batchnorm(net)
