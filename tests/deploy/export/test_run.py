import json
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import icnet
from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.deploy.export import GraphSpec, describe, export_onnx, export_verified, verify
from icnet.deploy.export.onnx_graph import newest_opset
from icnet.deploy.export.run import _numbers
from icnet.deploy.runtimes.heads import HEADS
from icnet.deploy.trained_network import read_network, trained_on
from icnet.errors import UserError
from icnet.models import build_network
from icnet.models.icnet_paper import ICNetPaper
from icnet.models.integrity import sha256
from icnet.models.modules import IMAGENET_MEAN, IMAGENET_STD
from tests.models.network_tester import ALL_NETWORKS

SIZE = {"height": 96, "width": 160}


def run(path, image):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image.numpy()})[0]


def reference_input(image):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image.float() / 255 - mean) / std


def random_image(height, width, count=1):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("opset", [11, 17, newest_opset()])
def test_static_graph_agrees_at_every_opset(net, normalizer, tmp_path, opset):
    path = tmp_path / "net.onnx"
    export_onnx(net, normalizer, path, GraphSpec(**SIZE, opset=opset))

    model = onnx.load(path)
    assert [entry.version for entry in model.opset_import] == [opset]
    # Nothing but arithmetic on images: no shape arithmetic, no normalisation, no double precision.
    assert {node.op_type for node in model.graph.node} == {
        "Conv",
        "Relu",
        "MaxPool",
        "Resize",
        "Reshape",
        "MatMul",
        "Add",
    }
    assert all(weight.data_type != onnx.TensorProto.DOUBLE for weight in model.graph.initializer)
    modes = {a.s for n in model.graph.node if n.op_type == "Resize" for a in n.attribute if a.name.startswith("coord")}
    assert modes == {b"align_corners"}
    x = reference_input(random_image(96, 160))
    np.testing.assert_allclose(run(path, x), net(x).numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic_size", [False, True])
def test_wide_fusion_is_convolved_at_the_coarse_size(normalizer, tmp_path, dynamic_size):
    """The 3x3 kernel of 2048 channels as nine 1x1 ones at 1/32 of 96x160, and no operator that others lack."""
    torch.manual_seed(0)
    net = build_network("icnet", 19, backbone="resnet50").eval().requires_grad_(False)
    path = tmp_path / "net.onnx"
    export_onnx(net, normalizer, path, GraphSpec(**SIZE, dynamic_size=dynamic_size))

    graph = onnx.load(path).graph
    if not dynamic_size:  # Identity: the weights of equal layers of a network that was never trained
        kinds = {node.op_type for node in graph.node}
        assert kinds - {"Identity"} == {"Conv", "Relu", "MaxPool", "Resize", "Reshape", "MatMul", "Add"}
    weights = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    inputs = [weights.get(node.input[1], ()) for node in graph.node if node.op_type == "Conv"]
    assert inputs.count((128, 2048, 1, 1)) == 9
    assert (128, 2048, 3, 3) not in inputs
    for height, width in ((96, 160), (127, 201)) if dynamic_size else ((96, 160),):
        x = reference_input(random_image(height, width))
        np.testing.assert_allclose(run(path, x), net(x).numpy(), atol=1e-4)


@pytest.mark.parametrize(  # every value of every option at the oldest and the newest opset
    ("opset", "head", "normalize", "batch"),
    [
        (11, "argmax", False, 2),
        (11, "logits", True, None),
        (newest_opset(), "argmax", True, None),
        (newest_opset(), "logits", True, 2),
        (17, "argmax", True, 1),
        (11, "argmax_u8", True, 1),
        (newest_opset(), "argmax_u8", False, None),
        (11, "confidence", True, None),
        (newest_opset(), "confidence", False, 1),
    ],
)
def test_heads_inputs_and_batches_agree(net, normalizer, tmp_path, opset, head, normalize, batch):
    path = tmp_path / "net.onnx"
    export_onnx(net, normalizer, path, GraphSpec(64, 128, batch, False, opset, head, normalize))

    images = random_image(64, 128, batch or 3)
    x = reference_input(images)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    actual, *rest = session.run(None, {"image": (images if normalize else x).numpy()})
    expected = net(x)
    assert [port.name for port in session.get_outputs()] == list(HEADS[head].outputs)
    if head == "logits":
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4)
    else:
        assert actual.dtype == (np.int32 if head == "argmax" else np.uint8)
        assert (actual == expected.argmax(1).numpy()).mean() > 0.999
    if head == "confidence":
        (probability,) = rest
        assert probability.dtype == np.float32
        np.testing.assert_allclose(probability, expected.softmax(1).amax(1).numpy(), atol=1e-5)


@pytest.mark.parametrize("opset", [11, pytest.param(newest_opset(), marks=pytest.mark.slow)])
def test_dynamic_size_agrees_at_sizes_that_were_never_traced(net, normalizer, tmp_path, opset):
    path, spec = tmp_path / "net.onnx", GraphSpec(**SIZE, batch=None, dynamic_size=True, opset=opset)
    export_onnx(net, normalizer, path, spec)

    assert spec.describe_input() == "image float32 (batch, 3, height, width)"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ports = [(port.name, port.type, port.shape) for port in (*session.get_inputs(), *session.get_outputs())]
    assert ports == [
        ("image", "tensor(float)", ["batch", 3, "height", "width"]),
        ("logits", "tensor(float)", ["batch", 19, "height", "width"]),
    ]
    # 1/32 of these: even, odd, below the six bins, and above them without being divisible
    for height, width in ((64, 64), (127, 201), (193, 97), (224, 352)):
        x = reference_input(random_image(height, width, 2))
        np.testing.assert_allclose(run(path, x), net(x).numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ALL_NETWORKS)
@pytest.mark.parametrize(
    ("opset", "dynamic_size"), [(11, True), pytest.param(newest_opset(), False, marks=pytest.mark.slow)]
)
def test_graph_of_every_network_agrees_with_its_own_normalisation(make_net, tmp_path, name, opset, dynamic_size):
    path, net = tmp_path / "net.onnx", make_net(name=name)
    normalizer, sizes = net.normalizer(), [(96, 160)]
    if dynamic_size:
        sizes += [(64, 64), (127, 201), (193, 98)]
    batch = None if dynamic_size else 2
    export_onnx(net, normalizer, path, GraphSpec(96, 160, batch, dynamic_size, opset, normalize=True))
    for height, width in sizes:
        image = random_image(height, width, 2)
        wanted = net(normalizer(image)).numpy()
        # One whose input is 0-255 gives large logits here.
        np.testing.assert_allclose(run(path, image), wanted, atol=1e-4 * max(1, np.abs(wanted).max()))
    if not dynamic_size:  # no arithmetic on shapes
        assert not {node.op_type for node in onnx.load(path).graph.node} & {"Shape", "Slice", "Gather", "Loop", "If"}


def test_dynamic_size_with_argmax_and_normalisation_agrees(net, normalizer, tmp_path):
    path = tmp_path / "net.onnx"
    export_onnx(net, normalizer, path, GraphSpec(96, 160, None, True, 11, "argmax", True))

    image = random_image(113, 145)
    assert (run(path, image) == net(reference_input(image)).argmax(1).numpy()).mean() > 0.999


def test_export_leaves_the_network_as_it_was(net, normalizer, tmp_path):
    x = reference_input(random_image(64, 64))
    before, keys = net(x), list(net.state_dict())
    export_onnx(net, normalizer, tmp_path / "net.onnx", GraphSpec(64, 64, dynamic_size=True))

    assert torch.equal(net(x), before)
    assert list(net.state_dict()) == keys
    assert not net.pyramid_pooling.symbolic_size


def test_metadata_tell_everything_about_the_model(checkpoint, tmp_path):
    path = tmp_path / "net.onnx"
    export_verified(read_network(checkpoint), path, GraphSpec(64, 64))

    model = onnx.load(path)
    meta = {entry.key: entry.value for entry in model.metadata_props}
    assert (model.producer_name, model.producer_version) == ("icnet", icnet.__version__)
    assert json.loads(meta["names"]) == list(CITYSCAPES_CLASSES.names)
    assert json.loads(meta["palette"]) == [list(colour) for colour in CITYSCAPES_CLASSES.palette]
    assert json.loads(meta["categories"]) == []
    assert json.loads(meta["mean"]) == list(IMAGENET_MEAN)
    assert json.loads(meta["std"]) == list(IMAGENET_STD)
    assert (meta["head"], meta["normalize"]) == ("logits", "false")
    assert json.loads(meta["model"]) == {
        "name": "icnet",
        "options": {"backbone": "resnet18", "quarter_branch": "image", "enlarge": 1},
        "num_classes": 19,
    }
    assert (meta["min_side"], meta["divisor"]) == ("64", "1")
    assert meta["checkpoint"] == "best.ckpt"
    assert meta["checkpoint_sha256"] == sha256(checkpoint)
    assert meta["icnet_version"] == icnet.__version__


def test_metadata_keep_six_digits_of_a_small_deviation():
    """Rounded to as many decimals, 1/255 would change every input by a ten-thousandth."""
    normalizer = ICNetPaper(2).normalizer()
    assert _numbers(normalizer.std) == [0.00392157] * 3
    assert _numbers(normalizer.mean) == [0.48502, 0.457957, 0.407604]


@pytest.mark.parametrize(
    ("data", "kept", "title"),
    [
        (
            {"name": "folder", "root": "/home/me/data", "classes": "/home/me/c.yaml", "val_split": "val", "workers": 4},
            {"name": "folder", "val_split": "val"},
            "folder",
        ),
        (
            {"name": "cityscapes", "root": "/home/me", "label_kind": "labelTrainIds", "street": {"train": 96}},
            {"name": "cityscapes", "label_kind": "labelTrainIds"},
            "cityscapes",
        ),
        (
            {"name": "folder", "mask_encoding": "colors", "image_bits": 12, "classes": "/home/me/c.yaml"},
            {"name": "folder", "mask_encoding": "colors", "image_bits": 12},  # how its files are read
            "folder",
        ),
        (
            {"name": "street", "root": "/home/me", "street": {"train": 6, "val": 3}},
            {"name": "street", "street": {"train": 6, "val": 3}},  # or eval.py would draw other scenes
            "street (synthetic)",
        ),
        (None, {}, "unknown data"),
    ],
)
def test_metadata_tell_of_the_data_what_evaluation_needs_and_no_paths(net, tmp_path, save_ours, data, kept, title):
    meta = {} if data is None else {"data": data}
    told = describe(read_network(save_ours(net, tmp_path / "best.ckpt", **meta)))

    assert json.loads(told["data"]) == kept
    assert told["data_title"] == trained_on(told) == trained_on(meta) == title
    assert "/home/me" not in "".join(told.values())


def test_title_that_a_checkpoint_gives_its_data_is_kept(net, tmp_path, save_ours):
    path = save_ours(net, tmp_path / "best.ckpt", data={"name": "cityscapes"}, data_title="street (synthetic)")
    assert describe(read_network(path))["data_title"] == "street (synthetic)"


def test_verification_counts_and_agrees(checkpoint, tmp_path):
    agreement = export_verified(read_network(checkpoint), tmp_path / "net.onnx", GraphSpec(64, 128, batch=None))

    assert 0 < agreement.max_difference < 1e-4
    assert agreement.label_agreement > 0.999
    assert agreement.samples == 6  # noise and two pictures, in batches of two
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "net.onnx.json"]


@pytest.mark.parametrize(("target", "name", "folder"), [
    ("onnx", "net.onnx", "net.onnx.json"), ("openvino", "net.xml", "net.bin"),
])  # fmt: skip
def test_folder_in_the_place_of_a_file_is_refused_and_stays(checkpoint, tmp_path, target, name, folder):
    if target == "openvino":
        pytest.importorskip("openvino")
    (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match=rf"{folder} is a folder, and a file of that name is to be written; move it"):
        export_verified(read_network(checkpoint), tmp_path / name, GraphSpec(64, 64), target=target)
    assert [file.name for file in tmp_path.iterdir()] == [folder]


def test_failed_verification_keeps_the_older_file(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_text("older")
    monkeypatch.setitem(verify.TOLERANCES, "fp32", verify.Tolerance(difference=0.0))

    with pytest.raises(UserError, match="not kept"):
        export_verified(read_network(checkpoint), path, GraphSpec(64, 64))
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"opset": 10}, rf"export\.opset=10 is out of range; give 11 to {newest_opset()}"),
        ({"opset": 99}, rf"export\.opset=99 is out of range; give 11 to {newest_opset()}"),
        ({"batch": 0}, r"export\.batch=0 is out of range; give a number from 1, or dynamic"),
        ({"head": "softmax"}, r"export\.head=softmax is unknown; choose one of logits, argmax, argmax_u8, confidence"),
    ],
)
def test_bad_graph_is_refused(spec, message):
    with pytest.raises(UserError, match=message):
        GraphSpec(**spec)


@pytest.mark.parametrize(
    ("size", "message"),
    [((32, 64), r"export\.height=32 is too small; give at least 64"), ((64, 63), r"export\.width=63 is too small")],
)
def test_size_that_the_network_does_not_take_is_refused_before_anything_is_made(checkpoint, tmp_path, size, message):
    model, path = read_network(checkpoint), tmp_path / "new" / "net.onnx"
    for export in (partial(export_onnx, model.net, model.normalizer), partial(export_verified, model)):
        with pytest.raises(UserError, match=message):
            export(path, GraphSpec(*size))
    assert not path.parent.exists()


def test_bad_output_is_refused(checkpoint, tmp_path):
    model = read_network(checkpoint)
    with pytest.raises(UserError, match=r"net\.pb is no name for export\.target=onnx; give one that ends in \.onnx"):
        export_verified(model, tmp_path / "net.pb", GraphSpec(64, 64))
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UserError, match=r"folder\.onnx is a folder; give a file in it or beside it"):
        export_verified(model, tmp_path / "folder.onnx", GraphSpec(64, 64))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file cannot be written to .*output=FILE"):
        export_verified(model, tmp_path / "file" / "net.onnx", GraphSpec(64, 64))
