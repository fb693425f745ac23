"""What is done to a traced graph changes nothing of what it computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from icnet.deploy.export.onnx_graph import fold_padding

UNEVEN = [0, 0, 0, 1, 0, 0, 2, 1]  # left 1, bottom 2, right 1


def padded(borders=UNEVEN, value=0.0, mode="constant", second_user="Conv"):
    """A Pad with two users: a 3x3 convolution with its own border, and another one or a Relu."""
    weights = {
        "borders": np.array(borders), "value": np.float32(value),
        "w": np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32),
    }  # fmt: skip
    other = {"kernel_shape": [3, 3], "pads": [0, 0, 0, 0], "strides": [2, 2]} if second_user == "Conv" else {}
    nodes = [
        helper.make_node("Pad", ["x", "borders", "value"], ["p"], mode=mode),
        helper.make_node("Conv", ["p", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 0, 0, 1]),
        helper.make_node(second_user, ["p", "w"] if other else ["p"], ["z"], **other),
    ]
    ports = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 7, 9))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"],
    )
    graph = helper.make_graph(nodes, "small", *ports, [numpy_helper.from_array(a, n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def outputs(model):
    x = np.random.default_rng(1).normal(size=(1, 3, 7, 9)).astype(np.float32)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})


def test_convolutions_take_over_the_zeros_that_are_given_to_them_alone():
    model = padded()
    expected = outputs(model)
    fold_padding(model)
    assert [node.op_type for node in model.graph.node] == ["Conv", "Conv"]
    assert [weight.name for weight in model.graph.initializer] == ["w"]
    for found, wanted in zip(outputs(model), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"value": 1.0}, {"mode": "reflect"}, {"second_user": "Relu"}, {"borders": [0, 1, 0, 0, 0, -1, 0, 0]},
        {"borders": [0, 0, -1, 0, 0, 0, 1, 0]},
    ],
)  # fmt: skip
def test_any_other_padding_stays(other):
    model = padded(**other)
    before = onnx.ModelProto.FromString(model.SerializeToString())
    fold_padding(model)
    assert model == before
