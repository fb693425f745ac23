"""A checkpoint's network compiled by torch."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import icnet
from icnet.config import RuntimeConfig
from icnet.data.labels import ClassTable
from icnet.deploy import open_segmenter
from icnet.deploy.runtimes import torch_segmenter
from icnet.deploy.runtimes.torch_segmenter import TorchSegmenter
from icnet.errors import UserError
from icnet.models.modules import CascadeFeatureFusion, ConvBNReLU, resize
from icnet.models.network import SegmentationNetwork
from icnet.models.pooling import PyramidPooling

CPU = torch.device("cpu")


@pytest.fixture
def eager(checkpoint):
    return open_segmenter(checkpoint, CPU)


@pytest.fixture
def stand_in(monkeypatch):
    """torch.compile that compiles nothing and remembers what it was given."""
    calls = []

    def compile_(function, **options):
        assert options == {"dynamic": False}
        return lambda image: calls.append(tuple(image.shape)) or function(image)

    monkeypatch.setattr(torch, "compile", compile_)
    return calls


class SmallCascade(SegmentationNetwork):
    """Of what a cascade consists of, little: compilers take minutes for a whole one."""

    def __init__(self) -> None:
        super().__init__(5)
        self.fine, self.coarse = ConvBNReLU(3, 8, 3, stride=4), ConvBNReLU(8, 16, 3, stride=2)
        self.pooling, self.classifier = PyramidPooling(), nn.Conv2d(12, 5, 1)
        self.fusion = CascadeFeatureFusion(16, 8, 12, lambda channels: nn.Conv2d(channels, 5, 1))

    def forward(self, image):
        fine = self.fine(image)
        fused, _ = self.fusion(self.pooling(self.coarse(fine)), fine)
        return resize(self.classifier(fused), (image.shape[2], image.shape[3]))


@pytest.mark.slow
def test_compiled_network_gives_the_same_labels(normalizer, image):
    torch.manual_seed(0)
    classes = ClassTable(tuple("abcde"), ((0, 0, 0),) * 5)
    eager, compiled = (TorchSegmenter(net, normalizer, classes) for net in [SmallCascade().eval()] * 2)
    compiled.compile_network()
    assert compiled.runtime == "torch (compiled)"
    assert compiled(image).is_contiguous(memory_format=torch.channels_last) == eager(image).is_contiguous(
        memory_format=torch.channels_last
    )
    torch.testing.assert_close(compiled(image), eager(image), atol=1e-5, rtol=0)
    assert (compiled.labels(image) == eager.labels(image)).float().mean() > 0.999
    with torch.autocast("cpu", torch.bfloat16):
        rounded = compiled(image)
    assert rounded.dtype == torch.bfloat16
    assert not torch.equal(rounded.float(), eager(image))
    assert (rounded.argmax(1) == eager(image).argmax(1)).float().mean() > 0.95
    assert len(compiled._compiled_for) == 2


def test_every_size_is_compiled_once_up_to_the_most_and_told(checkpoint, eager, stand_in, monkeypatch, caplog):
    monkeypatch.setattr(torch_segmenter, "MOST_COMPILED", 2)
    segmenter = open_segmenter(checkpoint, CPU, compiled=True)
    with caplog.at_level(logging.INFO):
        for width in (64, 64, 80, 96, 112, 80):
            image = torch.full((1, 3, 64, width), 90, dtype=torch.uint8)
            assert torch.equal(segmenter(image), eager(image))
    assert stand_in == [(1, 3, 64, width) for width in (64, 64, 80, 80)]
    said = [record.message for record in caplog.records if record.name == torch_segmenter.log.name]
    assert said == [
        "compiling for 1 x 64x64, size 1 of 2 at most", "compiling for 1 x 64x80, size 2 of 2 at most",
        "images of 64x96 and other new sizes are not compiled: it has been done for 2",
    ]  # fmt: skip


def test_image_that_is_too_small_is_not_the_compilers_mistake(checkpoint, stand_in):
    segmenter = open_segmenter(checkpoint, CPU, compiled=True)
    with pytest.raises(UserError, match="32x64 .* is too small for ICNet"):
        segmenter(torch.zeros(1, 3, 32, 64, dtype=torch.uint8))
    assert stand_in == []


def test_devices_without_a_compiler_and_other_files_are_refused(checkpoint, stand_in, tmp_path):
    segmenter = open_segmenter(checkpoint, CPU, compiled=True)
    with pytest.raises(UserError, match="compile=true is for cpu and cuda and not for meta; leave it out"):
        segmenter(torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device="meta"))

    class Other(TorchSegmenter.__base__):  # what does not say how it compiles
        def forward(self, image):
            return image

        @classmethod
        def open(cls, path, device):
            return cls(segmenter.classes, {}, path)

    with pytest.raises(UserError, match=r"compile=true is for checkpoints and not for net\.onnx; leave it out"):
        Other.open(Path("net.onnx"), CPU).compile_network()
    assert RuntimeConfig().compile is False
    assert icnet.load(checkpoint, "cpu", compile=True).runtime == "torch (compiled)"


@pytest.mark.slow
def test_machine_without_a_compiler_gives_one_line(checkpoint, tmp_path):
    program = (
        "import sys, numpy, icnet\n"
        "try: icnet.load(sys.argv[1], 'cpu', compile=True)(numpy.zeros((64, 64, 3), numpy.uint8))\n"
        "except icnet.UserError as error: print('told:', error)\n"
    )
    environment = os.environ | {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(checkpoint)], env=environment, capture_output=True, text=True, check=False
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("told:")]
    assert len(told) == 1, done.stderr
    assert "compile=true does not work here" in told[0]
    assert "install a C++ compiler" in told[0]
