"""The reference's network, written once more from its description and as plainly as possible.

It shares no code with ``icnet.models``, keeps the reference's parameter names, and does what the base
implementation does even where that is wasteful: the half-resolution image runs through the whole backbone, pooling is
adaptive pooling, the classifier sees 128 channels at a quarter of the resolution.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icnet.models.checkpoints import read_checkpoint

LAYERS = {
    "resnet18": (False, [2, 2, 2, 2]),
    "resnet34": (False, [3, 4, 6, 3]),
    "resnet50": (True, [3, 4, 6, 3]),
    "resnet101": (True, [3, 4, 23, 3]),
    "resnet152": (True, [3, 8, 36, 3]),
}


def stretch(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def conv3(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)


class ReferenceBlock(nn.Module):
    def __init__(self, inputs: int, width: int, deep: bool, stride: int, dilation: int, is_first: bool) -> None:
        super().__init__()
        outputs = 4 * width if deep else width
        halved = {1: 1, 2: 1, 4: 2}[dilation] if is_first else dilation
        if deep:
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.conv2 = conv3(width, width, stride, halved)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs, eps=1e-5)
        else:
            self.conv1 = conv3(inputs, width, stride, halved)
            self.conv2 = conv3(width, width, 1, dilation)
        self.bn1 = nn.BatchNorm2d(width, eps=1e-5)
        self.bn2 = nn.BatchNorm2d(width, eps=1e-5)
        self.deep = deep
        self.downsample = None
        if is_first and (stride != 1 or inputs != outputs):
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs, eps=1e-5)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.deep:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(shortcut + y)


class ReferenceBackbone(nn.Module):
    def __init__(self, depth: str) -> None:
        super().__init__()
        deep, counts = LAYERS[depth]
        grow = 4 if deep else 1
        self.conv1 = nn.Sequential(
            conv3(3, 64, stride=2), nn.BatchNorm2d(64, eps=1e-5), nn.ReLU(),
            conv3(64, 64), nn.BatchNorm2d(64, eps=1e-5), nn.ReLU(),
            conv3(64, 128),
        )  # fmt: skip
        self.bn1 = nn.BatchNorm2d(128, eps=1e-5)
        inputs = 128
        for number, (count, width, stride, dilation) in enumerate(
            zip(counts, (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4), strict=True), start=1
        ):
            blocks = []
            for i in range(count):
                blocks.append(ReferenceBlock(inputs, width, deep, stride if i == 0 else 1, dilation, i == 0))
                inputs = grow * width
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 1000)  # carried along, never used

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        middle = self.layer2(self.layer1(x))
        return middle, self.layer4(self.layer3(middle))


class ReferenceConvBNReLU(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv3(inputs, outputs, stride=2)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class ReferenceFusion(nn.Module):
    def __init__(self, low: int, high: int, classes: int) -> None:
        super().__init__()
        self.conv_low = nn.Sequential(conv3(low, 128, dilation=2), nn.BatchNorm2d(128, eps=1e-5))
        self.conv_high = nn.Sequential(nn.Conv2d(high, 128, 1, bias=False), nn.BatchNorm2d(128, eps=1e-5))
        self.conv_low_cls = nn.Conv2d(128, classes, 1, bias=False)

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        arm = self.conv_low(stretch(low, high.shape[2:]))
        return torch.relu(arm + self.conv_high(high)), self.conv_low_cls(arm)


class ReferenceHead(nn.Module):
    def __init__(self, top: int, middle: int, classes: int) -> None:
        super().__init__()
        self.cff_24 = ReferenceFusion(top, middle, classes)
        self.cff_12 = ReferenceFusion(128, 64, classes)
        self.conv_cls = nn.Conv2d(128, classes, 1, bias=False)

    def forward(self, sub1: Tensor, sub2: Tensor, sub4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused, sub4_logits = self.cff_24(sub4, sub2)
        fused, sub24_logits = self.cff_12(fused, sub1)
        double = stretch(fused, (2 * fused.shape[2], 2 * fused.shape[3]))
        return self.conv_cls(double), sub24_logits, sub4_logits


class ReferenceICNet(nn.Module):
    """Returns ``sub124``, ``sub24``, ``sub4`` and, at the image's size, ``full`` in both modes."""

    def __init__(self, depth: str, classes: int = 19) -> None:
        super().__init__()
        grow = 4 if LAYERS[depth][0] else 1
        self.conv_sub1 = nn.Sequential(
            ReferenceConvBNReLU(3, 32), ReferenceConvBNReLU(32, 32), ReferenceConvBNReLU(32, 64)
        )
        self.pretrained = ReferenceBackbone(depth)
        self.head = ReferenceHead(512 * grow, 128 * grow, classes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[2:]
        sub1 = self.conv_sub1(image)
        sub2, _ = self.pretrained(stretch(image, (height // 2, width // 2)))
        _, sub4 = self.pretrained(stretch(image, (height // 4, width // 4)))
        pooled = [stretch(F.adaptive_avg_pool2d(sub4, bins), sub4.shape[2:]) for bins in (1, 2, 3, 6)]
        sub124, sub24, coarse = self.head(sub1, sub2, sub4 + sum(pooled))
        return {"sub124": sub124, "sub24": sub24, "sub4": coarse, "full": stretch(sub124, (height, width))}


def randomise(net: nn.Module, seed: int) -> None:
    """Give every batch norm statistics and scales of its own, small enough to keep deep networks' outputs in range."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.3, 0.8), (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3), (module.running_var, 0.3, 1.0),
            ):  # fmt: skip
                tensor.data.uniform_(low, high, generator=generator)


@pytest.fixture
def through_scripts(script, small, street_root, tmp_path, count_alike) -> Callable[..., None]:
    """Take a published file with 19 classes through every script: ``through_scripts(path, model, "amp=...")``."""

    def run(path: Path, model: str, *overrides: str) -> None:
        def last(run: str) -> Path:
            return tmp_path / run / "checkpoints" / "last.ckpt"

        photo = next((street_root / "leftImg8bit" / "val").rglob("*.png"))
        onnx = tmp_path / "net.onnx"
        cpu = ("trainer=cpu_1p", "trainer.progress_bar=false")
        cityscapes = ("data=cityscapes", f"data.root={street_root}", "data.workers=0", *cpu)
        steps = (
            *small, f"model={model}", f"model.weights={path}", *overrides, "trainer.max_epochs=1",
            "trainer.limit_val_batches=0", "callbacks.checkpoint_every_n_steps=1",
        )  # fmt: skip
        commands = (
            ("train", *steps, "trainer.max_steps=1", f"hydra.run.dir={tmp_path / 'one'}"),
            ("train", *steps, "trainer.max_steps=2", f"resume={last('one')}", f"hydra.run.dir={tmp_path / 'two'}"),
            ("eval", f"ckpt={path}", *cityscapes, f"hydra.run.dir={tmp_path / 'of_torch'}"),
            ("export", f"ckpt={path}", "export.height=64", "export.width=128", "export.dynamic_size=true",
             f"output={onnx}"),
            ("eval", f"ckpt={onnx}", *cityscapes, f"hydra.run.dir={tmp_path / 'of_onnx'}"),
            ("demo", f"ckpt={path}", f"input={photo}", f"output={tmp_path / 'shown'}", "device=cpu"),
        )  # fmt: skip
        for command in commands:
            done = script(*command)
            assert done.status == 0, done.err
        start, one, two = (read_checkpoint(file).state_dict for file in (path, last("one"), last("two")))
        for before, after in ((start, one), (one, two)):
            counts = ".num_batches_tracked"  # which some files lack
            assert {key for key in before if not key.endswith(counts)} == {
                key for key in after if not key.endswith(counts)
            }
            moved = [key for key in before if not torch.equal(before[key], after[key])]
            assert any(key.endswith(".weight") for key in moved)
        torch_scores, onnx_scores = (
            json.loads((tmp_path / name / "results.json").read_text()) for name in ("of_torch", "of_onnx")
        )
        assert count_alike(torch_scores, onnx_scores)
        assert list((tmp_path / "shown").rglob("*_ids.png"))

    return run


@pytest.fixture
def make_reference() -> Callable[..., ReferenceICNet]:
    """Build a reference network with random weights and statistics: ``make_reference(depth, classes=19, seed=0)``."""

    def make(depth: str, classes: int = 19, seed: int = 0) -> ReferenceICNet:
        torch.manual_seed(seed)
        net = ReferenceICNet(depth, classes)
        randomise(net, seed)
        return net

    return make
