"""A small ICNet with logits worth comparing, and the files it comes in."""

from pathlib import Path

import pytest
import torch
from torch import nn

from icnet.data.labels import CITYSCAPES_CLASSES, ClassTable
from icnet.models import SegmentationNetwork, build_network
from icnet.models.icnet import ICNet
from icnet.models.modules import ImageNormalizer
from tests.models.network_tester import SMALL


def _make_net(num_classes: int = 19, seed: int = 0, name: str = "icnet") -> SegmentationNetwork:
    """An untrained network gives nearly constant logits: random statistics and a steep classifier vary them."""
    torch.manual_seed(seed)
    net = build_network(name, num_classes, **SMALL.get(name, {})).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if key.startswith(net.classifiers[:1]):
                parameter.mul_(1.5)
    return net.requires_grad_(False)


def _save_ours(net: ICNet, path: Path, classes: ClassTable = CITYSCAPES_CLASSES, **meta) -> Path:
    described = {"names": list(classes.names), "palette": [list(c) for c in classes.palette], "categories": []}
    model = {"name": "icnet", "options": {"backbone": "resnet18"}, "num_classes": net.num_classes}
    description = {"model": model, "classes": described, "version": "0.1.0", **meta}
    path.parent.mkdir(parents=True, exist_ok=True)
    state_dict = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state_dict, "icnet": description}, path)
    return path


@pytest.fixture(scope="session")
def make_net():
    return _make_net


@pytest.fixture(scope="session")
def save_ours():
    return _save_ours


@pytest.fixture(scope="session")
def save_reference(to_reference):
    def save(net: ICNet, path: Path, prefix: str = "") -> Path:
        torch.save({prefix + key: value for key, value in to_reference(net.state_dict()).items()}, path)
        return path

    return save


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def net() -> ICNet:
    return _make_net()


@pytest.fixture(scope="session")
def normalizer() -> ImageNormalizer:
    return ImageNormalizer()


@pytest.fixture(scope="session")
def checkpoint(net, tmp_path_factory) -> Path:
    return _save_ours(net, tmp_path_factory.mktemp("checkpoint") / "best.ckpt")


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, 96, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
