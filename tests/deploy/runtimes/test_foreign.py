"""``.onnx`` files of other programs, whose values are worked by hand: a class is as likely as its colour is strong."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import icnet
from icnet.deploy import open_segmenter
from icnet.deploy.runtimes.foreign import read_told
from icnet.deploy.runtimes.onnx_segmenter import OnnxSegmenter
from icnet.errors import UserError
from tests.conftest import SMALL

CPU = torch.device("cpu")
LEFT_RED = np.zeros((8, 8, 3), np.uint8)
LEFT_RED[:, :4, 0] = LEFT_RED[:, 4:, 1] = 255


@pytest.fixture
def classes(tmp_path):
    """Name two classes, in JSON."""
    path = tmp_path / "classes.json"
    rows = [{"name": "red", "color": [255, 0, 0]}, {"name": "green", "color": [0, 255, 0]}]
    path.write_text(json.dumps({"classes": rows}))
    return path


@pytest.fixture
def write(tmp_path):
    """Write a graph that averages 4x4 pixels and gives red and green, or the larger one's label."""

    def write(kind=TensorProto.FLOAT, labels=None, shape=(1, 3, 8, 8), keep=0, first=0, reshaped=False):
        weight = np.zeros((2, 3, 1, 1), np.float32)
        weight[0, 0] = weight[1, 1] = 1
        nodes = [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("AveragePool", ["pixels"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Conv", ["small", "weight"], ["scores"]),
        ]
        sides = [None if isinstance(side, str) else side // 4 for side in shape[2:]]
        output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], 2, *sides])
        if reshaped:  # into a shape that nobody knows beforehand
            nodes[2].output[0] = "before"
            nodes += [
                helper.make_node("Shape", ["pixels"], ["size"]),
                helper.make_node("Div", ["size", "parts"], ["smaller"]),
                helper.make_node("Reshape", ["before", "smaller"], ["scores"]),
            ]
            output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None] * 4)
        if labels is not None:
            nodes += [
                helper.make_node("ArgMax", ["scores"], ["index"], axis=1, keepdims=keep),
                helper.make_node("Add", ["index", "first"], ["shifted"]),
                helper.make_node("Cast", ["shifted"], ["labels"], to=labels),
            ]
            output = helper.make_tensor_value_info("labels", labels, [shape[0], *[1] * keep, *sides])
        values = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([first]), "first")]
        values.append(numpy_helper.from_array(np.array([1, -3, 4, 4]), "parts"))  # 3 / -3 = -1: as many as there are
        port = helper.make_tensor_value_info("image", kind, shape)
        graph = helper.make_graph(nodes, "colours", [port], [output], values)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / "colours.onnx")
        return tmp_path / "colours.onnx"

    return write


def test_scores_are_resized_to_the_image_and_normalised_as_told(write, classes):
    net = icnet.load(write(), "cpu", classes=classes, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.25))
    assert net.classes.names == ("red", "green")
    assert (net.trained_on, net.segmenter.network) == ("unknown data", "colours")
    logits = net(LEFT_RED, logits=True)
    assert logits.shape == (2, 8, 8)
    assert logits[:, 0, 0].tolist() == [2.0, -1.0]  # (1 - 0.5) / 0.25, (0 - 0.5) / 0.5
    assert logits[:, 7, 7].tolist() == [-2.0, 1.0]
    labels = net(LEFT_RED)
    assert (labels[:, :4] == 0).all()
    assert (labels[:, 5:] == 1).all()


def test_default_normalisation_is_imagenets(write, classes):
    red, green = icnet.load(write(), "cpu", classes=classes)(LEFT_RED, logits=True)[:, 0, 0]
    assert red == pytest.approx((1 - 0.485) / 0.229, abs=1e-5)
    assert green == pytest.approx(-0.456 / 0.224, abs=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8])
@pytest.mark.parametrize("keep", [0, 1])
def test_integer_labels_of_uint8_images_are_enlarged(write, classes, kind, keep):
    net = icnet.load(write(TensorProto.UINT8, kind, keep=keep), "cpu", classes=classes)
    labels = net(LEFT_RED)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, np.repeat([[0] * 4 + [1] * 4], 8, 0))
    assert net.segmenter.labels_only


def test_open_sizes_take_any_image_and_fixed_ones_resize_it_or_refuse(write, classes):
    wide = np.concatenate([LEFT_RED] * 2, 1)
    open_sizes = icnet.load(write(shape=("n", 3, "h", "w")), "cpu", classes=classes, resize=False)
    assert open_sizes(wide)[0].tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    assert icnet.load(write(), "cpu", classes=classes)(wide).shape == (8, 16)
    with pytest.raises(UserError, match=r"takes images of 8x8 and this one is of 8x16 \(height x width\)"):
        icnet.load(write(), "cpu", classes=classes, resize=False)(wide)


def test_size_that_the_graph_fails_at_is_one_line(write, classes):
    net = icnet.load(write(shape=("n", 3, "h", "w")), "cpu", classes=classes)

    def fail(*_):
        raise RuntimeError("Attempting to broadcast\nan axis")

    for run, reason in (
        (fail, "Attempting to broadcast an axis"),
        (lambda *_: [np.zeros((1, 2, 0, 2))], "nothing is left"),
    ):
        net.segmenter._session = SimpleNamespace(run=run)
        with pytest.raises(UserError, match=rf"does not compute images of 8x8 \({reason}.*bring them to a size"):
            net(LEFT_RED)


def test_file_that_says_nothing_is_described_in_one_line(write):
    path = write(TensorProto.UINT8, TensorProto.INT64, ("n", 3, 8, 8))
    with pytest.raises(UserError) as refused:
        OnnxSegmenter(path)
    assert str(refused.value) == (
        f"{path} takes image uint8 (n, 3, 8, 8) and gives labels int64 (n, 2, 2), and says nothing of its classes; "
        "name them with a list as classes.yaml: runtime.classes=FILE (in Python classes=FILE)"
    )


@pytest.mark.parametrize(
    ("options", "told", "message"),
    [
        ({"kind": TensorProto.FLOAT16}, {}, "takes image float16 .* give a file that takes one float32 or uint8"),
        ({"labels": TensorProto.DOUBLE}, {}, "gives labels float64"),
        ({"kind": TensorProto.UINT8}, {"std": (1, 1, 1)}, "which it normalises by itself; leave out mean and std"),
        ({}, {"mean": (1, 1)}, r"mean=\[1, 1\] is out of range; give three numbers"),
        ({}, {"std": (1, 0, 1)}, r"std=\[1, 0, 1\] is out of range; give three numbers above 0"),
        ({}, {"classes": None, "mean": (0, 0, 0)}, "mean= is for .onnx files of other programs; give classes=FILE"),
    ],
)
def test_what_does_not_suit_is_refused(write, classes, options, told, message):
    with pytest.raises(UserError, match=message):
        icnet.load(write(**options), "cpu", **{"classes": classes, **told})


def test_labels_and_channels_beyond_the_classes_are_refused(write, classes, tmp_path):
    with pytest.raises(UserError, match="gives the label 2 and 2 classes are listed"):
        icnet.load(write(labels=TensorProto.INT64, first=1), "cpu", classes=classes)(LEFT_RED)
    one = tmp_path / "one.yaml"
    one.write_text("classes: [{name: red, color: [255, 0, 0]}]")
    with pytest.raises(
        UserError, match=r"scores float32 \(1, 2, 2, 2\), and .*one\.yaml lists 1 classes; list as many"
    ):
        icnet.load(write(), "cpu", classes=one)
    open_channels = write(reshaped=True, shape=("n", 3, "h", "w"))
    assert icnet.load(open_channels, "cpu", classes=classes)(LEFT_RED)[0].tolist() == [0] * 4 + [1] * 4
    with pytest.raises(UserError, match="gives 2 channels for 1 classes"):
        icnet.load(open_channels, "cpu", classes=one)(LEFT_RED)


def test_files_that_name_their_classes_take_no_other_names(checkpoint, classes, tmp_path, net, normalizer):
    from icnet.deploy.export import GraphSpec, describe, export_onnx
    from icnet.deploy.trained_network import read_network

    with pytest.raises(
        UserError, match=r"classes=.*json is for \.onnx files of other programs and not for .*best\.ckpt"
    ):
        open_segmenter(checkpoint, CPU, told=read_told(classes))
    export_onnx(net, normalizer, tmp_path / "net.onnx", GraphSpec(64, 64), describe(read_network(checkpoint)))
    with pytest.raises(UserError, match=r"net\.onnx names its classes itself; leave out classes="):
        open_segmenter(tmp_path / "net.onnx", CPU, told=read_told(classes))


@pytest.mark.slow
def test_scripts_take_one(script, write, classes, tmp_path):
    street = [word for word in SMALL if word.startswith("data")]
    told = (f"ckpt={write(shape=(1, 3, 64, 128))}", f"runtime.classes={classes}")
    done = script("eval", *told, *street, "trainer=cpu_1p", "data.workers=0", f"hydra.run.dir={tmp_path / 'eval'}")
    assert done.status == 2
    assert "knows 2 classes and the data" in done.error
    icnet_photo = tmp_path / "photo.png"
    import cv2

    cv2.imwrite(str(icnet_photo), LEFT_RED[..., ::-1])
    done = script("demo", *told, f"input={icnet_photo}", f"output={tmp_path / 'out'}", "device=cpu")
    assert done.status == 0, done.err
    assert (cv2.imread(str(tmp_path / "out" / "photo_ids.png"), cv2.IMREAD_UNCHANGED)[:, :3] == 0).all()


def test_missing_list_of_classes_names_its_key(write, tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml cannot be read; .* another file with runtime\.classes"):
        icnet.load(write(), "cpu", classes=tmp_path / "none.yaml")
