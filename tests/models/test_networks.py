import pytest
import torch

from icnet.errors import UserError
from icnet.models import NETWORKS, Option, SegmentationNetwork, build_network, network_options
from icnet.models.icnet import ICNet
from tests.models.network_tester import SMALL, check_network


@pytest.mark.parametrize("name", NETWORKS)
def test_network_keeps_its_promises(name):
    check_network(name, **SMALL.get(name, {}))


def test_network_is_built_by_its_name():
    net = build_network("icnet", 7, backbone="resnet34")
    assert isinstance(net, ICNet)
    assert net.num_classes == 7
    assert len(net.backbone.layer3) == 6
    assert network_options("icnet", {}) == {"backbone": "resnet50", "quarter_branch": "image", "enlarge": 1}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nonet", {}, "model.name=nonet is unknown; choose one of icnet"),
        ("icnet", {"backbone": "vgg16"}, "model.backbone=vgg16 is unknown; choose one of resnet18, resnet34"),
        (
            "icnet",
            {"width": 8},
            "model.options.width=8 is no option of icnet; it has backbone, quarter_branch, enlarge",
        ),
    ],
)
def test_unknown_network_or_option_is_refused_with_what_is_allowed(name, options, words):
    with pytest.raises(UserError) as caught:
        build_network(name, 19, **options)
    assert str(caught.value).startswith(words)


class Open(SegmentationNetwork):
    """Nothing but options."""

    options = {"limit": Option(None), "steps": Option((1, 2)), "mode": Option(None, (None, "fast"))}
    loss_weights = {"all": 1.0}

    def __init__(self, num_classes, **options):
        super().__init__(num_classes)
        self.given = options


def test_option_without_a_default_takes_any_value_and_a_tuple_takes_a_list(monkeypatch):
    monkeypatch.setitem(NETWORKS, "open", Open)
    assert build_network("open", 2).given == {"limit": None, "steps": (1, 2), "mode": None}
    given = {"limit": 0.5, "steps": [3, 4], "mode": "fast"}
    assert build_network("open", 2, **given).given == given | {"steps": (3, 4)}
    assert network_options("open", {"limit": "high", "steps": (5,)})["limit"] == "high"
    with pytest.raises(UserError, match=r"model\.options\.mode=slow is unknown; choose one of None, fast"):
        build_network("open", 2, mode="slow")
    with pytest.raises(UserError, match=r"model\.options\.steps=3 is of the type int; give .* tuple, such as \(1, 2\)"):
        build_network("open", 2, steps=3)


class Striding(Open):
    min_side, divisor = 16, 8


def test_size_that_does_not_fit_is_refused_with_one_that_does():
    for (height, width), said in (
        ((8, 40), "an image of 8x40 (height x width) is too small for Striding; resize it to sides of at least 16 "
                  "pixels each, a multiple of 8, such as 16x16"),
        ((16, 20), "an image of 16x20 (height x width) does not suit Striding; resize it to sides of at least 16 "
                   "pixels each, a multiple of 8, such as 16x24"),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            Striding(2).check_size(torch.zeros(1, 3, height, width))
        assert str(caught.value) == said
