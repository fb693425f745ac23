"""Graphs are held to what the documents of their targets allow, and the message names what to do."""

import onnx
import pytest
from onnx import TensorProto, helper

from icnet import factory
from icnet.config import ExportOptions
from icnet.deploy.export import TARGETS, GraphSpec, export_onnx, export_verified
from icnet.deploy.export.profiles import PROFILES, check_graph
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError


def graph(nodes, image=(1, 3, 8, 8), kind=TensorProto.FLOAT, opset=17, out=TensorProto.FLOAT, weights=()):
    """One input ``x``, one output ``y``, and the types of what is between them."""
    ports = [helper.make_tensor_value_info("x", kind, image)], [helper.make_tensor_value_info("y", out, None)]
    body = helper.make_graph(nodes, "small", *ports, [*weights])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return onnx.shape_inference.infer_shapes(helper.make_model(body, opset_imports=opsets), data_prop=True)


def size(name, *values):
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def resize(sizes="sizes"):
    return helper.make_node("Resize", ["x", "", "", sizes], ["y"], "grow", mode="linear")


RELU = helper.make_node("Relu", ["x"], ["y"], "relu")
COMPUTED = [helper.make_node("Shape", ["x"], ["sizes"], "shape"), resize()]
DOUBLE = [
    helper.make_node("Cast", ["x"], ["wide"], "widen", to=TensorProto.DOUBLE),
    helper.make_node("Cast", ["wide"], ["y"], "narrow", to=TensorProto.FLOAT),
]
BYTES = [
    helper.make_node("Cast", ["x"], ["small"], "bytes", to=TensorProto.UINT8),
    helper.make_node("Cast", ["small"], ["y"], "floats", to=TensorProto.FLOAT),
]
QUANTISED = helper.make_node("QuantizeLinear", ["x", "step"], ["y"], "quantise")
SHIFTED = helper.make_node("QuantizeLinear", ["x", "step", "point"], ["y"], "shifted")
INTO_BYTES = helper.make_node("QuantizeLinear", ["x", "step"], ["b"], "into")
POINT = helper.make_tensor("point", TensorProto.INT8, [], [3])
STEP = helper.make_tensor("step", TensorProto.FLOAT, [], [0.5])
ELSEWHERE = helper.make_node("FusedConv", ["x"], ["y"], "fused", domain="com.microsoft")
GROWN = size("sizes", 1, 3, 9, 9)
OPEN = (1, 3, "height", "width")


@pytest.fixture(scope="module")
def exported(net, normalizer, tmp_path_factory):
    def export(**spec):
        path = tmp_path_factory.mktemp("graph") / "net.onnx"
        export_onnx(net, normalizer, path, GraphSpec(64, 64, **spec))
        return onnx.load(path)

    return export


def test_graph_of_a_network_is_allowed_everywhere(exported):
    model = exported(head="argmax_u8")
    for name in PROFILES:
        check_graph(model, name)


@pytest.mark.slow
def test_uint8_goes_in_everywhere_but_on_ascend_whose_chip_does_it(exported):
    model = exported(head="confidence", normalize=True, opset=11)
    for name in set(PROFILES) - {"ascend"}:
        check_graph(model, name)
    with pytest.raises(UserError, match=r"does not allow the input image of type UINT8 .*; give export.normalize=fa"):
        check_graph(model, "ascend")


@pytest.mark.parametrize(
    ("name", "model", "wrong", "remedy"),
    [
        ("generic", graph([ELSEWHERE]), r"FusedConv \(node fused\) of the domain com.microsoft", "export.profile"),
        ("ascend", graph([RELU], opset=19), "opset 19", "export.opset=18"),
        ("ascend", graph([RELU], opset=8), "opset 8", "export.opset=9"),
        ("ascend", graph([resize()], opset=13, weights=[GROWN]), "Resize .*at opset 13", "opset=12"),
        ("ascend", graph([resize()], opset=18, weights=[GROWN]), "Resize .*at opset 18", "opset=17"),
        ("ascend", graph([RELU], (1, 3, 8, "width")), "open side width of the input x", "export.dynamic_size=false"),
        ("ascend", graph([RELU], ("batch", 3, 8, 8)), "open side batch of the input x", "export.batch a number"),
        ("ascend", graph(COMPUTED), r"Resize \(node grow\) with a computed size", "export.dynamic_size=false"),
        ("ascend", graph([QUANTISED], weights=[STEP]), r"QuantizeLinear \(node quantise\)", "export.precision=fp32"),
        ("ascend", graph(DOUBLE), r"Cast \(node widen\) with the type DOUBLE", "export.profile=generic"),
        ("tensorrt", graph([SHIFTED], weights=[STEP, POINT], out=TensorProto.INT8),
         r"QuantizeLinear \(node shifted\) with another zero point than 0", "export.symmetric=true"),
        ("tensorrt", graph([INTO_BYTES, helper.make_node("DequantizeLinear", ["b", "step"], ["y"])], weights=[STEP]),
         r"QuantizeLinear \(node into\) with the type UINT8", "export.symmetric=true"),
        ("tensorrt", graph([RELU], opset=25), "opset 25", "export.opset=24"),
        ("tensorrt", graph(DOUBLE, OPEN), "Cast .node widen. with the type DOUBLE", "export.dynamic_size=false"),
        ("tensorrt", graph(BYTES), "Cast .node bytes. with the type UINT8", "export.profile=generic"),
        ("tensorrt", graph([helper.make_node("NonZero", ["x"], ["n"]), helper.make_node("Det", ["x"], ["y"])]),
         r"Det \(node y\)", "export.profile=generic"),
        ("browser", graph(DOUBLE, OPEN), "Cast .node widen. with the type DOUBLE", "export.dynamic_size=false"),
    ],
)  # fmt: skip
def test_what_a_document_lacks_is_refused_with_the_option_that_avoids_it(name, model, wrong, remedy):
    with pytest.raises(UserError, match=rf"^export.profile={name} does not allow .*{wrong} .*; give .*{remedy}"):
        check_graph(model, name)


def test_graphs_inside_nodes_are_looked_at():
    inner = helper.make_graph(DOUBLE, "inner", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    choose = helper.make_node("If", ["sure"], ["y"], "choose", then_branch=inner, else_branch=inner)
    sure = helper.make_tensor("sure", TensorProto.BOOL, [], [True])
    with pytest.raises(UserError, match="node widen"):
        check_graph(graph([choose], weights=[sure]), "browser")


def test_constants_inside_the_graph_are_no_computed_sizes():
    constant = helper.make_node("Constant", [], ["sizes"], value=size("", 1, 3, 9, 9))
    check_graph(graph([constant, resize()]), "ascend")


@pytest.mark.parametrize(
    ("target", "spec", "message"),
    [
        ("onnx", {"dynamic_size": True, "profile": "browser"}, "export.profile=browser .*DOUBLE.*dynamic_size=false"),
        pytest.param(
            "om", {"opset": 18, "profile": "ascend"}, "export.profile=ascend .*Resize.*opset=17", marks=pytest.mark.slow
        ),
        ("om", {"profile": "browser"}, "export.profile=browser is not for export.target=om; give ascend or generic"),
        ("pt2", {"profile": "tensorrt"}, "export.profile=tensorrt is not for export.target=pt2; give generic"),
    ],
)
def test_nothing_is_written_of_a_graph_that_is_not_allowed(checkpoint, tmp_path, target, spec, message):
    path = tmp_path / f"net{TARGETS[target].suffix}"
    with pytest.raises(UserError, match=message):
        export_verified(read_network(checkpoint), path, GraphSpec(64, 64, **spec), target=target)
    assert not list(tmp_path.iterdir())


def test_int8_that_a_profile_does_not_allow_is_refused_before_anything_is_calibrated():
    for profile, symmetric in (("ascend", False), ("ascend", True), ("tensorrt", False)):
        with pytest.raises(UserError, match=f"^export.profile={profile} does not allow export.precision=int8") as e:
            GraphSpec(profile=profile, precision="int8", symmetric=symmetric)
        assert ("leave export.symmetric out" in str(e.value)) is (profile == "tensorrt")  # only where it helps
    for profile, given, wanted in (
        ("tensorrt", None, True), ("tensorrt", True, True), ("generic", None, False), ("browser", True, True),
    ):  # fmt: skip
        options = ExportOptions(profile=profile, precision="int8", symmetric=given)
        assert factory.graph_spec(options).symmetric is wanted


def test_ascend_is_implied_by_its_target():
    assert [kind.profiles[0] for kind in TARGETS.values()] == ["generic", "generic", "generic", "ascend"]
    assert set(TARGETS["onnx"].profiles) == set(PROFILES)
    with pytest.raises(UserError, match="export.profile=phone is unknown; choose one of generic, cpu, ascend"):
        GraphSpec(profile="phone")
