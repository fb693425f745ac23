"""zh320's ICNet, written once more from ``torch.nn`` with the published file's names."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from icnet.models import build_network
from icnet.models.checkpoints import load_weights, read_checkpoint
from icnet.models.icnet_zh320 import ICNetZH320
from icnet.models.imagenet_weights import read_backbone
from icnet.models.network import NetworkDescription
from icnet.models.published import from_zh320
from tests.models.conftest import randomise
from tests.models.plain import assert_trains_alike, layout_sha256, plain_layers, resnet_macs

# Of the published file's keys and shapes, see layout_sha256.
LAYOUT = (193, "882175dd0ec9d9447ed5efc77e53193cf8fc584d7ffaa079e74c285592ff4634")

enlarge = partial(F.interpolate, mode="bilinear", align_corners=True)


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, *, relu: bool = True) -> nn.Module:
    """A convolution, batch normalisation and perhaps ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else []))


def head(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(unit(inputs, 128, 3), nn.Conv2d(128, classes, 1, bias=False))


class Trunk(nn.Module):
    """torchvision's ResNet without the strides of layers 3 and 4; ``fc`` is ImageNet's."""

    def __init__(self, depth: str, *, fc: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        # Where the stride was, and nowhere else.
        rates = {(3, True): 2, (3, False): 1, (4, True): 4, (4, False): 1}
        self.layer1, self.layer2, self.layer3, self.layer4 = plain_layers(
            depth, 64, lambda layer, block: (rates[layer, block == 0], 1)
        )
        if fc:
            self.fc = nn.Linear(512, 1000)

    def middle(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.middle(x)
        return middle, self.layer4(self.layer3(middle))


class Pooling(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        for number, bins in enumerate((1, 2, 4, 6), start=1):
            conv = nn.Conv2d(channels, channels // 4, 1, bias=False)
            setattr(self, f"stage{number}", nn.Sequential(nn.AdaptiveAvgPool2d(bins), conv))
        self.conv = unit(2 * channels, 256, 1)

    def forward(self, x: Tensor) -> Tensor:
        stages = (self.stage1, self.stage2, self.stage3, self.stage4)
        return self.conv(torch.cat([x, *(enlarge(stage(x), size=x.shape[2:]) for stage in stages)], 1))


class Fusion(nn.Module):
    def __init__(self, low: int, high: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = unit(low, 128, 3, dilation=2, relu=False), unit(high, 128, 1, relu=False)
        self.classifier = head(low, classes)

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        low = enlarge(low, size=high.shape[2:])  # the published code doubles it: the same where sides divide by 32
        return torch.relu(self.conv1(low) + self.conv2(high)), self.classifier(low)


class PublishedNet(nn.Module):
    def __init__(self, depth: str, classes: int = 19) -> None:
        super().__init__()
        grow = 4 if depth in {"resnet50", "resnet101"} else 1
        self.backbone = Trunk(depth)
        self.bottom_branch = nn.Sequential(unit(3, 32, 3, 2), unit(32, 64, 3, 2), unit(64, 128, 3, 2))
        self.ppm = Pooling(512 * grow)
        self.cff42, self.cff21 = Fusion(256, 128 * grow, classes), Fusion(128, 128, classes)
        self.seg_head = head(128, classes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        # The published code begins with the quarter image, and runs the half one through all layers: in training both
        # would move running statistics in another way.
        half = enlarge(image, scale_factor=0.5)
        middle = self.backbone.middle(half) if self.training else self.backbone(half)[0]
        _, top = self.backbone(enlarge(image, scale_factor=0.25))
        fused, coarse = self.cff42(self.ppm(top), middle)
        fused, fine = self.cff21(fused, self.bottom_branch(image))
        logits = self.seg_head(enlarge(fused, scale_factor=2))
        return {"sub124": logits, "sub24": fine, "sub4": coarse, "full": enlarge(logits, size=image.shape[2:])}


def published(depth: str, classes: int = 19) -> PublishedNet:
    torch.manual_seed(0)
    net = PublishedNet(depth, classes)
    randomise(net, 0)
    return net


def save_as_published(net: nn.Module, path: Path) -> Path:
    torch.save({"cur_epoch": 800, "best_score": 0.69, "state_dict": net.state_dict(), "optimizer": None}, path)
    return path


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


# ---------------------------------------------------------------- against the plain network


def test_plain_network_has_every_key_and_shape_of_the_published_file():
    with torch.device("meta"):
        tensors = PublishedNet("resnet18").state_dict()
    assert (len(tensors), layout_sha256(tensors)) == LAYOUT


@pytest.mark.parametrize("depth", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_network_read_from_a_published_file_gives_its_logits(depth, tmp_path):
    plain = published(depth, 11).eval()
    checkpoint = read_checkpoint(save_as_published(plain, tmp_path / "icnet.pth"))
    assert (checkpoint.kind, checkpoint.network) == (
        "zh320",
        NetworkDescription("icnet_zh320", {"backbone": depth}, 11),
    )
    net = build_network("icnet_zh320", 11, backbone=depth).eval()
    load_weights(net, checkpoint.state_dict, checkpoint.path)
    net, plain = net.double(), plain.double()
    for size in ((128, 192), (64, 64), (97, 161), (130, 99)) if depth == "resnet18" else ((65, 96),):
        image = noise(2, 3, *size)
        with torch.inference_mode():
            logits, wanted = net(image), plain(image)["full"]
        assert wanted.std() > 0.02  # logits near zero would prove nothing
        torch.testing.assert_close(logits, wanted, atol=1e-9, rtol=1e-9)


def test_training_outputs_gradients_and_statistics_equal_the_plain_network():
    plain = published("resnet18", 7)
    net = ICNetZH320(7, "resnet18")
    net.load_state_dict(from_zh320(plain.state_dict()), strict=True)
    assert_trains_alike(net.double(), plain.double(), from_zh320, noise(2, 3, 64, 64))


@pytest.mark.slow
def test_published_file_goes_through_every_script(through_scripts, tmp_path):
    path = save_as_published(published("resnet18"), tmp_path / "icnet.pth")
    through_scripts(path, "icnet_zh320_resnet18", "amp=o2", "amp.loss_scale=128")


def test_backbone_weights_of_torchvision_give_the_same_features(tmp_path):
    torch.manual_seed(0)
    trunk = Trunk("resnet18", fc=True).eval()
    randomise(trunk, 0)
    assert len(trunk.state_dict()) == 122  # torchvision's resnet18: 20 convolutions and fc
    torch.save(trunk.state_dict(), tmp_path / "resnet18.pth")
    net = ICNetZH320(3, "resnet18").eval()
    tensors = net.translate_imagenet(read_backbone(str(tmp_path / "resnet18.pth")))
    load_weights(net.imagenet_backbone(), tensors, "resnet18.pth")
    image = noise(1, 3, 66, 99, dtype=torch.float32)
    with torch.inference_mode():
        middle, top = trunk(image)
        torch.testing.assert_close(net.backbone.forward_mid(image), middle, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(net.backbone(image), top, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- size and cost


@pytest.mark.parametrize(
    ("depth", "million", "billion"),
    [("resnet18", 12.87, 67.82), ("resnet34", 22.98, 96.20), ("resnet50", 29.97, 104.24), ("resnet101", 48.96, 143.03)],
)
def test_parameters_and_multiply_adds_are_those_counted_by_hand(depth, million, billion):
    with torch.device("meta"):
        net = ICNetZH320(19, depth).eval()
        plain = PublishedNet(depth)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in plain.parameters())
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(million, abs=0.01)
    if depth == "resnet18":  # published as 12.42 M, without the auxiliary heads
        evaluated = [p.numel() for name, p in net.named_parameters() if "aux_classifier" not in name]
        assert sum(evaluated) / 1e6 == pytest.approx(12.42, abs=0.005)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, 3, 1024, 2048, device="meta"))
    grow = 4 if depth in {"resnet50", "resnet101"} else 1
    image, top = 1024 * 2048, 512 * grow
    half = (image // 64, image // 256, 0)  # outputs of layers 1 and 2; the deeper ones are left out
    quarter = (image // 256, image // 1024, image // 1024)
    costs = (
        image // 4 * 27 * 32 + image // 16 * 288 * 64 + image // 64 * 576 * 128,  # sub1
        (image // 16 + image // 64) * 147 * 64,  # stems
        resnet_macs(depth, 64, half) + resnet_macs(depth, 64, quarter),
        (1 + 4 + 16 + 36) * top * top // 4 + image // 1024 * 2 * top * 256,  # pooling
        image // 256 * 128 * (9 * 256 + 128 * grow) + image // 64 * 128 * (9 * 128 + 128),  # fusions
        image // 16 * 128 * (9 * 128 + 19),  # head
    )
    assert counter.get_flop_counts()["Global"][torch.ops.aten.convolution] == 2 * sum(costs)
    assert sum(costs) / 1e9 == pytest.approx(billion, abs=0.01)
