import builtins

import onnx
import pytest
import torch
from torch import nn

from icnet.data.labels import CAMVID_CLASSES, CITYSCAPES_CLASSES, IGNORE_INDEX
from icnet.deploy import open_segmenter
from icnet.deploy.export import GraphSpec, describe, export_onnx
from icnet.deploy.runtimes.onnx_seal import CONTENT_SHA256
from icnet.deploy.runtimes.onnx_segmenter import OnnxSegmenter
from icnet.deploy.runtimes.segmenter import likeliest
from icnet.deploy.runtimes.torch_segmenter import TorchSegmenter
from icnet.deploy.trained_network import model_title, read_network
from icnet.errors import UserError

CPU = torch.device("cpu")


def export(checkpoint, path, **options):
    model = read_network(checkpoint)
    export_onnx(model.net, model.normalizer, path, GraphSpec(**options), describe(model))
    return path


@pytest.fixture(scope="session")
def onnx_file(checkpoint, tmp_path_factory):
    return export(checkpoint, tmp_path_factory.mktemp("onnx") / "net.onnx", height=96, width=160, batch=2)


def test_torch_segmenter_gives_the_networks_logits(net, normalizer, image):
    segmenter = TorchSegmenter(net, normalizer, CITYSCAPES_CLASSES)
    logits = segmenter(image)

    assert segmenter.runtime == "torch"
    assert not logits.requires_grad
    torch.testing.assert_close(logits, net(normalizer(image)), atol=1e-4, rtol=0)


def test_our_checkpoint_opens_with_its_classes_and_meta(tmp_path, image, make_net, save_ours):
    net = make_net(11)
    path = save_ours(net, tmp_path / "c.ckpt", CAMVID_CLASSES, data={"name": "camvid"})
    segmenter = open_segmenter(path, CPU)

    assert segmenter.classes == CAMVID_CLASSES
    assert segmenter.meta["data"] == {"name": "camvid"}
    assert segmenter.path == path
    assert segmenter(image).shape == (1, 11, 96, 160)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_reference_checkpoint_gives_the_networks_logits(net, normalizer, image, tmp_path, prefix, save_reference):
    segmenter = open_segmenter(save_reference(net, tmp_path / "icnet.pth", prefix), CPU)

    assert segmenter.classes == CITYSCAPES_CLASSES
    torch.testing.assert_close(segmenter(image), net(normalizer(image)), atol=1e-4, rtol=0)


def test_reference_checkpoint_with_other_classes_gets_generic_names(tmp_path, make_net, save_reference):
    classes = open_segmenter(save_reference(make_net(4), tmp_path / "icnet.pth"), CPU).classes

    assert classes.names == ("class_0", "class_1", "class_2", "class_3")
    assert len(set(classes.palette)) == 4


def test_onnx_agrees_with_torch(checkpoint, onnx_file, image):
    network, exported = open_segmenter(checkpoint, CPU), open_segmenter(onnx_file, CPU)

    assert isinstance(exported, OnnxSegmenter)
    assert exported.runtime == "onnxruntime"
    assert (exported.classes.names, exported.classes.palette) == (network.classes.names, network.classes.palette)
    assert model_title(exported.meta) == model_title(network.meta) == "icnet_resnet18"
    assert model_title({"backbone": "resnet50"}) == "icnet_resnet50"  # as version 0.1 wrote it
    torch.testing.assert_close(exported(image), network(image), atol=1e-4, rtol=0)


def test_onnx_stays_on_the_cpu_where_images_are_elsewhere(onnx_file, image):
    segmenter = OnnxSegmenter(onnx_file)
    expected = segmenter(image)
    assert torch.equal(segmenter.to("meta")(image), expected)


def test_onnx_with_a_fixed_batch_takes_any_number(checkpoint, onnx_file):
    images = torch.randint(0, 256, (5, 3, 96, 160), dtype=torch.uint8)
    expected = open_segmenter(checkpoint, CPU)(images)
    torch.testing.assert_close(open_segmenter(onnx_file, CPU)(images), expected, atol=1e-4, rtol=0)


def test_onnx_with_a_fixed_size_takes_any_size(onnx_file, image):
    exported = open_segmenter(onnx_file, CPU)
    smooth = nn.functional.interpolate(image[:, :, :5, :8].float(), (96, 160), mode="bicubic").clamp(0, 255)
    image = smooth.byte()  # nothing that shrinking would lose
    doubled = nn.functional.interpolate(smooth, scale_factor=2, mode="bilinear").byte()

    logits = exported(doubled)
    assert logits.shape == (1, 19, 192, 320)
    shrunk = nn.functional.avg_pool2d(logits, 2)
    assert (shrunk.argmax(1) == exported(image).argmax(1)).float().mean() > 0.95


def test_onnx_labels_become_one_hot_logits(checkpoint, tmp_path, image):
    path = export(checkpoint, tmp_path / "labels.onnx", height=96, width=160, head="argmax", normalize=True)
    logits = open_segmenter(path, CPU)(image)

    assert logits.shape == (1, 19, 96, 160)
    assert torch.equal(logits.sum(1), torch.ones(1, 96, 160))
    expected = open_segmenter(checkpoint, CPU)(image).argmax(1)
    assert (logits.argmax(1) == expected).float().mean() > 0.999
    assert IGNORE_INDEX not in logits.argmax(1)


def test_foreign_onnx_is_refused_by_what_it_lacks(onnx_file, tmp_path):
    model = onnx.load(onnx_file)
    kept = [entry for entry in model.metadata_props if entry.key not in ("palette", "head", CONTENT_SHA256)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "foreign.onnx")

    with pytest.raises(UserError, match=r"foreign\.onnx lacks the metadata palette, head; give .* by export\.py"):
        open_segmenter(tmp_path / "foreign.onnx", CPU)


def changed(file, path, **entries):
    """Copy an .onnx file with other metadata, as one that was made so; None leaves an entry out."""
    model = onnx.load(file)
    meta = {entry.key: entry.value for entry in model.metadata_props} | {CONTENT_SHA256: None} | entries
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: value for key, value in meta.items() if value is not None})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", "road"), ("names", '"road"'), ("names", "[1]"), ("palette", "[[1, 2]]"), ("palette", "{}"),
        ("palette", "[[0, 0, 256]]"), ("mean", "half"), ("mean", "[1]"), ("std", '["a", 1, 2]'), ("std", "[0, 1, 1]"),
        ("min_side", "many"),
        ("min_side", "-1"), ("divisor", "0"), ("data", "cityscapes"), ("data", "[]"), ("model", "icnet"),
        ("model", "{}"), ("normalize", "yes"), ("categories", "3"), ("head", "tail"),
    ],
)  # fmt: skip
def test_onnx_with_damaged_metadata_is_refused_by_their_names(onnx_file, tmp_path, key, value):
    path = changed(onnx_file, tmp_path / "odd.onnx", **{key: value})
    with pytest.raises(UserError, match=rf"odd\.onnx lacks or damages the metadata {key}; give .* by export\.py"):
        open_segmenter(path, CPU)


def test_onnx_whose_classes_have_too_few_colours_is_refused(onnx_file, tmp_path):
    path = changed(onnx_file, tmp_path / "odd.onnx", names='["road", "sky"]', palette="[[1, 2, 3]]")
    with pytest.raises(UserError, match="lacks or damages the metadata names, palette, categories"):
        open_segmenter(path, CPU)


def test_onnx_of_version_0_1_opens(onnx_file, image, tmp_path):
    """It named ICNet's backbone instead of a model, and nothing said which sides the network takes."""
    old = changed(
        onnx_file, tmp_path / "old.onnx", model=None, min_side=None, divisor=None, backbone="resnet18",
        icnet_version="0.1.0",
    )  # fmt: skip
    opened, new = open_segmenter(old, CPU), open_segmenter(onnx_file, CPU)
    assert (opened.network, opened.trained_on, opened.data) == ("icnet_resnet18", new.trained_on, new.data)
    assert (opened.min_side, opened.divisor) == (64, 1)
    assert torch.equal(opened(image), new(image))


def test_network_that_tells_no_options_has_the_defaults(onnx_file, tmp_path):
    told = '{"name": "icnet", "options": {}, "num_classes": 19}'
    assert open_segmenter(changed(onnx_file, tmp_path / "x.onnx", model=told), CPU).network == "icnet_resnet50"


def test_broken_or_missing_onnx_is_refused(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no protobuf")
    with pytest.raises(UserError, match=r"broken\.onnx can't be opened by onnxruntime"):
        open_segmenter(tmp_path / "broken.onnx", CPU)
    with pytest.raises(UserError, match=r"there is no file .*absent\.onnx"):
        open_segmenter(tmp_path / "absent.onnx", CPU)


def test_missing_onnxruntime_is_named(onnx_file, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        open_segmenter(onnx_file, CPU)


def test_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"net\.txt is no model; give a file that ends in \.ckpt, .*\.onnx"):
        open_segmenter(tmp_path / "net.txt", CPU)
    with pytest.raises(UserError, match=r"net\.onnx is no checkpoint"):
        read_network(tmp_path / "net.onnx")


def test_first_of_equal_scores_is_the_label_in_any_order_of_memory():
    scores = torch.tensor([[1.0, 5, 2], [7, 5, 2], [7, 0, 2]]).reshape(1, 3, 1, 3)
    for given in (scores, scores.contiguous(memory_format=torch.channels_last), scores.bfloat16()):
        labels = likeliest(given)
        assert (labels.dtype, labels.tolist()) == (torch.uint8, [[[1, 0, 0]]])
