"""``python -m icnet.models FILE``: what a file of weights is."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.deploy.identify import describe_input
from icnet.models import NETWORKS
from icnet.models.__main__ import main
from icnet.models.checkpoints import left_out
from icnet.models.icnet_lite0 import ICNetLite0
from icnet.models.modules import ImageNormalizer
from icnet.models.nearest import nearest_layouts, outline
from icnet.models.network import NetworkDescription
from icnet.models.published import LAYOUTS, from_semseg

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "old_checkpoints" / "v0.1_resnet18.ckpt"
STEM = "backbone.stem.0.conv.weight"


@pytest.fixture
def told(capsys):
    """The lines of a file that can be used, by their names: ``told(path)["layout"]``."""

    def tell(path: Path) -> dict[str, str]:
        assert main([str(path)]) == 0
        found = capsys.readouterr()
        assert "error" not in found.err
        first, *lines = found.out.splitlines()
        assert first == str(path)
        return {line[2:14].strip(): line[14:] for line in lines}

    return tell


@pytest.fixture
def refused(capsys, monkeypatch):
    """The report on a file that cannot be used, and the one line."""
    monkeypatch.setattr(logging.root, "handlers", [])  # those of scripts that ran in this process

    def refuse(path: Path) -> tuple[list[str], str]:
        assert main([str(path)]) == 2
        found = capsys.readouterr()
        (line,) = (line for line in found.err.splitlines() if line.startswith("error: "))
        assert "Traceback" not in found.err
        return found.out.splitlines(), line

    return refuse


def deep_stem(resnet: nn.Module, to_reference) -> dict:
    """The tensors of a network's backbone, as files of ImageNet weights name them."""
    renamed = to_reference({f"backbone.{key}": value for key, value in resnet.state_dict().items()})
    return {key.removeprefix("pretrained."): value for key, value in renamed.items()}


def test_checkpoint_of_ours_is_told_with_its_classes_and_its_run_state(told):
    found = told(OLD)
    assert found["layout"] == "icnet: ours, of version 0.1.0"
    assert found["network"] == "icnet_resnet18 (name=icnet, backbone=resnet18, quarter_branch=image, enlarge=1)"
    assert found["classes"] == f"19: {', '.join(CITYSCAPES_CLASSES.names)}"
    assert found["trained on"] == "street (synthetic)"
    assert found["loads"] == "183 tensors of float32; the network has 12.1 M parameters"
    assert (found["missing"], found["left over"]) == ("nothing", "nothing")
    assert found["opens as"] == "ckpt=, model.weights=, resume="


def test_tensor_that_a_translation_turns_around_is_not_left_over():
    first, unused = "module.convbnrelu1_1.cbr_unit.0.weight", "module.pyramid_pooling.path.cbr_unit.0.weight"
    tensors = {first: torch.rand(32, 3, 3, 3), unused: torch.rand(1)}  # blue, green and red go in
    assert not torch.equal(*(made[key] for made, key in ((from_semseg(tensors), STEM), (tensors, first))))
    assert left_out(tensors, from_semseg) == (unused,)


def test_input_is_told_in_pixels_with_the_smallest_side(told):
    # 255 times (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)
    expected = "RGB, (pixel - mean) / std, of pixels from 0 to 255 with mean 123.68 116.28 103.53"
    assert told(OLD)["input"] == f"{expected} and std 58.395 57.12 57.375; sides of at least 64 pixels"


class FromCaffe(ImageNormalizer):
    """Blue first, minus a mean."""

    def forward(self, image):
        return image.flip(1).float() - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)


class Gray(ImageNormalizer):
    """Three times the mean of the channels."""

    def forward(self, image):
        return image.float().mean(1, keepdim=True).expand(-1, 3, -1, -1)


def test_order_mean_and_deviation_are_told_by_what_a_normalizer_does():
    of_lite0 = describe_input(ImageNormalizer(ICNetLite0.mean, ICNetLite0.std))
    assert of_lite0.startswith("RGB, ")
    assert of_lite0.endswith("with mean 127 127 127 and std 128 128 128")
    of_caffe = describe_input(FromCaffe())
    assert of_caffe.startswith("BGR, ")
    assert of_caffe.endswith("with mean 103.94 116.78 123.68 and std 1 1 1")
    assert "makes others" in describe_input(Gray())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_reference_file_is_told_with_what_is_left_over(told, net, save_reference, tmp_path, prefix):
    found = told(save_reference(net, tmp_path / "icnet.pth", prefix))
    assert found["layout"] == "reference: pretrained.*, conv_sub1.*, head.*"
    assert found["network"] == "icnet_resnet18 (name=icnet, backbone=resnet18, quarter_branch=image, enlarge=1)"
    assert found["classes"].startswith("19, not named and taken for Cityscapes': road, sidewalk, ")
    assert found["trained on"] == "unknown data"
    assert found["left over"] == f"{prefix}pretrained.fc.weight"
    assert found["opens as"] == "ckpt=, model.weights="


def test_classes_without_names_are_counted_and_number_formats_told(told, make_net, save_reference, tmp_path):
    found = told(save_reference(make_net(7).half(), tmp_path / "icnet.pth"))
    assert found["classes"] == "7, not named"
    assert found["loads"].startswith("183 tensors of float16; ")


def test_imagenet_weights_are_told_with_the_network_they_are_for(told, net, to_reference, tmp_path):
    tensors = {f"module.{key}": value for key, value in deep_stem(net.backbone, to_reference).items()}
    torch.save(tensors, tmp_path / "resnet18.pth")
    found = told(tmp_path / "resnet18.pth")
    assert found["layout"] == "ImageNet weights of icnet"
    assert found["network"] == "the backbone of icnet_resnet18"
    assert found["left over"] == "fc.weight"
    assert found["opens as"] == "model=icnet_resnet18 model.backbone_weights="


def test_file_that_lacks_tensors_is_reported_and_refused(refused, net, save_ours, tmp_path):
    path = save_ours(net, tmp_path / "x.ckpt")
    content = torch.load(path, weights_only=True)
    for key in ("net.sub1.0.bn.weight", "net.classifier.weight", "net.backbone.layer4.1.bn2.num_batches_tracked"):
        del content["state_dict"][key]
    content["state_dict"]["net.more"] = content["state_dict"]["stray"] = torch.ones(1)
    torch.save(content, path)
    report, line = refused(path)
    assert "  loads       180 tensors of float32; the network has 12.1 M parameters" in report
    assert "  missing     sub1.0.bn.weight, classifier.weight" in report
    assert "  left over   more, stray" in report
    assert not any(line.startswith("  opens as") for line in report)
    assert "2 missing (sub1.0.bn.weight, classifier.weight); 1 unexpected (more)" in line


def test_unknown_file_gets_the_three_nearest_layouts_and_the_first_keys_that_differ(
    refused, net, to_reference, tmp_path
):
    tensors = deep_stem(net.backbone, to_reference)
    tensors["conv1.0.weight"] = torch.ones(32, 3, 3, 3)
    tensors["neck.weight"] = torch.ones(5)
    del tensors["layer4.1.bn2.bias"]
    torch.save(tensors, tmp_path / "x.pth")
    report, line = refused(tmp_path / "x.pth")
    # 16 convolutions in blocks, 3 in the stem, 4 in shortcuts, each with the 5 tensors of a batch normalisation
    names = (16 + 3 + 4) * 6 - 2
    assert report[0] == f"{tmp_path / 'x.pth'}: {names + 3} tensors, nearest to"
    assert report[1].startswith(f"  ImageNet weights of icnet, icnet_resnet18: {names} suit by name and shape, ")
    wrong = "conv1.0.weight (32, 3, 3, 3) instead of (64, 3, 3, 3)"
    assert report[2] == f"    differing: {wrong}, neck.weight (5,) is unknown"
    assert report[3] == "    missing, by our names: layer4.1.bn2.bias (512,)"
    assert len([line for line in report if " suit by name and shape, " in line]) == 3
    assert "x.pth is no checkpoint of a network (its first keys: conv1.0.weight, " in line


def test_number_of_classes_makes_no_layout_differ(make_net, to_reference):
    nearest = nearest_layouts(to_reference(make_net(7).state_dict()))[0]
    assert (nearest.layout, nearest.model) == ("reference", "icnet_resnet18")
    assert (nearest.differing, nearest.missing) == ((), ())


def test_names_of_ours_count_for_no_other_layout(net):
    found = nearest_layouts({f"module.{key}": value for key, value in net.state_dict().items()})
    assert (found[0].layout, found[0].model, found[0].similarity[0]) == ("icnet", "icnet_resnet18", 1)
    assert all(match.fitting == 0 for match in found if match.layout in LAYOUTS)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_outlined_without_memory(name):
    defaults = {key: option.default for key, option in NETWORKS[name].options.items()}
    net = outline(NetworkDescription(name, defaults, 3))
    assert all(value.is_meta for value in net.state_dict().values())


def test_file_that_is_none_ends_in_one_line(refused, net, save_ours, tmp_path):
    whole = save_ours(net, tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("404: Not Found")
    (tmp_path / "net.onnx").write_bytes(b"")
    torch.save(net, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    save_file({}, tmp_path / "nothing.safetensors")
    for name, words in (
        ("none.ckpt", "there is no checkpoint at"),
        ("half.ckpt", "is truncated or not a checkpoint"),
        ("text.safetensors", "is truncated or not a checkpoint"),
        ("net.onnx", "give a file that ends in .ckpt, .pth"),
        ("code.pth", "holds pickled code (icnet.models.icnet.ICNet)"),
        ("list.pth", "holds a list, not named tensors"),
    ):
        report, line = refused(tmp_path / name)
        assert report == []
        assert words in line
    assert "first keys: none" in refused(tmp_path / "nothing.safetensors")[1]


def test_help_says_how_it_is_called(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "usage: python -m icnet.models" in capsys.readouterr().out


def test_mistake_is_one_line_in_a_shell(tmp_path):
    words = [sys.executable, "-m", "icnet.models", str(tmp_path / "none.pth")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no checkpoint")
    assert done.stderr.count("\n") == 1
