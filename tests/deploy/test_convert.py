"""``python -m icnet.models FILE --to FORM OUT``: a checkpoint's network in another form."""

import errno
import hashlib
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import icnet
from icnet.data.labels import ClassTable
from icnet.deploy import convert as module
from icnet.deploy.convert import FORMS, convert
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError
from icnet.models import NETWORKS
from icnet.models.__main__ import main
from icnet.models.backbone import BLOCKS
from icnet.models.checkpoints import read_checkpoint
from icnet.models.icnet import ICNet
from icnet.models.modules import ImageNormalizer
from icnet.models.published import from_reference, to_reference
from tests.models.conftest import ReferenceICNet
from tests.models.network_tester import ALL_NETWORKS, SMALL

OLD = Path(__file__).parents[1] / "old_checkpoints" / "v0.1_resnet18.ckpt"
PETS = ClassTable(("dog", "cat", "fish"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), ("land", "land", "water"))


def assert_same(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        assert ours[name].dtype == value.dtype
        assert torch.equal(ours[name], value), name


def outputs(path: Path) -> Tensor:
    """The logits of a file's network for an image of noise."""
    pixels = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model = read_network(path)
    return model.net(model.normalizer(pixels))


@pytest.fixture
def pets(make_net, tmp_path) -> Path:
    """A checkpoint of ours with three classes, as ``train.py`` describes it."""
    net = make_net(3)
    palette = [list(color) for color in PETS.palette]
    meta = {
        "version": "0.2.0", "model": {"name": "icnet", "options": {"backbone": "resnet18"}, "num_classes": 3},
        "classes": {"names": list(PETS.names), "palette": palette, "categories": list(PETS.categories)},
        "data": {"name": "pets", "crop_size": [64, 64]},
        "class_weights": {"dog": 1.0, "cat": 0.1 + 0.2, "fish": 1e-7}, "data_title": "pets", "seed": None,
    }  # fmt: skip
    path = tmp_path / "pets.ckpt"
    torch.save({"state_dict": {f"net.{key}": value for key, value in net.state_dict().items()}, "icnet": meta}, path)
    return path


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("form", ["safetensors", "icnet"])
@pytest.mark.parametrize("name", ALL_NETWORKS)
def test_every_network_keeps_tensors_options_and_logits(make_net, tmp_path, name, form):
    net = make_net(4, name=name)
    model = {"name": name, "options": SMALL.get(name, {}), "num_classes": 4}
    tensors = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": tensors, "icnet": {"model": model}}, tmp_path / "a.ckpt")
    out = tmp_path / f"b{FORMS[form][0]}"
    convert(tmp_path / "a.ckpt", form, out)
    before, after = read_checkpoint(tmp_path / "a.ckpt"), read_checkpoint(out)
    assert_same(after.state_dict, before.state_dict)
    assert (after.kind, after.network, after.meta) == ("icnet", before.network, before.meta)
    assert torch.equal(outputs(out), outputs(tmp_path / "a.ckpt"))


@pytest.mark.parametrize("form", FORMS)
def test_half_rounds_the_weights_and_nothing_else(make_net, save_ours, tmp_path, form, capsys):
    net = make_net()
    net.backbone.layer1[0].bn1.running_var[0] = 1e6  # beyond float16
    path = save_ours(net, tmp_path / "a.ckpt")
    out = tmp_path / f"b{FORMS[form][0]}"
    assert main([str(path), "--to", form, str(out), "--half"]) == 0
    assert "weights in float16" in capsys.readouterr().out
    before, after = read_checkpoint(path).state_dict, read_checkpoint(out).state_dict
    wanted = {key: value.half() if value.dim() > 1 else value for key, value in before.items()}
    assert_same(after, wanted)
    assert out.stat().st_size < 0.52 * sum(value.nbytes for value in before.values()) + 3e6
    read = read_network(out).net
    assert {parameter.dtype for parameter in read.parameters()} == {torch.float32}


def test_half_refuses_what_it_would_lose_or_has_nothing_to_do_with(make_net, save_ours, tmp_path, capsys):
    net = make_net()
    net.classifier.weight.data[0, 0] = 1e5
    path = save_ours(net, tmp_path / "a.ckpt")
    assert main([str(path), "--to", "icnet", str(tmp_path / "b.ckpt"), "--half"]) == 2
    assert "beyond the range of float16 (classifier.weight)" in capsys.readouterr().err
    assert not (tmp_path / "b.ckpt").exists()
    assert main([str(path), "--half"]) == 2
    assert "give --to FORM OUT too" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["safetensors", "icnet"])
def test_description_is_kept_word_for_word(pets, tmp_path, form):
    out = tmp_path / f"b{FORMS[form][0]}"
    convert(pets, form, out)
    before, after = read_checkpoint(pets), read_checkpoint(out)
    assert after.meta == before.meta
    assert not after.resumable
    assert icnet.load(out, "cpu").classes == PETS
    assert icnet.load(out, "cpu").trained_on == "pets"


@pytest.mark.parametrize("depth", BLOCKS)
def test_names_of_the_reference_are_those_of_its_code(depth):
    with torch.device("meta"):
        ours, theirs = ICNet(11, depth).state_dict(), ReferenceICNet(depth, 11).state_dict()
    translated = to_reference(ours)
    assert {key: value.shape for key, value in translated.items()} == {key: v.shape for key, v in theirs.items()}
    back = from_reference(translated)
    assert back.keys() == ours.keys()
    assert all(back[key] is ours[key] for key in ours)


def test_code_of_the_reference_loads_the_file_strictly_and_gives_the_same_logits(pets, tmp_path):
    line = convert(pets, "reference", tmp_path / "icnet.pth")
    assert line.endswith("in the form reference, without what it tells of its classes and data")
    reference = ReferenceICNet("resnet18", 3).eval()
    reference.load_state_dict(torch.load(tmp_path / "icnet.pth", weights_only=True), strict=True)
    pixels = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.inference_mode():
        theirs = reference(ImageNormalizer()(pixels))["full"]
    ours = outputs(pets)
    assert (theirs - ours).abs().max() <= 1e-4 * ours.abs().max()
    back = read_checkpoint(tmp_path / "icnet.pth")
    assert_same(back.state_dict, read_checkpoint(pets).state_dict)
    assert torch.equal(outputs(tmp_path / "icnet.pth"), ours)


def test_published_file_becomes_one_of_ours_and_itself_again(make_net, to_reference, tmp_path):
    published = {f"module.{key}": value for key, value in to_reference(make_net(7).state_dict()).items()}
    torch.save(published, tmp_path / "published.pth")
    convert(tmp_path / "published.pth", "safetensors", tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", "icnet", tmp_path / "b.ckpt")
    convert(tmp_path / "b.ckpt", "reference", tmp_path / "c.pth")
    ours = read_checkpoint(tmp_path / "b.ckpt")
    assert (ours.network.name, ours.network.options["backbone"], ours.num_classes) == ("icnet", "resnet18", 7)
    assert "classes" not in ours.meta  # nobody named them
    again = torch.load(tmp_path / "c.pth", weights_only=True)
    assert not again.pop("pretrained.fc.bias").any()
    assert not again.pop("pretrained.fc.weight").any()
    del published["module.pretrained.fc.weight"]
    assert_same(again, {key.removeprefix("module."): value for key, value in published.items()})


def test_checkpoint_of_version_0_1_keeps_its_description(tmp_path):
    line = convert(OLD, "safetensors", tmp_path / "old.safetensors")
    assert line.endswith("without the state of its training")
    assert read_checkpoint(tmp_path / "old.safetensors").meta == read_checkpoint(OLD).meta


def test_number_formats_stay_and_no_memory_is_shared(make_net, tmp_path):
    tensors = {}
    for key, value in make_net(3).half().state_dict().items():
        whole = value.new_zeros(2, *value.shape)
        whole[1] = value
        tensors[f"net.{key}"] = whole[1]  # as cut out of something larger
        if value.dim() == 4:
            tensors[f"net.{key}"] = whole[1:].squeeze(0).contiguous(memory_format=torch.channels_last)
    model = {"name": "icnet", "options": {"backbone": "resnet18"}, "num_classes": 3}
    torch.save({"state_dict": tensors, "icnet": {"model": model}}, tmp_path / "a.ckpt")
    for form, (suffix, _) in FORMS.items():
        out = tmp_path / f"{form}{suffix}"
        convert(tmp_path / "a.ckpt", form, out)
        assert_same(read_checkpoint(out).state_dict, read_checkpoint(tmp_path / "a.ckpt").state_dict)
        assert out.stat().st_size < 1.1 * sum(value.nbytes for value in tensors.values()) + 2**20


# ---------------------------------------------------------------- safetensors


def test_safetensors_file_has_our_names_and_is_readable_by_anyone(pets, tmp_path):
    convert(pets, "safetensors", tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        assert set(file.keys()) == set(read_checkpoint(pets).state_dict)
        metadata = file.metadata()
        assert file.get_tensor("classifier.weight").shape == (3, 128, 1, 1)
    assert metadata["format"] == "pt"
    assert json.loads(metadata["icnet"])["classes"]["names"] == ["dog", "cat", "fish"]


@pytest.mark.parametrize("form", ["safetensors", "icnet"])
def test_same_network_gives_the_same_bytes(pets, tmp_path, form):
    suffix, written = FORMS[form][0], []
    for number in range(6):
        folder = tmp_path / str(number)
        convert(pets, "safetensors", folder / "a.safetensors")
        convert(folder / "a.safetensors", form, folder / f"b{suffix}")  # there and back
        written.append(hashlib.sha256((folder / f"b{suffix}").read_bytes()).hexdigest())
    assert len(set(written)) == 1


def test_changed_byte_in_a_safetensors_file_is_noticed(pets, tmp_path, caplog):
    path = tmp_path / "a.safetensors"
    convert(pets, "safetensors", path)
    with caplog.at_level(logging.WARNING):
        read_checkpoint(path)
    assert caplog.text == ""
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged: its tensors do not have its modelspec\.hash_sha256"):
        read_checkpoint(path)


def test_safetensors_file_opens_as_a_stream(pets, tmp_path):
    convert(pets, "safetensors", tmp_path / "a.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    expected = icnet.load(pets, "cpu")(image)
    stream = icnet.load(io.BytesIO((tmp_path / "a.safetensors").read_bytes()), "cpu")
    assert np.array_equal(stream(image), expected)
    assert stream.classes == PETS


@pytest.mark.parametrize("text", ["[]", '"x"', "{}", "not JSON", '{"model": {"name": "other"}}'])
def test_safetensors_file_with_another_description_is_refused(tmp_path, text):
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file({"classifier.weight": torch.ones(3, 128, 1, 1)}, path, {"icnet": text})
    with pytest.raises(UserError, match=r"x\.safetensors"):
        read_network(path)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "icnet", "reference"])
def test_converted_file_goes_through_every_script(script, small, street_root, save_ours, net, tmp_path, form):
    ours = save_ours(net, tmp_path / "ours.ckpt")
    out = tmp_path / f"converted{FORMS[form][0]}"
    assert main([str(ours), "--to", form, str(out)]) == 0
    photo = next((street_root / "leftImg8bit" / "val").rglob("*.png"))
    cpu = ("trainer=cpu_1p", "trainer.progress_bar=false", "data=cityscapes", f"data.root={street_root}",
           "data.workers=0")  # fmt: skip
    for name, path in (("before", ours), ("after", out)):
        onnx = tmp_path / f"{name}.onnx"
        for command in (
            ("eval", f"ckpt={path}", *cpu, f"hydra.run.dir={tmp_path / name}"),
            ("export", f"ckpt={path}", "export.height=64", "export.width=128", f"output={onnx}"),
            ("demo", f"ckpt={path}", f"input={photo}", f"output={tmp_path / name / 'shown'}", "device=cpu"),
            ("train", *small, "model=icnet_resnet18", f"model.weights={path}", "trainer.max_epochs=1",
             "trainer.max_steps=1", f"hydra.run.dir={tmp_path / name / 'run'}"),
        ):  # fmt: skip
            done = script(*command)
            assert done.status == 0, done.err
    found = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("before", "after")]
    assert found[0]["confusion"] == found[1]["confusion"]
    pictures = [next((tmp_path / name / "shown").rglob("*_ids.png")).read_bytes() for name in ("before", "after")]
    assert pictures[0] == pictures[1]
    runs = [tmp_path / name / "run" / "checkpoints" / "last.ckpt" for name in ("before", "after")]
    assert_same(*(read_checkpoint(path).state_dict for path in runs))


# ---------------------------------------------------------------- what is refused


def refusal(*words: object, capsys) -> str:
    assert main([str(word) for word in words]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    return found.err


def test_file_that_exists_is_not_overwritten(pets, tmp_path, capsys):
    (tmp_path / "a.ckpt").write_text("precious")
    line = refusal(pets, "--to", "icnet", tmp_path / "a.ckpt", capsys=capsys)
    assert "a.ckpt exists and would be overwritten" in line
    assert (tmp_path / "a.ckpt").read_text() == "precious"
    whole = pets.read_bytes()
    assert "exists" in refusal(pets, "--to", "icnet", pets, capsys=capsys)
    assert pets.read_bytes() == whole


def test_form_and_suffix_have_to_suit(pets, tmp_path, capsys):
    line = refusal(pets, "--to", "onnx", tmp_path / "a.onnx", capsys=capsys)
    assert "--to onnx is unknown; choose one of reference, safetensors, icnet" in line
    for form, name in (("icnet", "a.pth"), ("safetensors", "a"), ("reference", "a.ckpt")):
        line = refusal(pets, "--to", form, tmp_path / name, capsys=capsys)
        assert f"give one that ends in {FORMS[form][0]}" in line
    assert list(tmp_path.iterdir()) == [pets]


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"icnet"}))
def test_network_that_the_reference_does_not_have_is_refused(make_net, tmp_path, capsys, name):
    model = {"name": name, "options": SMALL.get(name, {}), "num_classes": 3}
    tensors = {f"net.{key}": value for key, value in make_net(3, name=name).state_dict().items()}
    torch.save({"state_dict": tensors, "icnet": {"model": model}}, tmp_path / "a.ckpt")
    line = refusal(tmp_path / "a.ckpt", "--to", "reference", tmp_path / "a.pth", capsys=capsys)
    assert f"holds {name}" in line
    assert "which is no network of liminn/ICNet-pytorch" in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_checkpoint_that_lacks_tensors_is_not_converted(pets, tmp_path, capsys):
    content = torch.load(pets, weights_only=True)
    del content["state_dict"]["net.sub1.0.bn.weight"]
    torch.save(content, pets)
    line = refusal(pets, "--to", "safetensors", tmp_path / "a.safetensors", capsys=capsys)
    assert "1 missing (sub1.0.bn.weight)" in line
    assert list(tmp_path.iterdir()) == [pets]


def test_failure_while_writing_leaves_nothing(pets, tmp_path, capsys, monkeypatch):
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.torch, "save", fill)
    line = refusal(pets, "--to", "icnet", tmp_path / "a.ckpt", capsys=capsys)
    assert "a.ckpt cannot be written (No space left on device)" in line
    assert "cannot be written" in refusal(pets, "--to", "icnet", pets / "a.ckpt", capsys=capsys)  # below a file
    assert list(tmp_path.iterdir()) == [pets]
