"""Fine-tuning to other classes: what a network has learned of a class goes with its name."""

from pathlib import Path

import pytest
import torch

from icnet import factory
from icnet.config import ModelConfig
from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.deploy.shipped import SHIPPED
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError
from icnet.models import build_network

OLD = ("sky", "road", "car")


def checkpoint(path: Path, names=OLD) -> torch.nn.Module:
    """Write a checkpoint of a network with random weights; returns the network."""
    torch.manual_seed(1)
    net = build_network("icnet", len(names), backbone="resnet18").eval()
    model = {"name": "icnet", "options": {"backbone": "resnet18"}, "num_classes": len(names)}
    classes = {"names": list(names), "palette": [[number, 0, 0] for number in range(len(names))]}
    tensors = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"icnet": {"model": model, "classes": classes}, "state_dict": tensors}, path)
    return net


def tuned(path: Path, names) -> torch.nn.Module:
    return factory.network(ModelConfig(backbone="resnet18", weights=str(path)), names, channels_last=False).eval()


@pytest.fixture
def image():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_class_keeps_its_logits_under_another_number(tmp_path, image, caplog):
    old = checkpoint(tmp_path / "old.ckpt")
    net = tuned(tmp_path / "old.ckpt", ("road", "tram", "sky", "bus"))
    before, after = old(image)[0], net(image)[0]
    torch.testing.assert_close(after[0], before[1])  # road
    torch.testing.assert_close(after[2], before[0])  # sky
    assert all((after[1] - before[number]).abs().max() > 1e-4 for number in range(3))  # tram is nobody's heir
    for classifier in ("classifier", "cff_24.aux_classifier", "cff_12.aux_classifier"):
        ours, theirs = net.get_submodule(classifier).weight, old.get_submodule(classifier).weight
        assert torch.equal(ours[[0, 2]], theirs[[1, 0]])
    (text,) = caplog.messages
    assert "old.ckpt has 3 classes and this run 4, other ones or in another order" in text
    assert "the classifiers take over road, sky by name; tram, bus start anew; everything else was loaded" in text


@torch.no_grad()
def test_same_number_of_classes_in_another_order_is_not_taken_by_number(tmp_path, image, caplog):
    old = checkpoint(tmp_path / "old.ckpt")
    net = tuned(tmp_path / "old.ckpt", ("car", "sky", "road"))
    torch.testing.assert_close(net(image)[0], old(image)[0][[2, 0, 1]])
    assert "take over car, sky, road by name; none starts anew" in caplog.text


@torch.no_grad()
def test_same_classes_are_loaded_as_they_are(tmp_path, image, caplog):
    old = checkpoint(tmp_path / "old.ckpt")
    torch.testing.assert_close(tuned(tmp_path / "old.ckpt", OLD)(image), old(image))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@torch.no_grad()
def test_published_file_with_19_classes_is_one_of_cityscapes(tmp_path, image, to_reference, caplog):
    net = build_network("icnet", 19, backbone="resnet18").eval()
    torch.save(to_reference(net.state_dict()), tmp_path / "published.pth")
    logits = tuned(tmp_path / "published.pth", ("car", "tram"))(image)[0]
    torch.testing.assert_close(logits[0], net(image)[0][CITYSCAPES_CLASSES.names.index("car")])
    assert "the classifiers take over car by name; tram start anew" in caplog.text


@torch.no_grad()
def test_published_file_without_names_is_taken_by_number_and_that_is_said(tmp_path, image, to_reference, caplog):
    net = build_network("icnet", 3, backbone="resnet18").eval()
    torch.save(to_reference(net.state_dict()), tmp_path / "published.pth")
    torch.testing.assert_close(tuned(tmp_path / "published.pth", OLD)(image), net(image))
    assert (
        "does not name its 3 classes: they are taken for those of the data, in their order (sky, road, car)"
        in caplog.text
    )
    caplog.clear()
    tuned(tmp_path / "published.pth", ("sky", "road"))
    assert (
        "has 3 classes, which it does not name, and this run 2: everything was loaded but the classifiers"
        in caplog.text
    )


@torch.no_grad()
def test_weights_that_come_along_are_tuned_by_their_name(image):
    shipped = read_network(SHIPPED["camvid"].path)
    config = ModelConfig("icnet_lite0", options={"enlarge": 2}, weights="camvid")
    net = factory.network(config, shipped.classes.names, channels_last=False).eval()
    torch.testing.assert_close(net(image), shipped.net(image))


def test_checkpoint_with_other_options_tells_how_to_ask_for_them():
    with pytest.raises(
        UserError, match=r"; choose model=icnet_lite0 \+model\.options\.enlarge=2 or another checkpoint"
    ):
        factory.network(ModelConfig("icnet_lite0", weights="camvid"), OLD)
