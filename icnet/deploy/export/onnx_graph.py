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


def convert(model: Any, opset: int) -> Any:
    """Return the model at a newer opset."""
    return import_onnx().version_converter.convert_version(model, opset)


def to_float16(model: Any) -> Any:
    """Return the model in float16, by ONNX Runtime's converter; inputs, outputs and every Resize stay in float32."""
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
        if all(dim.HasField("dim_value") for dim in dims):
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
