"""Labels interpolated where they meet, against the graph that resizes everything."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from icnet.deploy.export import GraphSpec, label_borders
from icnet.deploy.export.label_borders import label_at_borders
from icnet.deploy.export.onnx_export import build_onnx, finish
from icnet.deploy.export.onnx_graph import complete, to_float16

CLASSES = 5


def graph(height, width, rows, columns, mode="align_corners", kind=TensorProto.UINT8, batch=1, outputs=("labels",)):
    """Labels of resized logits, as the exporter writes them; the size is computed where the batch is open."""
    size = [
        helper.make_node("Shape", ["logits"], ["batch"], end=1),
        helper.make_node("Concat", ["batch", "sides"], ["sizes"], axis=0),
    ]
    nodes = [
        helper.make_node("Relu", ["image"], ["logits"], "layer"),
        *(size if isinstance(batch, str) else []),
        helper.make_node(
            "Resize", ["logits", "", "", "sizes"], ["resized"], mode="linear", coordinate_transformation_mode=mode
        ),
        helper.make_node("ArgMax", ["resized"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=kind),
    ]
    ports = {
        "labels": helper.make_tensor_value_info("labels", kind, [batch, rows, columns]),
        "resized": helper.make_tensor_value_info("resized", TensorProto.FLOAT, [batch, CLASSES, rows, columns]),
    }
    sides = [CLASSES, rows, columns] if isinstance(batch, str) else [batch, CLASSES, rows, columns]
    made = helper.make_graph(
        nodes, "end",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, CLASSES, height, width])],
        [ports[name] for name in outputs],
        [numpy_helper.from_array(np.array(sides), "sides" if isinstance(batch, str) else "sizes")],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def regions(batch, height, width):
    """Logits of 3 x 4 fields with a class each, and noise that leaves it the likeliest."""
    generator = np.random.default_rng(0)
    fields = generator.integers(0, CLASSES, (batch, 3, 4))
    labels = fields[:, np.arange(height) * 3 // height][:, :, np.arange(width) * 4 // width]
    logits = 1.5 * np.moveaxis(np.eye(CLASSES)[labels], 3, 1) + generator.random((batch, CLASSES, height, width))
    return logits.astype(np.float32)


def run(model, logits):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": logits})[0]


@pytest.mark.parametrize("most", [0, 100])  # everything resized, and nothing but borders
@pytest.mark.parametrize("mode", ["align_corners", "half_pixel", "pytorch_half_pixel"])
@pytest.mark.parametrize("sides", [(16, 32, 64, 128), (9, 7, 30, 29), (2, 2, 5, 9), (12, 12, 6, 7), (8, 8, 8, 8)])
def test_labels_are_those_of_the_resized_logits(monkeypatch, sides, mode, most):
    monkeypatch.setattr(label_borders, "MOST_PERCENT", most)
    logits = regions(2, *sides[:2])
    wanted = run(graph(*sides, mode=mode, batch=2), logits)
    made = complete(label_at_borders(graph(*sides, mode=mode, batch=2)))
    assert len(np.unique(wanted)) > 2
    found = run(made, logits)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert np.array_equal(found, wanted)
    assert np.array_equal(ReferenceEvaluator(made).run(None, {"image": logits})[0], wanted)


def test_between_labels_a_third_one_may_be_the_likeliest():
    # Two pixels apart, class 0 falls from 3 to 0 and class 1 rises from 0 to 3; class 2 has 2 all along.
    logits = np.zeros((1, CLASSES, 2, 2), np.float32)
    logits[0, 0, :, 0] = logits[0, 1, :, 1] = 3
    logits[0, 2] = 2
    model = label_at_borders(graph(2, 2, 2, 7))  # at 0, 1/6, ... 1: class 0 has 3, 2.5, 2 (as much as 2), 1.5, ...
    labels = run(model, logits)
    assert labels[0, 0, [0, 1, 3, 5, 6]].tolist() == [0, 0, 2, 1, 1]


def test_inside_regions_nothing_is_interpolated(monkeypatch):
    monkeypatch.setattr(label_borders, "_cells", lambda size, resized, mode: (
        np.zeros(resized, np.int64), np.zeros((resized, 1), np.float32)
    ))  # fmt: skip
    logits = np.zeros((1, CLASSES, 4, 4), np.float32)
    logits[0, 3] = 1
    assert (run(label_at_borders(graph(4, 4, 16, 16)), logits) == 3).all()


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT32])
def test_an_open_batch_and_other_integers_stay(kind):
    model = complete(label_at_borders(graph(16, 32, 64, 128, kind=kind, batch="n")))
    assert model.graph.output[0].type.tensor_type.elem_type == kind
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "n"
    logits = regions(1, 16, 32)
    assert np.array_equal(run(model, logits), run(graph(16, 32, 64, 128, kind=kind), logits))


def test_a_graph_in_float16_has_its_labels():
    logits = regions(2, 16, 32)
    wanted = run(complete(to_float16(graph(16, 32, 64, 128, batch=2))), logits)
    found = run(complete(label_at_borders(to_float16(graph(16, 32, 64, 128, batch=2)))), logits)
    assert found.dtype == wanted.dtype
    assert (found == wanted).mean() > 0.998  # rounding may swap what scores alike


@pytest.mark.parametrize(("opset", "batch"), [(11, 1), (13, None)])
def test_older_opsets_have_the_same_labels(make_net, opset, batch):
    net, labels = make_net(CLASSES), []
    for profile in ("generic", "cpu"):
        spec = GraphSpec(64, 96, batch, opset=opset, head="argmax_u8", profile=profile)
        labels.append(run(finish(build_onnx(net, net.normalizer(), spec), spec), regions(2, 64, 96)[:batch, :3]))
    assert np.array_equal(*labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["icnet", "icnet_mmseg"])  # with aligned corners and without
def test_profile_for_cpus_does_it_for_every_way_to_resize(make_net, name):
    net = make_net(name=name)
    image = np.zeros((1, 3, 96, 160), np.float32)
    image[:, :, 48:, 80:] = 1
    for head in ("argmax", "argmax_u8", "logits"):
        generic, cpu = (
            finish(build_onnx(net, net.normalizer(), spec), spec)
            for spec in (GraphSpec(96, 160, head=head, profile=profile) for profile in ("generic", "cpu"))
        )
        assert [node.op_type for node in generic.graph.node].count("If") == 0
        assert [node.op_type for node in cpu.graph.node].count("If") == (head != "logits")
        assert (run(cpu, image) == run(generic, image)).mean() > 0.9999


def test_graph_that_ends_in_anything_else_stays():
    two = graph(16, 32, 64, 128, outputs=("labels", "resized"))
    other = graph(16, 32, 64, 128)
    other.graph.node[1].attribute[0].s = b"cubic"
    scaled = graph(16, 32, 64, 128)
    scaled.graph.node[1].input[:] = ["logits", "", "scales"]
    along = graph(16, 32, 64, 128)
    along.graph.node[2].attribute[0].i = 3
    nearest = graph(16, 32, 64, 128, mode="asymmetric")
    for model in (two, other, scaled, along, nearest, graph("h", "w", 64, 128)):
        before = model.SerializeToString()
        assert label_at_borders(model).SerializeToString() == before


def test_tensors_of_a_graph_that_are_called_alike_are_not_mixed_up():
    model = graph(16, 32, 64, 128)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [{"best": "likeliest", "resized": "coarse"}.get(name, name) for name in names]
    logits = regions(1, 16, 32)
    assert np.array_equal(run(label_at_borders(model), logits), run(graph(16, 32, 64, 128), logits))
