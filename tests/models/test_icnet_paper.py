"""The author's ICNet as pytorch-semseg converted it, written once more from ``torch.nn`` with its file's names."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from icnet.models import build_network
from icnet.models.checkpoints import load_weights, read_checkpoint
from icnet.models.icnet_paper import WINDOWS, ICNetPaper, _say_adaptive
from icnet.models.network import NetworkDescription
from icnet.models.pooling import PyramidPooling
from icnet.models.published import from_semseg
from tests.models.conftest import randomise
from tests.models.plain import assert_trains_alike, layout_sha256

# Of the published file's keys and shapes, see layout_sha256.
LAYOUT = (408, "750191e7e0cbb15e840575cb3a8b8181c784d8ca4acb4f44683756b6ee1891fc")
BGR_MEAN = (103.939, 116.779, 123.68)

enlarge = partial(F.interpolate, mode="bilinear", align_corners=True)


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Cbr(nn.Module):
    def __init__(self, *args: int) -> None:
        super().__init__()
        self.cbr_unit = unit(*args)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.cbr_unit(x))


class Cb(nn.Module):
    def __init__(self, *args: int) -> None:
        super().__init__()
        self.cb_unit = unit(*args)

    def forward(self, x: Tensor) -> Tensor:
        return self.cb_unit(x)


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, dilation: int, *, projected: bool) -> None:
        super().__init__()
        self.cbr1 = Cbr(inputs, width, 1, stride)
        self.cbr2 = Cbr(width, width, 3, 1, dilation)
        self.cb3 = Cb(width, 4 * width, 1)
        self.projected = projected
        if projected:
            self.cb4 = Cb(inputs, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.cb3(self.cbr2(self.cbr1(x))) + (self.cb4(x) if self.projected else x))


class Blocks(nn.Module):
    def __init__(self, width: int, dilation: int, count: int, stride: int = 1, *, inputs: int | None = None) -> None:
        super().__init__()
        first = [] if inputs is None else [Block(inputs, width, stride, dilation, projected=True)]
        rest = [Block(4 * width, width, 1, dilation, projected=False) for _ in range(count - len(first))]
        self.layers = nn.Sequential(*first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Pooling(nn.Module):
    """Windows as released for 33x65, adaptive ones otherwise; the convolutions are in the file and never used."""

    def __init__(self) -> None:
        super().__init__()
        self.path_module_list = nn.ModuleList(Cbr(1024, 256, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return pooled_plainly(x)


def pooled_plainly(x: Tensor) -> Tensor:
    size, total = x.shape[2:], x
    for bins, kernel, stride in (
        (1, (33, 65), (33, 65)), (2, (17, 33), (16, 32)), (3, (13, 25), (10, 20)), (6, (8, 15), (5, 10)),
    ):  # fmt: skip
        fixed = tuple(size) == (33, 65)
        pooled = F.avg_pool2d(x, kernel, stride) if fixed else F.adaptive_avg_pool2d(x, bins)
        assert tuple(pooled.shape[2:]) == (bins, bins)
        total = total + enlarge(pooled, size=size)
    return total


class Fusion(nn.Module):
    def __init__(self, low: int, high: int, classes: int) -> None:
        super().__init__()
        self.low_dilated_conv_bn = Cb(low, 128, 3, 1, 2)
        self.low_classifier_conv = nn.Conv2d(low, classes, 1)
        self.high_proj_conv_bn = Cb(high, 128, 1)

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        low = enlarge(low, size=high.shape[2:])  # from n to 2 n - 1 as published, where sides are 32 k + 1
        return torch.relu(self.low_dilated_conv_bn(low) + self.high_proj_conv_bn(high)), self.low_classifier_conv(low)


class PublishedNet(nn.Module):
    """Takes BGR images, 0-255, without their mean."""

    def __init__(self, classes: int = 19) -> None:
        super().__init__()
        self.convbnrelu1_1, self.convbnrelu1_2, self.convbnrelu1_3 = Cbr(3, 32, 3, 2), Cbr(32, 32, 3), Cbr(32, 64, 3)
        self.res_block2 = Blocks(32, 1, 3, inputs=64)
        self.res_block3_conv = Blocks(64, 1, 1, 2, inputs=128)
        self.res_block3_identity = Blocks(64, 1, 3)
        self.res_block4 = Blocks(128, 2, 6, inputs=256)
        self.res_block5 = Blocks(256, 4, 3, inputs=512)
        self.pyramid_pooling = Pooling()
        self.conv5_4_k1 = Cbr(1024, 256, 1)
        self.convbnrelu1_sub1, self.convbnrelu2_sub1 = Cbr(3, 32, 3, 2), Cbr(32, 32, 3, 2)
        self.convbnrelu3_sub1 = Cbr(32, 64, 3, 2)
        self.classification = nn.Conv2d(128, classes, 1)
        self.cff_sub24, self.cff_sub12 = Fusion(256, 256, classes), Fusion(128, 64, classes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        half = enlarge(image, size=[(side - 1) // 2 + 1 for side in image.shape[2:]])
        x = self.convbnrelu1_3(self.convbnrelu1_2(self.convbnrelu1_1(half)))
        sub2 = self.res_block3_conv(self.res_block2(F.max_pool2d(x, 3, 2, 1)))
        x = enlarge(sub2, size=[(side - 1) // 2 + 1 for side in sub2.shape[2:]])
        x = self.res_block5(self.res_block4(self.res_block3_identity(x)))
        sub4 = self.conv5_4_k1(self.pyramid_pooling(x))
        sub1 = self.convbnrelu3_sub1(self.convbnrelu2_sub1(self.convbnrelu1_sub1(image)))
        fused, coarse = self.cff_sub24(sub4, sub2)
        fused, fine = self.cff_sub12(fused, sub1)
        logits = self.classification(enlarge(fused, size=[2 * side - 1 for side in fused.shape[2:]]))
        return {"sub124": logits, "sub24": fine, "sub4": coarse, "full": enlarge(logits, size=image.shape[2:])}


def published(classes: int = 19) -> PublishedNet:
    torch.manual_seed(0)
    net = PublishedNet(classes)
    randomise(net, 0)
    return net


def save_as_published(net: nn.Module, path: Path) -> Path:
    tensors = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"epoch": 90000, "model_state": tensors, "best_iou": np.float64(0.67)}, path)
    return path


def rgb_noise(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def as_published(image: Tensor) -> Tensor:
    """From RGB, uint8, to what the published network takes."""
    return image.flip(1).double() - torch.tensor(BGR_MEAN, dtype=torch.float64).view(1, 3, 1, 1)


@pytest.fixture
def file_and_plain(tmp_path) -> tuple[Path, PublishedNet]:
    plain = published(11).eval().requires_grad_(False)
    return save_as_published(plain, tmp_path / "icnetBN.pth"), plain


def read(path: Path) -> ICNetPaper:
    checkpoint = read_checkpoint(path)
    assert (checkpoint.kind, checkpoint.network) == ("semseg", NetworkDescription("icnet_paper", {}, 11))
    net = build_network("icnet_paper", 11).eval().requires_grad_(False)
    load_weights(net, checkpoint.state_dict, path)
    return net


# ---------------------------------------------------------------- against the plain network


def test_plain_network_has_every_key_and_shape_of_the_published_file():
    with torch.device("meta"):
        tensors = PublishedNet().state_dict()
    assert (len(tensors), layout_sha256(tensors)) == LAYOUT


def test_network_read_from_a_published_file_gives_its_logits_of_rgb_images(file_and_plain):
    path, plain = file_and_plain
    net, plain = read(path).double(), plain.double()
    normalizer = net.normalizer()
    for height, width in ((64, 64), (129, 161), (130, 99), (97, 162)):
        image = rgb_noise(height, width)
        logits, wanted = net(normalizer(image).double()), plain(as_published(image))["full"]
        assert wanted.std() > 0.02  # logits near zero would prove nothing
        # The normaliser computes in float32.
        torch.testing.assert_close(logits, wanted, atol=1e-5 * wanted.abs().max().item(), rtol=0)


@pytest.mark.slow
def test_logits_at_the_published_size_are_pooled_by_the_published_windows(file_and_plain, caplog):
    path, plain = file_and_plain
    net, image = read(path), rgb_noise(1025, 2049)
    _say_adaptive.cache_clear()
    logits, wanted = net(net.normalizer()(image)), plain(as_published(image).float())["full"]
    torch.testing.assert_close(logits, wanted, atol=1e-4 * wanted.abs().max().item(), rtol=0)
    assert "adaptively" not in caplog.text


def test_training_outputs_gradients_and_statistics_equal_the_plain_network():
    plain, net = published(7), ICNetPaper(7)
    net.load_state_dict(from_semseg(plain.state_dict()), strict=True)
    image = torch.randn(2, 3, 64, 97, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    class Swapped(nn.Module):
        """The plain network on RGB images."""

        def __init__(self) -> None:
            super().__init__()
            self.module = plain.double()

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return self.module(image.flip(1))

    def translate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return from_semseg({key: value for key, value in tensors.items() if "path_module_list" not in key})

    assert_trains_alike(net.double(), Swapped(), translate, image)


# ---------------------------------------------------------------- pooling


@pytest.mark.parametrize("size", [(33, 65), (32, 64), (33, 64), (65, 33), (3, 5)])
def test_windows_are_the_published_ones_at_one_size_and_adaptive_elsewhere(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(PyramidPooling(windows=WINDOWS)(x), pooled_plainly(x), atol=1e-12, rtol=0)


def test_graph_of_dynamic_size_chooses_the_windows_by_the_size(tmp_path):
    pooling, path = PyramidPooling(windows=WINDOWS).eval(), tmp_path / "pooling.onnx"
    pooling.symbolic_size = True
    axes = {2: "height", 3: "width"}
    torch.onnx.export(
        pooling, (torch.zeros(1, 2, 20, 30),), str(path), dynamo=False, opset_version=11, input_names=["x"],
        output_names=["y"], dynamic_axes={"x": axes, "y": axes},
    )  # fmt: skip
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path)
    for size in ((33, 65), (32, 64), (33, 64), (32, 65)):
        x = torch.randn(1, 2, *size)
        (y,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(y, pooled_plainly(x).numpy(), atol=1e-5)


def test_log_says_once_that_other_sizes_are_pooled_adaptively(caplog):
    caplog.set_level(logging.WARNING, "icnet")
    _say_adaptive.cache_clear()
    net = ICNetPaper(3).eval()
    for _ in range(2):
        net(torch.zeros(1, 3, 64, 64))
    assert caplog.text.count("published pooling windows for images of 1025x2049 alone") == 1


# ---------------------------------------------------------------- files


@pytest.mark.slow
def test_published_file_goes_through_every_script(through_scripts, tmp_path):
    through_scripts(save_as_published(published(), tmp_path / "icnetBN.pth"), "icnet_paper", "amp=bf16")


def test_input_is_0_to_255_without_the_mean_in_rgb():
    image = torch.tensor([[0, 0, 0], [255, 127, 1]], dtype=torch.uint8).view(2, 3, 1, 1)
    out = ICNetPaper(3).normalizer()(image).view(2, 3)
    wanted = torch.tensor([[-123.68, -116.779, -103.939], [255 - 123.68, 127 - 116.779, 1 - 103.939]])
    torch.testing.assert_close(out, wanted, atol=1e-4, rtol=0)


# ---------------------------------------------------------------- size and cost


def test_parameters_and_multiply_adds_are_the_published_ones():
    with torch.device("meta"):
        net, plain = ICNetPaper(19).eval(), PublishedNet()
    unused = sum(p.numel() for p in plain.pyramid_pooling.parameters())
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in plain.parameters()) - unused == 6_707_321
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, 3, 1024, 2048, device="meta"))
    image = 1024 * 2048

    def blocks(pixels: int, inputs: int, width: int, count: int) -> int:
        """Multiply-adds of blocks at one size, the first with a projection."""
        one = width * 9 * width + width * 4 * width
        return pixels * (inputs * width + inputs * 4 * width + (count - 1) * 4 * width * width + count * one)

    sub2, sub4 = image // 16 // 16, image // 16 // 64
    costs = (
        image // 4 * 27 * 32 + image // 16 * 288 * 32 + image // 64 * 288 * 64,  # sub1
        image // 16 * (27 * 32 + 288 * 32 + 288 * 64) + blocks(image // 64, 64, 32, 3) + blocks(sub2, 128, 64, 1),
        3 * sub4 * (256 * 64 + 64 * 9 * 64 + 64 * 256) + blocks(sub4, 256, 128, 6) + blocks(sub4, 512, 256, 3),
        sub4 * 1024 * 256 + sub2 * 128 * (9 * 256 + 256),  # conv_sub4, cff_24
        image // 64 * 128 * (9 * 128 + 64 + 19),  # cff_12, classifier at 1/8
    )
    assert counter.get_flop_counts()["Global"][torch.ops.aten.convolution] == 2 * sum(costs)
    assert sum(costs) / 1e9 == pytest.approx(29, abs=0.5)  # published as 29
