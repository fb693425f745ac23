"""Tidying a traced ONNX graph: shape arithmetic computed, opset raised, everything checked."""

from typing import Any

import numpy as np

from icnet.errors import UserError


def newest_opset() -> int:
    """Return the newest opset that the installed onnx writes.

    Raises:
        UserError: If onnx is missing.
    """
    return int(import_onnx().defs.onnx_opset_version())


def import_onnx() -> Any:
    """Return the package ``onnx`` with the parts that an export takes.

    Raises:
        UserError: If onnx is missing.
    """
    try:
        import onnx
        import onnx.reference
        import onnx.version_converter
    except ImportError as error:
        raise UserError("the export takes onnx; run 'pip install onnx onnxruntime'") from error
    return onnx


def compute_shapes(model: Any) -> None:
    """Replace all arithmetic on known shapes by its result, in place.

    The exporter leaves chains like Shape-Slice-Concat before every Resize even where all sizes are fixed; converters
    for NPUs want to see constants there.
    """
    before = -1
    while before != len(model.graph.node):  # a Resize with a constant size lets the next pass know the shape behind it
        before = len(model.graph.node)
        _compute_shapes_once(model)


def fold_padding(model: Any) -> None:
    """Let convolutions pad by themselves what a Pad with zeros gives to nothing but them, in place.

    Networks whose strides keep TensorFlow's borders pad one side more than the other, for which torch has no
    convolution and ONNX has. Runtimes then fuse and quantise it like any other.
    """
    constants = {weight.name: weight for weight in model.graph.initializer}
    results = {value.name for value in model.graph.output}
    kept = []
    for node in model.graph.node:
        users = [other for other in model.graph.node if node.op_type == "Pad" and node.output[0] in other.input]
        borders = _zero_borders(node, constants) if users and node.output[0] not in results else None
        if borders is None or not all(_can_pad(user, node.output[0]) for user in users):
            kept.append(node)
            continue
        for user in users:
            (pads,) = (attribute for attribute in user.attribute if attribute.name == "pads")
            pads.ints[:] = [own + more for own, more in zip(pads.ints, borders, strict=True)]
            user.input[0] = node.input[0]
    used = {name for node in kept for name in node.input}
    weights = [weight for weight in model.graph.initializer if weight.name in used]
    del model.graph.node[:], model.graph.value_info[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(weights)


def convert(model: Any, opset: int) -> Any:
    """Return the model at a newer opset."""
    return import_onnx().version_converter.convert_version(model, opset)


def to_float16(model: Any) -> Any:
    """Return the model in float16, by ONNX Runtime's converter; inputs and outputs stay as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    converted.topological_sort()  # its casts stand at the end
    del converted.model.graph.value_info[:]
    return converted.model


def complete(model: Any) -> Any:
    """Check the model as strictly as onnx can and return it with the shapes of everything inside."""
    onnx = import_onnx()
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def _zero_borders(pad: Any, constants: dict[str, Any]) -> list[int] | None:
    """Return [top, left, bottom, right] of zeros that a Pad puts around (N, C, H, W); None if it does anything else."""
    onnx = import_onnx()
    if any(attribute.s != b"constant" for attribute in pad.attribute) or pad.input[1] not in constants:
        return None
    if any(name for name in pad.input[3:]):  # axes of its own
        return None
    value = pad.input[2] if len(pad.input) > 2 else ""
    if value and (value not in constants or onnx.numpy_helper.to_array(constants[value]).any()):
        return None
    borders = onnx.numpy_helper.to_array(constants[pad.input[1]]).tolist()
    if len(borders) != 8 or min(borders) < 0 or any(borders[axis] for axis in (0, 1, 4, 5)):
        return None
    return [*borders[2:4], *borders[6:]]


def _can_pad(node: Any, tensor: str) -> bool:
    """Tell whether a node is a convolution of the tensor that says its borders in numbers."""
    names = [attribute.name for attribute in node.attribute]
    is_conv = node.op_type == "Conv" and node.input[0] == tensor and tensor not in node.input[1:]
    return is_conv and "pads" in names and "auto_pad" not in names


def _compute_shapes_once(model: Any) -> None:
    onnx = import_onnx()
    # Weights become inputs here: their values say nothing about shapes, and 100 MB would be copied at every pass.
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.INT64:
            light.graph.initializer.append(weight)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    graph = onnx.shape_inference.infer_shapes(light, strict_mode=True, data_prop=True).graph
    shapes = {}
    for value in (*graph.input, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = np.array([dim.dim_value for dim in dims], np.int64)
    weights = {weight.name: weight for weight in model.graph.initializer}
    known = {
        name: onnx.numpy_helper.to_array(weight)
        for name, weight in weights.items()
        if weight.data_type == onnx.TensorProto.INT64  # sizes that an earlier pass computed
    }
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Shape" and node.input[0] in shapes:
            known[node.output[0]] = shapes[node.input[0]]
        elif node.input and all(name in known for name in node.input if name):
            body = onnx.helper.make_graph(
                [node],
                "one_node",
                [],
                [onnx.helper.make_empty_tensor_value_info(name) for name in node.output],
                [onnx.numpy_helper.from_array(known[name], name) for name in node.input if name],
            )
            one_node = onnx.helper.make_model(body, opset_imports=model.opset_import)
            results = onnx.reference.ReferenceEvaluator(one_node).run(None, {})
            known.update(zip(node.output, map(np.asarray, results), strict=True))
        else:
            kept.append(node)
    used = {name for node in kept for name in node.input}
    computed = [onnx.numpy_helper.from_array(known[name], name) for name in used & (known.keys() - weights.keys())]
    remaining = [weight for name, weight in weights.items() if name in used]
    del model.graph.node[:], model.graph.value_info[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend([*remaining, *sorted(computed, key=lambda tensor: tensor.name)])
