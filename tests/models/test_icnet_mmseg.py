"""mmsegmentation's ICNet, written once more from ``torch.nn`` with the published files' names."""

import collections
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from icnet.errors import UserError
from icnet.models import build_network
from icnet.models.checkpoints import load_weights, read_checkpoint
from icnet.models.icnet_mmseg import ICNetMMSeg
from icnet.models.imagenet_weights import read_backbone
from icnet.models.network import NetworkDescription
from icnet.models.published import from_mmseg
from tests.models.conftest import randomise
from tests.models.plain import assert_trains_alike, layout_sha256, plain_layers, resnet_macs

# Of the published files' keys and shapes, see layout_sha256.
LAYOUTS = {
    "resnet18": (240, "02e0ae575b9b215fb2365c1207587ac2d32d53539ab81761cde4605295aac9eb"),
    "resnet50": (438, "341fbe6464e719c9fd7286c3237b225423f8a2f3d22b0146339b3d7b3abc136a"),
}

enlarge = partial(F.interpolate, mode="bilinear", align_corners=False)


class Unit(nn.Module):
    """A convolution, batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Trunk(nn.Module):
    """``resnet*_v1c``, whose first convolution of a dilated layer is dilated by half; ``fc`` is ImageNet's."""

    def __init__(self, depth: str, *, fc: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        )  # fmt: skip
        self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        rates = {(3, True): 1, (3, False): 2, (4, True): 2, (4, False): 4}
        self.layer1, self.layer2, self.layer3, self.layer4 = plain_layers(
            depth, 64, lambda layer, block: (rates[layer, block == 0], 1)
        )
        if fc:
            self.fc = nn.Linear(2048, 1000)

    def middle(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(self.maxpool(self.stem(x))))


class Extractor(nn.Module):
    def __init__(self, depth: str) -> None:
        super().__init__()
        grow = 1 if depth == "resnet18" else 4
        self.backbone = Trunk(depth)
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), Unit(512 * grow, 512, 1)) for bins in (1, 2, 3, 6)
        )
        self.psp_bottleneck = Unit(512 * grow + 4 * 512, 512, 3)
        self.conv_sub1 = nn.Sequential(Unit(3, 32, 3, 2), Unit(32, 32, 3, 2), Unit(32, 64, 3, 2))
        self.conv_sub2, self.conv_sub4 = Unit(128 * grow, 256, 1), Unit(512, 256, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        middle = self.backbone.middle(enlarge(image, scale_factor=0.5))
        top = self.backbone.layer4(self.backbone.layer3(enlarge(middle, scale_factor=0.5)))
        pooled = [enlarge(module(top), size=top.shape[2:]) for module in self.psp_modules]
        top = self.conv_sub4(self.psp_bottleneck(torch.cat([*pooled, top], 1)))
        return self.conv_sub1(image), self.conv_sub2(middle), top


class Fusion(nn.Module):
    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.conv_low, self.conv_high = Unit(low, 128, 3, dilation=2), Unit(high, 128, 1)

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        arm = self.conv_low(enlarge(low, size=high.shape[2:]))
        return torch.relu(arm + self.conv_high(high)), arm


class Head(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(128, classes, 1)
        self.convs = nn.Sequential(Unit(128, 128, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_seg(self.convs(x))


class PublishedNet(nn.Module):
    def __init__(self, depth: str, classes: int = 19) -> None:
        super().__init__()
        self.backbone = Extractor(depth)
        self.neck = nn.ModuleDict({"cff_24": Fusion(256, 256), "cff_12": Fusion(128, 64)})
        self.decode_head = Head(classes)
        self.auxiliary_head = nn.ModuleList([Head(classes), Head(classes)])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        sub1, sub2, sub4 = self.backbone(image)
        fused, coarse = self.neck["cff_24"](sub4, sub2)
        fused, fine = self.neck["cff_12"](fused, sub1)
        logits = self.decode_head(fused)
        outputs = {"sub124": logits, "sub24": self.auxiliary_head[1](fine), "sub4": self.auxiliary_head[0](coarse)}
        return {**outputs, "full": enlarge(logits, size=image.shape[2:])}


def published(depth: str, classes: int = 19) -> PublishedNet:
    torch.manual_seed(0)
    net = PublishedNet(depth, classes)
    randomise(net, 0)
    return net


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


class HistoryBuffer:
    """Stands for the class of that name that mmengine pickles into its files, which is not installed here."""

    def __init__(self) -> None:
        self.log_history = np.ones((2, 2))


def save_as_published(net: nn.Module, path: Path, **more: object) -> Path:
    """Write a file with everything that mmsegmentation's have, pickled objects and the optimizer's state too."""
    meta = {"cfg": "model = ...", "seed": 0, "env": np.float64(1.5), "CLASSES": ("road", "sidewalk")}
    hub = {"log_scalars": collections.OrderedDict(loss=HistoryBuffer()), "resumed_keys": {}}
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.01}]}
    torch.save({"meta": meta | more, "message_hub": hub, "state_dict": net.state_dict(), "optimizer": optimizer}, path)
    return path


# ---------------------------------------------------------------- against the plain network


@pytest.mark.parametrize("depth", LAYOUTS)
def test_plain_network_has_every_key_and_shape_of_the_published_file(depth):
    with torch.device("meta"):
        tensors = PublishedNet(depth).state_dict()
    assert (len(tensors), layout_sha256(tensors)) == LAYOUTS[depth]


@pytest.mark.parametrize("depth", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_network_read_from_a_published_file_gives_its_logits(depth, tmp_path, caplog):
    plain = published(depth, 11).eval()
    checkpoint = read_checkpoint(save_as_published(plain, tmp_path / "icnet.pth"))
    assert (checkpoint.kind, checkpoint.network) == (
        "mmseg",
        NetworkDescription("icnet_mmseg", {"backbone": depth}, 11),
    )
    assert "which were left out: its tensors alone were read" in caplog.text
    net = build_network("icnet_mmseg", 11, backbone=depth).eval()
    load_weights(net, checkpoint.state_dict, checkpoint.path)
    net, plain = net.double(), plain.double()
    for size in ((128, 192), (64, 64), (97, 161), (130, 99)) if depth == "resnet18" else ((65, 96),):
        image = noise(2, 3, *size)
        with torch.inference_mode():
            logits, wanted = net(image), plain(image)["full"]
        assert wanted.std() > 0.02  # logits near zero would prove nothing
        torch.testing.assert_close(logits, wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.slow
def test_training_outputs_gradients_and_statistics_equal_the_plain_network():
    plain = published("resnet18", 7)
    net = ICNetMMSeg(7, "resnet18")
    net.load_state_dict(from_mmseg(plain.state_dict()), strict=True)
    assert_trains_alike(net.double(), plain.double(), from_mmseg, noise(2, 3, 64, 64))


def test_one_image_is_refused_in_training():
    net = ICNetMMSeg(3, "resnet18")
    with pytest.raises(UserError, match="^trainer.batch_size=1 .*; give 2 or more$"):
        net(noise(1, 3, 64, 64, dtype=torch.float32))
    net.pyramid.eval()  # frozen statistics
    assert net(noise(1, 3, 64, 64, dtype=torch.float32))["sub124"].isfinite().all()


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(("prefix", "dtype"), [("module.", torch.float16), ("", torch.float64)])
def test_prefix_and_other_precisions_are_read(tmp_path, prefix, dtype):
    plain = published("resnet18")
    tensors = {
        prefix + key: value.to(dtype) if value.is_floating_point() else value
        for key, value in plain.state_dict().items()
    }
    torch.save({"state_dict": tensors}, tmp_path / "icnet.pth")
    checkpoint = read_checkpoint(tmp_path / "icnet.pth")
    net = ICNetMMSeg(19, "resnet18")
    load_weights(net, checkpoint.state_dict, checkpoint.path)
    wanted = plain.decode_head.conv_seg.bias.to(dtype).float()
    assert torch.equal(net.head.classifier.bias, wanted)


def test_backbone_weights_of_resnet50_v1c_give_the_same_features(tmp_path):
    torch.manual_seed(0)
    trunk = Trunk("resnet50", fc=True).eval()
    randomise(trunk, 0)
    assert len(trunk.state_dict()) == 332  # of 55 convolutions and fc
    torch.save({"state_dict": trunk.state_dict()}, tmp_path / "resnet50_v1c.pth")
    net = ICNetMMSeg(3, "resnet50").eval()
    tensors = net.translate_imagenet(read_backbone(str(tmp_path / "resnet50_v1c.pth")))
    load_weights(net.imagenet_backbone(), tensors, "resnet50_v1c.pth")
    image = noise(1, 3, 66, 99, dtype=torch.float32)
    with torch.inference_mode():
        middle = trunk.middle(image)
        torch.testing.assert_close(net.backbone.forward_mid(image), middle, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(net.backbone(image), trunk.layer4(trunk.layer3(middle)), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_published_file_goes_through_every_script(through_scripts, tmp_path):
    path = save_as_published(published("resnet18"), tmp_path / "icnet.pth")
    through_scripts(path, "icnet_mmseg_resnet18", "amp=o1", "amp.loss_scale=128")


# ---------------------------------------------------------------- size and cost


@pytest.mark.parametrize(
    ("depth", "million", "billion"),
    [("resnet18", 25.17, 74.24), ("resnet50", 47.83, 121.97), ("resnet101", 66.82, 160.76)],
)
def test_parameters_and_multiply_adds_are_those_counted_by_hand(depth, million, billion):
    with torch.device("meta"):
        net = ICNetMMSeg(19, depth).eval()
        plain = PublishedNet(depth)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in plain.parameters())
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(million, abs=0.01)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, 3, 1024, 2048, device="meta"))
    grow = 1 if depth == "resnet18" else 4
    image, stem, first, second, quarter = 1024 * 2048, 256 * 512, 129 * 257, 65 * 129, 32 * 64
    costs = (
        image // 4 * 27 * 32 + image // 16 * 288 * 32 + image // 64 * 288 * 64,  # sub1
        stem * (27 * 32 + 288 * 32 + 288 * 64) + resnet_macs(depth, 64, (first, second, quarter)),
        second * 128 * grow * 256,  # conv_sub2
        (1 + 4 + 9 + 36) * 512 * grow * 512 + quarter * 512 * (9 * 512 * (grow + 4) + 256),  # pooling up to conv_sub4
        second * 128 * (9 * 256 + 256) + image // 64 * 128 * (9 * 128 + 64),  # fusions
        image // 64 * 128 * (9 * 128 + 19),  # head
    )
    assert counter.get_flop_counts()["Global"][torch.ops.aten.convolution] == 2 * sum(costs)
    assert sum(costs) / 1e9 == pytest.approx(billion, abs=0.01)
