import pytest

from icnet.errors import UserError
from icnet.models import NETWORKS, build_network, network_options
from icnet.models.icnet import ICNet
from tests.models.network_tester import check_network

SMALL = {"icnet": {"backbone": "resnet18"}}  # options that make a network small


@pytest.mark.parametrize("name", NETWORKS)
def test_network_keeps_its_promises(name):
    check_network(name, **SMALL.get(name, {}))


def test_network_is_built_by_its_name():
    net = build_network("icnet", 7, backbone="resnet34")
    assert isinstance(net, ICNet)
    assert net.num_classes == 7
    assert len(net.backbone.layer3) == 6
    assert network_options("icnet", {}) == {"backbone": "resnet50"}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("unet", {}, "model.name=unet is unknown; choose one of icnet"),
        ("icnet", {"backbone": "vgg16"}, "model.backbone=vgg16 is unknown; choose one of resnet18, resnet34"),
        ("icnet", {"width": 8}, "model.options.width=8 is no option of icnet; it has backbone"),
    ],
)
def test_unknown_network_or_option_is_refused_with_what_is_allowed(name, options, words):
    with pytest.raises(UserError) as caught:
        build_network(name, 19, **options)
    assert str(caught.value).startswith(words)
