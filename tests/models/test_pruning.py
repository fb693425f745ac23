"""Filters leave by their norms, together with all that depends on them, and the description rebuilds what is left."""

import copy
import sys
from typing import ClassVar

import pytest
import torch
from torch import nn

from icnet.config import ModelConfig
from icnet.errors import UserError
from icnet.models import NETWORKS, build_network, network_title, rebuild_network
from icnet.models.checkpoints import read_checkpoint
from icnet.models.folding import fold_batchnorm
from icnet.models.network import NetworkDescription, SegmentationNetwork, can_fold
from icnet.models.pruning import cost, kept_channels, narrow, prune
from tests.models.network_tester import ALL_NETWORKS, SMALL


class Shortcut(SegmentationNetwork):
    """A convolution, a depthwise one, a sum with a shortcut, a concatenation and a classifier; four channels each."""

    loss_weights: ClassVar = {"logits": 1.0}
    classifiers: ClassVar = ("classifier.",)

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.first = nn.Conv2d(3, 4, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 1, groups=4, bias=False)
        self.second = nn.Conv2d(4, 4, 1, bias=False)
        self.shortcut = nn.Conv2d(3, 4, 1)
        self.classifier = nn.Conv2d(8, num_classes, 1)

    def forward(self, image):
        middle = self.depthwise(self.bn(self.first(image)).relu())
        summed = self.second(middle) + self.shortcut(image)
        logits = self.classifier(torch.cat([middle, summed], 1))
        return {"logits": logits} if self.training else logits


def set_norms(conv: nn.Conv2d, norms: list[float]) -> None:
    """Give filters these L1 norms, with both signs."""
    weight = torch.tensor(norms).view(-1, 1, 1, 1) / conv.weight[0].numel()
    signs = torch.ones_like(conv.weight)
    signs[:, 1:] = -1
    conv.weight.data = weight * signs


@pytest.fixture
def shortcut():
    torch.manual_seed(0)
    net = Shortcut(2)
    set_norms(net.first, [4, 1, 3, 2])
    set_norms(net.depthwise, [1, 1, 1, 2.5])  # with the filters before: 5, 2, 4, 4.5
    set_norms(net.second, [1, 2, 3, 4])
    set_norms(net.shortcut, [9, 1, 1, 0.5])  # with the filters of the sum: 10, 3, 4, 4.5
    return net


def randomise(net: nn.Module) -> None:
    """Statistics, scales and shifts that differ from channel to channel."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)


def without(net: SegmentationNetwork, kept) -> SegmentationNetwork:
    """Return a copy of full width in which the channels that leave are zero wherever they are made."""
    full = copy.deepcopy(net)
    for name, (out, _) in kept.items():
        module = full.get_submodule(name)
        gone = [channel for channel in range(len(module.weight)) if channel not in out]
        for value in (module.weight, module.bias, getattr(module, "running_mean", None)):
            if value is not None:
                value.data[gone] = 0
    return full


def test_filters_with_the_smallest_norms_leave_with_all_that_depends_on_them(shortcut):
    pytest.importorskip("torch_pruning")
    assert kept_channels(shortcut, 0.5) == {
        "first": ([0, 3], [0, 1, 2]),
        "bn": ([0, 3], [0, 3]),
        "depthwise": ([0, 3], [0, 3]),
        "second": ([0, 3], [0, 3]),
        "shortcut": ([0, 3], [0, 1, 2]),
        "classifier": ([0, 1], [0, 3, 4, 7]),
    }


@pytest.mark.parametrize(("keep", "left"), [(0.9, 4), (0.75, 3), (0.3, 1), (0.01, 1)])
def test_share_is_rounded_to_filters_but_one_stays(shortcut, keep, left):
    pytest.importorskip("torch_pruning")
    prune(shortcut, keep)
    assert (shortcut.first.out_channels, shortcut.second.out_channels) == (left, left)
    assert shortcut.classifier.out_channels == 2
    assert bool(shortcut.widths) == (left < 4)


def test_pruning_again_takes_its_share_of_what_is_left(shortcut):
    pytest.importorskip("torch_pruning")
    kept = shortcut.first.weight[[0]].clone()
    prune(shortcut, 0.5)
    prune(shortcut, 0.5)
    assert torch.equal(shortcut.first.weight, kept)
    assert shortcut.widths["second"] == [1, 1]


def test_narrow_rebuilds_shapes_without_the_library(shortcut):
    narrow(shortcut, {"first": [2, 3], "bn": [2, 2], "depthwise": [2, 2], "second": [4, 2], "classifier": [2, 6]})
    assert shortcut.eval()(torch.zeros(1, 3, 5, 5)).shape == (1, 2, 5, 5)
    assert (shortcut.depthwise.groups, shortcut.bn.num_features) == (2, 2)
    assert shortcut.first.weight.requires_grad


@pytest.mark.parametrize(
    "widths",
    [{"nowhere": [1, 1]}, {"first": [5, 3]}, {"first": [0, 3]}, {"": [1, 1]}, {"bn": [1, 5]}],
)
def test_widths_of_another_network_are_refused(shortcut, widths):
    with pytest.raises(UserError, match="Shortcut has no .* channels out and .* in"):
        narrow(shortcut, widths)


def test_network_that_does_not_name_its_classifiers_is_not_pruned(shortcut, monkeypatch):
    monkeypatch.setattr(Shortcut, "classifiers", ())
    with pytest.raises(UserError, match=r"model.keep=0.5 cannot be used: Shortcut does not say in classifiers"):
        prune(shortcut, 0.5)


def test_network_of_other_layers_is_not_pruned(shortcut):
    pytest.importorskip("torch_pruning")
    shortcut.bn = nn.GroupNorm(1, 4)
    with pytest.raises(UserError, match="bn of Shortcut is neither Conv2d nor BatchNorm2d"):
        prune(shortcut, 0.5)


@pytest.mark.parametrize("name", ALL_NETWORKS)
def test_every_network_computes_what_it_would_without_the_filters_that_left(name):
    pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    net = build_network(name, 5, **SMALL.get(name, {}))
    randomise(net)
    described = NetworkDescription(name, SMALL.get(name, {}), 5)
    before, kept = cost(net), kept_channels(net, 0.5)
    full = without(net, kept)
    prune(net, 0.5)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for training in (False, True):
            wanted, given = full.train(training)(image), net.train(training)(image)
            torch.testing.assert_close(given, wanted, atol=1e-3, rtol=1e-3)
    net.eval()
    convs = {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    assert convs.keys() <= net.widths.keys()
    assert all(0.2 < after / cost_before < 0.3 for after, cost_before in zip(cost(net), before, strict=True))

    again = rebuild_network(NetworkDescription(name, described.options, 5, net.widths))
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(image), net(image))
        torch.testing.assert_close(fold_batchnorm(net)(image), net(image), atol=1e-4, rtol=1e-4)
    assert all(can_fold(*map(net.get_submodule, pair)) for pair in net.batchnorm_pairs())


def test_description_of_an_unpruned_network_is_as_it_was():
    described = NetworkDescription("icnet", {"backbone": "resnet18", "quarter_branch": "image", "enlarge": 1}, 19)
    assert described.plain() == {"name": "icnet", "options": described.options, "num_classes": 19}
    pruned = NetworkDescription("icnet", described.options, 19, {"classifier": [19, 64]})
    assert pruned.plain() == described.plain() | {"widths": {"classifier": [19, 64]}}
    assert (network_title(described), network_title(pruned)) == ("icnet_resnet18", "icnet_resnet18_pruned")


@pytest.mark.parametrize("widths", [3, {"classifier": 3}, {"classifier": [5, "64"]}, {"classifier": [5]}])
def test_checkpoint_with_other_widths_than_pairs_of_numbers_is_refused(tmp_path, widths):
    model = {"name": next(iter(NETWORKS)), "options": {}, "num_classes": 5, "widths": widths}
    torch.save({"icnet": {"model": model}, "state_dict": {}}, tmp_path / "net.ckpt")
    with pytest.raises(UserError, match="does not tell its network's widths"):
        read_checkpoint(tmp_path / "net.ckpt")


def test_share_without_weights_is_refused():
    with pytest.raises(UserError, match=r"model.keep=0.5 prunes trained weights; give model.weights=FILE too"):
        ModelConfig(keep=0.5)


def test_missing_library_is_named_with_the_command_that_installs_it(shortcut, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(UserError, match=r"model.keep takes torch-pruning; run 'pip install torch-pruning'"):
        prune(shortcut, 0.5)
