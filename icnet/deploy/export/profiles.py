"""What the documents of those that take ONNX files allow, and the check of a graph against it before it is written.

A profile says what is written there, which is not that the file runs: only that nothing in it is known not to.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from icnet.errors import UserError

QUANTISED = ("QuantizeLinear", "DequantizeLinear")
STANDARD = ("", "ai.onnx")  # the two names of the domain of ONNX's own operators
NEWEST = 99  # of opsets: no limit is told

# https://www.hiascend.com/document/detail/zh/canncommercial/800/apiref/aolapi/operatorlist_00176.html, of those with an
# operator of ONNX of that name.
ASCEND_OPERATORS = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift BitwiseAnd BitwiseNot
BitwiseOr BitwiseXor Cast Ceil Celu Clip Compress Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
DepthToSpace Det Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND
Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish Hardmax
Identity If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
LpNormalization LpPool MatMul Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mod Mul Multinomial
Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow RandomNormal RandomNormalLike RandomUniform RandomUniformLike
Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round Scatter ScatterElements ScatterND Selu Shape Shrink
Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub
Sum Tan Tanh TfIdfVectorizer ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
ASCEND_OPSETS = range(9, 19)  # .../canncommercial/700/inferapplicationdev/atctool/atlasatc_16_0201.html: v9 to v18
# .../canncommercial/80RC3/apiref/aolapi/atlasoxol_09_0131.html, which leaves out 13; its sizes have to be constants.
ASCEND_RESIZE = (10, 11, 12, 14, 15, 16, 17)

# https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md (TensorRT 10.15): those with Y.
TENSORRT_OPERATORS = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BlackmanWindow Cast
CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace
DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND
Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization
HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear
RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid
Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh TensorScatter
ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
TENSORRT_OPSETS = range(9, 25)

FLOATS = ("FLOAT", "FLOAT16")
INTEGERS = ("INT32", "INT64", "BOOL")


@dataclass(frozen=True)
class Profile:
    """What a target allows; types are called as in ``onnx.TensorProto``.

    Args:
        source: Where that is written.
        opsets: Of the whole graph.
        operators: The opsets at which each operator is known; None for all that ONNX has.
        types: Of tensors; none for all.
        port_types: Of the graph's inputs and outputs beside ``types``, and of nothing between them.
        input_types: Of its inputs; none for all.
        static: Whether the sides of the inputs have to be numbers, and sizes that Resize is given constants.
        zero_points: Whether those of quantised tensors may be others than 0.
        labels_at_borders: Whether labels are interpolated only where they meet, see ``label_at_borders``: inside the
            graph are then sizes and a time that depend on the picture.
    """

    source: str
    opsets: range = range(1, NEWEST)
    operators: Mapping[str, Collection[int]] | None = None
    types: tuple[str, ...] = ()
    port_types: tuple[str, ...] = ()
    input_types: tuple[str, ...] = ()
    static: bool = False
    zero_points: bool = True
    labels_at_borders: bool = False

    def takes_int8(self, *, symmetric: bool) -> bool:
        """Tell whether a quantised graph is allowed, without zero points or with them."""
        known = self.operators is None or all(operator in self.operators for operator in QUANTISED)
        return known and (self.zero_points or symmetric)


PROFILES = {
    "generic": Profile("https://onnx.ai/onnx/operators"),
    "cpu": Profile("https://onnx.ai/onnx/operators", labels_at_borders=True),
    "ascend": Profile(
        "https://www.hiascend.com/document/detail/zh/canncommercial/800/apiref/aolapi/operatorlist_00176.html",
        ASCEND_OPSETS,
        dict.fromkeys(ASCEND_OPERATORS.split(), ASCEND_OPSETS) | {"Resize": ASCEND_RESIZE},
        (*FLOATS, *INTEGERS, "INT8", "UINT8"),
        # .../mindstudio/500/msug/msug_000399.html: uint8 by AIPP alone, which is no part of the graph
        input_types=FLOATS,
        static=True,
    ),
    "tensorrt": Profile(
        "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md",
        TENSORRT_OPSETS,
        dict.fromkeys(TENSORRT_OPERATORS.split(), TENSORRT_OPSETS),
        (*FLOATS, "BFLOAT16", *INTEGERS, "INT8"),  # DOUBLE, of limited support, is no type of any operator there
        port_types=("UINT8",),
        zero_points=False,
    ),
    # All of ONNX Runtime's operators, compiled to WebAssembly, of which Cast knows no float64 (1.30.0: web/README.md).
    "browser": Profile(
        "https://www.npmjs.com/package/onnxruntime-web", types=(*FLOATS, *INTEGERS, "INT8", "UINT8")
    ),
}  # fmt: skip
"""The profiles by the name of ``export.profile``."""


def check_graph(model: Any, name: str) -> None:
    """Refuse a graph with anything that a target does not allow.

    Args:
        model: ``onnx.ModelProto`` with the types of all tensors in it.
        name: A key of ``PROFILES``.

    Raises:
        UserError: Naming the first operator that is not allowed, its node, and what avoids it.
    """
    profile = PROFILES[name]
    opset = next(entry.version for entry in model.opset_import if entry.domain in STANDARD)
    for wrong, remedy in _violations(model, profile, opset):
        raise UserError(f"export.profile={name} does not allow {wrong} ({profile.source}); give {remedy}")


def _violations(model: Any, profile: Profile, opset: int) -> Iterator[tuple[str, str]]:
    """Yield what is not allowed, and the option that avoids it."""
    if opset not in profile.opsets:
        yield f"opset {opset}", _other_opset(profile.opsets, opset)
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    otherwise = "export.profile=generic, which leaves it to the target"
    for value in inputs:
        kind = _type_name(value.type.tensor_type.elem_type)
        if profile.input_types and kind not in profile.input_types:
            yield f"the input {value.name} of type {kind}", "export.normalize=false"
        for number, side in enumerate(value.type.tensor_type.shape.dim):
            if profile.static and not side.HasField("dim_value"):
                remedy = "export.batch a number" if number == 0 else "export.dynamic_size=false"
                yield f"the open side {side.dim_param or number} of the input {value.name}", remedy
                otherwise = "export.dynamic_size=false"
    if any(not side.HasField("dim_value") for value in inputs for side in value.type.tensor_type.shape.dim[2:]):
        otherwise = "export.dynamic_size=false"
    ports = {value.name for value in (*inputs, *model.graph.output)}
    constants = set(weights)
    shifted = {weight.name for weight in model.graph.initializer if _is_shifted(weight)}
    for graph in _graphs(model.graph):
        types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *inputs, *graph.output)}
        types |= {weight.name: weight.data_type for weight in graph.initializer}
        constants |= {weight.name for weight in graph.initializer}
        for node in graph.node:
            shown = f"the operator {node.op_type} (node {node.name or node.output[0]})"
            quantised = node.op_type in QUANTISED
            remedy = "export.precision=fp32" if quantised else otherwise
            if node.op_type == "Constant":
                constants.add(node.output[0])
            if node.domain not in STANDARD:
                yield f"{shown} of the domain {node.domain}", remedy
            elif profile.operators is not None and node.op_type not in profile.operators:
                yield shown, remedy
            elif profile.operators is not None and opset not in profile.operators[node.op_type]:
                yield f"{shown} at opset {opset}", _other_opset(profile.operators[node.op_type], opset)
            for tensor in (*node.input, *node.output):
                kind = _type_name(types.get(tensor, 0))
                known = not profile.types or kind in ("UNDEFINED", *profile.types)
                if not known and not (tensor in ports and kind in profile.port_types):
                    yield f"{shown} with the type {kind}", "export.symmetric=true" if quantised else otherwise
            if not profile.zero_points and quantised and shifted & set(node.input[2:]):
                yield f"{shown} with another zero point than 0", "export.symmetric=true"
            if profile.static and node.op_type == "Resize":
                computed = [tensor for tensor in node.input[1:] if tensor and tensor not in constants]
                if computed:
                    yield f"{shown} with a computed size", "export.dynamic_size=false"


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _other_opset(allowed: Collection[int], opset: int) -> str:
    """Say which opset is allowed: the newest that is older, or else the oldest."""
    older = [one for one in allowed if one < opset]
    return f"export.opset={max(older) if older else min(allowed)}"


def _is_shifted(weight: Any) -> bool:
    """Tell whether a constant of 8-bit integers, which may be a zero point, is not zero everywhere."""
    from onnx import TensorProto, numpy_helper

    return weight.data_type in (TensorProto.INT8, TensorProto.UINT8) and bool(numpy_helper.to_array(weight).any())


def _type_name(number: int) -> str:
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(number))
