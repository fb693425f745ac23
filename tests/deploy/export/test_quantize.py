"""int8: the graph by hand where no NNCF is needed, real networks where it is installed."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from icnet.data.images import read_image
from icnet.deploy.export import GraphSpec
from icnet.deploy.export.onnx_export import build_onnx
from icnet.deploy.export.onnx_graph import complete
from icnet.deploy.export.quantize import _with_one_type, import_nncf, layers_in_float, quantize, quantize_within
from icnet.errors import UserError


def graph(step: float, zero: np.generic) -> onnx.ModelProto:
    """x, quantized and back; then times a matrix whose int8 is dequantized by column."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"], "d"),
        helper.make_node("DequantizeLinear", ["w", "steps", "zeros"], ["m"], "m", axis=1),
        helper.make_node("MatMul", ["d", "m"], ["y"], "layer"),
        helper.make_node("MatMul", ["y", "f"], ["z"], "floating"),
    ]
    constants = {
        "step": np.float32(step), "zero": zero, "w": np.array([[1, 2], [3, 4]], np.int8),
        "steps": np.array([1, 10], np.float32), "zeros": np.zeros(2, np.int8), "f": np.eye(2, dtype=np.float32),
    }  # fmt: skip
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xz"]
    made = helper.make_graph(
        nodes, "by hand", ports[:1], ports[1:],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}


def result(model: onnx.ModelProto, *values: float) -> list[float]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array([values], np.float32)})[0][0].tolist()


def test_signed_activations_become_unsigned_with_the_same_values():
    model = graph(0.5, np.int8(-28))  # from (-128 + 28) / 2 = -50 to (127 + 28) / 2 = 77.5
    wanted = [[-50 + 3 * 77.5, 20 * -50 + 40 * 77.5], [1 + 3 * 2.5, 20 + 40 * 2.5]]
    assert [result(model, -60, 90), result(model, 1.1, 2.6)] == wanted
    changed = _with_one_type(model, symmetric=False)
    onnx.checker.check_model(changed, full_check=True)
    assert (constants(changed)["zero"], constants(changed)["zero"].dtype) == (100, np.uint8)
    assert constants(changed)["zeros"].dtype == np.int8  # the weights' stay
    assert [result(changed, -60, 90), result(changed, 1.1, 2.6)] == wanted


def test_unsigned_activations_become_symmetric_over_the_same_range():
    changed = _with_one_type(graph(127 / 255, np.uint8(0)), symmetric=True)  # 0 to 127
    onnx.checker.check_model(changed, full_check=True)
    assert (constants(changed)["zero"], constants(changed)["zero"].dtype) == (0, np.int8)
    assert constants(changed)["step"] == pytest.approx(1, abs=1e-6)
    assert result(changed, 200, 2.2) == pytest.approx([127 + 3 * 2, 20 * 127 + 40 * 2], rel=1e-6)


def test_layer_is_in_float_where_nothing_that_it_takes_was_in_int8():
    assert layers_in_float(graph(1, np.int8(0))) == ["floating"]


def test_missing_nncf_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(UserError, match="int8 takes nncf; run 'pip install nncf'"):
        import_nncf()


def test_importing_nncf_leaves_its_telemetry_out():
    if find_spec("nncf") is None:
        pytest.skip("needs nncf")
    code = "import sys; from icnet.deploy.export.quantize import import_nncf; import_nncf(); " + (
        "assert sys.modules['openvino_telemetry'] is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # a process of its own: others here may have imported it


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    import cv2

    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(4):
        coarse = generator.integers(0, 256, (6, 10, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(coarse, (160, 96)))
    return sorted(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["icnet", "icnet_lite0"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_network_in_int8_gives_nearly_the_same_labels(make_net, images, tmp_path, name, symmetric):
    pytest.importorskip("nncf")
    net = make_net(name=name)
    normalizer = net.normalizer()
    model = build_onnx(net, normalizer, GraphSpec(96, 160))

    def prepare(path):
        return normalizer(torch.from_numpy(read_image(path)).permute(2, 0, 1)[None]).numpy()

    before = model.SerializeToString()
    made = quantize(model, images, prepare, symmetric=symmetric)
    assert model.SerializeToString() == before
    made = complete(made)
    found = constants(made)
    scales = {}
    for node in made.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scales.setdefault(node.input[0] in found, []).append((found[node.input[1]], found[node.input[2]]))
    for step, zero in scales[False]:  # activations
        assert step.ndim == 0
        assert zero.dtype == (np.int8 if symmetric else np.uint8)
        assert not (symmetric and zero.any())
    producers = {node.output[0]: node for node in made.graph.node}
    for node in made.graph.node:
        if node.op_type == "Conv":
            weights, step = (found[name] for name in producers[node.input[1]].input[:2])
            assert step.shape == weights.shape[:1]  # a scale for each channel
            if weights.shape[1] > 1:  # depthwise layers add no products in pairs
                assert np.abs(weights).max() <= 64
    assert layers_in_float(made) == []
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    shares = []
    for path in images:
        x = prepare(path)
        expected = net(torch.from_numpy(x)).argmax(1).numpy()
        shares.append((session.run(None, {"image": x})[0].argmax(1) == expected).mean())
    assert np.mean(shares) > 0.85  # of an untrained network, whose scores lie close together


def three_layers() -> onnx.ModelProto:
    """A layer "wide" gives channel 0 up to 1000 and channel 1 up to 1; "fine" tells by channel 1, "easy" by the image.

    One scale for both channels has steps of 4, which leave nothing of channel 1: in int8 "fine" sees zeros.
    """
    weights = {
        "w1": [[1000, 0, 0], [0, 1, 0]], "w2": [[0, 1], [0, 0]], "w3": [[0, 0, 0], [0, 0, 0.5]],
    }  # fmt: skip
    constants = [
        numpy_helper.from_array(np.array(value, np.float32)[:, :, None, None], name) for name, value in weights.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], "wide", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "fine", kernel_shape=[1, 1]),
        helper.make_node("Conv", ["image", "w3"], ["d"], "easy", kernel_shape=[1, 1]),
        helper.make_node("Add", ["c", "d"], ["y"], "sum"),
    ]
    ports = [helper.make_tensor_value_info(*port) for port in (
        ("image", TensorProto.FLOAT, [1, 3, 8, 8]), ("y", TensorProto.FLOAT, [1, 2, 8, 8]),
    )]  # fmt: skip
    made = helper.make_graph(nodes, "by hand", ports[:1], ports[1:], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_layer_that_costs_most_stays_in_float():
    pytest.importorskip("nncf")
    model = three_layers()
    pixels = np.random.default_rng(0).uniform(0, 1, (3, 1, 3, 8, 8)).astype(np.float32)
    pixels[:, 0, 0, 0, 0] = 1

    def labels(graph, position):
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"image": pixels[position]})[0].argmax(1)

    def validate(graph, positions):
        shares = [float((labels(graph, one) == labels(model, one)).mean()) for one in positions]
        return sum(shares) / len(shares), shares

    every = quantize(model, range(3), lambda position: pixels[position])
    assert layers_in_float(every) == []
    assert validate(every, [0, 1, 2])[0] < 0.8
    made = quantize_within(model, range(3), lambda position: pixels[position], 3, validate, 0.05)
    assert "fine" in layers_in_float(made)
    assert "easy" not in layers_in_float(made)
    assert validate(made, [0, 1, 2])[0] >= 0.95
