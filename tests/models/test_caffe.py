"""The author's ``.caffemodel`` files, made here byte by byte, against the plain network of ``test_icnet_paper``."""

import logging
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from icnet.errors import UserError
from icnet.models import build_network
from icnet.models.__main__ import main
from icnet.models.caffe import read_caffemodel
from icnet.models.checkpoints import load_weights, read_checkpoint
from icnet.models.network import NetworkDescription
from tests.models.test_icnet_paper import PublishedNet, as_published, published, rgb_noise

# ---------------------------------------------------------------- writing such files


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, text, packed numbers or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(values: Tensor, *, old: bool = False, double: bool = False) -> bytes:
    """A BlobProto; ``old`` has four sides instead of a shape."""
    if old:
        sides = [1] * (4 - values.dim()) + list(values.shape)
        shape = b"".join(varint(number << 3) + varint(side) for number, side in enumerate(sides, start=1))
    else:
        shape = field(7, field(1, b"".join(map(varint, values.shape))))
    numbers = values.flatten().tolist()
    data = field(8 if double else 5, struct.pack(f"<{len(numbers)}{'d' if double else 'f'}", *numbers))
    return data + shape


def layer(name: str, blobs: Iterable[Tensor], **form: bool) -> bytes:
    parts = b"".join(field(7, blob(values, **form)) for values in blobs)
    # Besides what is read: type (2), bottom (3), phase (10) and a convolution_param (106) with bias_term (2).
    rest = field(2, b"Convolution") + field(3, b"data") + b"\x50\x01" + field(106, b"\x10\x00")
    return field(100, field(1, name.encode()) + rest + parts)


UNITS = {
    "cbr1.cbr_unit": "1x1_reduce",
    "cbr2.cbr_unit": "3x3",
    "cb3.cb_unit": "1x1_increase",
    "cb4.cb_unit": "1x1_proj",
}
PLACES = {
    "convbnrelu1_1.cbr_unit": "conv1_1_3x3_s2", "convbnrelu1_2.cbr_unit": "conv1_2_3x3",
    "convbnrelu1_3.cbr_unit": "conv1_3_3x3", "convbnrelu1_sub1.cbr_unit": "conv1_sub1",
    "convbnrelu2_sub1.cbr_unit": "conv2_sub1", "convbnrelu3_sub1.cbr_unit": "conv3_sub1",
    "conv5_4_k1.cbr_unit": "conv5_4_k1", "cff_sub24.low_dilated_conv_bn.cb_unit": "conv_sub4",
    "cff_sub24.high_proj_conv_bn.cb_unit": "conv3_1_sub2_proj", "cff_sub12.low_dilated_conv_bn.cb_unit": "conv_sub2",
    "cff_sub12.high_proj_conv_bn.cb_unit": "conv3_sub1_proj",
    **{
        f"{block}.layers.{number}.{unit}": f"{stage}_{number + first}_{name}"
        for block, stage, first, count in (
            ("res_block2", "conv2", 1, 3), ("res_block3_conv", "conv3", 1, 1), ("res_block3_identity", "conv3", 2, 3),
            ("res_block4", "conv4", 1, 6), ("res_block5", "conv5", 1, 3),
        )
        for number in range(count)
        for unit, name in UNITS.items()
    },
}  # fmt: skip
"""Where pytorch-semseg's network has what the author's file calls by a layer's name."""
CLASSIFIERS = {
    "classification": "conv6_cls", "cff_sub24.low_classifier_conv": "conv6_sub4",
    "cff_sub12.low_classifier_conv": "conv6_sub2",
}  # fmt: skip


def author_layers(net: nn.Module, *, merged: bool) -> dict[str, list[Tensor]]:
    layers, units = {}, dict(net.named_modules())
    for place, name in PLACES.items():
        if place not in units:
            continue  # a projection, which only the first block of a layer has
        conv, bn = units[place]
        if merged:
            scale = bn.weight / (bn.running_var + bn.eps).sqrt()
            layers[name] = [conv.weight * scale.view(-1, 1, 1, 1), bn.bias - bn.running_mean * scale]
        else:
            layers[name] = [conv.weight]
            layers[f"{name}/bn"] = [bn.weight, bn.bias, bn.running_mean, bn.running_var]
    for place, name in CLASSIFIERS.items():
        layers[name] = [units[place].weight, units[place].bias]
    return layers


def save(layers: Mapping[str, Iterable[Tensor]], path: Path, **form: bool) -> Path:
    path.write_bytes(field(1, b"icnet") + b"".join(layer(name, blobs, **form) for name, blobs in layers.items()))
    return path


def open_net(path: Path) -> nn.Module:
    checkpoint = read_checkpoint(path)
    assert (checkpoint.kind, checkpoint.network) == ("caffe", NetworkDescription("icnet_paper", {}, 11))
    net = build_network("icnet_paper", 11).eval().requires_grad_(False)
    load_weights(net, checkpoint.state_dict, path)
    return net


@pytest.fixture(scope="module")
def plain() -> PublishedNet:
    return published(11).eval().requires_grad_(False)


# ---------------------------------------------------------------- whole networks


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("form", [{}, {"old": True}, {"double": True}])
def test_author_files_give_the_logits_of_rgb_images(merged, form, plain, tmp_path):
    net = open_net(save(author_layers(plain, merged=merged), tmp_path / "icnet.caffemodel", **form))
    for image in (rgb_noise(64, 64), rgb_noise(129, 97)):
        wanted = plain(as_published(image).float())
        logits = net(net.normalizer()(image))
        assert wanted["full"].std() > 0.02
        torch.testing.assert_close(logits, wanted["full"], atol=1e-4 * wanted["full"].abs().max().item(), rtol=0)


def test_auxiliary_classifiers_are_read(plain, tmp_path):
    net = open_net(save(author_layers(plain, merged=False), tmp_path / "icnet.caffemodel"))
    assert torch.equal(net.cff_24.aux_classifier.weight, plain.cff_sub24.low_classifier_conv.weight)
    assert torch.equal(net.cff_12.aux_classifier.bias, plain.cff_sub12.low_classifier_conv.bias)


def test_file_without_auxiliary_classifiers_has_zeros_there(plain, tmp_path, caplog):
    layers = author_layers(plain, merged=True)
    for name in ("conv6_sub4", "conv6_sub2"):
        del layers[name]
    net = open_net(save(layers, tmp_path / "icnet.caffemodel"))
    assert net.cff_24.aux_classifier.weight.shape == (11, 256, 1, 1)
    assert not net.cff_24.aux_classifier.weight.any()
    image = rgb_noise(64, 64)
    wanted = plain(as_published(image).float())["full"]
    torch.testing.assert_close(net(net.normalizer()(image)), wanted, atol=1e-4 * wanted.abs().max().item(), rtol=0)
    assert "has no auxiliary classifiers" in caplog.text


def test_merged_normalisation_adds_its_bias_to_the_last_bit(tmp_path):
    path = save({"conv1_1_3x3_s2": [torch.zeros(32, 3, 3, 3), torch.randn(32)]}, tmp_path / "one.caffemodel")
    tensors = read_caffemodel(path)
    bn = nn.BatchNorm2d(32).eval()
    names = ("weight", "bias", "running_mean", "running_var")
    bn.load_state_dict({name: tensors[f"conv1_1_3x3_s2/bn.{name}"] for name in names}, strict=False)
    x = torch.randn(1, 32, 4, 4)
    assert torch.equal(bn(x), x + bn.bias.view(1, -1, 1, 1))


def test_unused_pooling_is_left_over_and_told(plain, tmp_path, capsys):
    layers = author_layers(plain, merged=False) | {"conv5_3_pool1_conv": [torch.zeros(256, 1024, 1, 1)]}
    assert main([str(save(layers, tmp_path / "icnet.caffemodel"))]) == 0
    out = capsys.readouterr().out
    for words in ("layout      caffe:", "icnet_paper", "11, not named", "left over   conv5_3_pool1_conv.weight",
                  "missing     nothing", "mean 123.68 116.78 103.94"):  # fmt: skip
        assert words in out


@pytest.mark.slow
def test_author_file_goes_through_every_script(through_scripts, tmp_path):
    layers = author_layers(published(), merged=False)
    through_scripts(save(layers, tmp_path / "icnet.caffemodel"), "icnet_paper")


# ---------------------------------------------------------------- files that are none


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.77, 0.999])
def test_file_cut_anywhere_is_refused_in_one_line(share, plain, tmp_path):
    path = save(author_layers(plain, merged=False), tmp_path / "cut.caffemodel")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"cut\.caffemodel .*is truncated or no \.caffemodel; .*again") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_file_cut_between_two_layers_lacks_the_rest_by_name(plain, tmp_path):
    layers = dict(list(author_layers(plain, merged=False).items())[:-9])
    path = save(layers | {"conv6_cls": [torch.zeros(11, 128, 1, 1), torch.zeros(11)]}, tmp_path / "short.caffemodel")
    checkpoint = read_checkpoint(path)
    with pytest.raises(UserError, match=r"short\.caffemodel does not fit this network: \d+ missing \(backbone"):
        load_weights(build_network("icnet_paper", 11), checkpoint.state_dict, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no layer with weights"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "truncated or no .caffemodel|no layer with weights"),
        (layer("data", []), "no layer with weights"),
        (layer("conv1_1_3x3_s2", [torch.zeros(2, 3)])[:-1] + b"\x04", r"6 numbers for a blob of \(2, 4\)"),
        (layer("conv2d_1", [torch.zeros(2, 3)]), r"no checkpoint of a network \(its first keys: conv2d_1\.weight\)"),
    ],
)
def test_other_files_are_refused(content, words, tmp_path):
    path = tmp_path / "other.caffemodel"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_checkpoint(path)


def test_missing_checksums_are_told(plain, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "icnet")
    read_checkpoint(save(author_layers(plain, merged=False), tmp_path / "icnet.caffemodel"))
    assert "holds no checksums" in caplog.text
